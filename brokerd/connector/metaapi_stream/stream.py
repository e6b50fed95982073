"""MetaApi's stream as the connector's `StreamPort`: sessions, each a connection of the SDK.

A link's connection is opened again only after its old close returned: the SDK keys everything by
account id, and a late close would tear the new connection down (sdk.md B7). So a session that is
closed goes on closing in the background, and the next `open` of its account waits for that. A close
that does not come to an end counts against its client, which is replaced (clients.py); the account
is taken away from it, so that a close which ends after all has nothing to say.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from metaapi_cloud_sdk.metaapi.streaming_metaapi_connection_instance import (
    StreamingMetaApiConnectionInstance,
)

from brokerd.config.settings import MetaApiSettings
from brokerd.connector.governor.pace import Pace
from brokerd.connector.metaapi_stream.buffer import EventBuffer
from brokerd.connector.metaapi_stream.client import StreamClient
from brokerd.connector.metaapi_stream.clients import Clients
from brokerd.connector.metaapi_stream.dismantle import cancel_leftovers
from brokerd.connector.metaapi_stream.listener import StreamListener
from brokerd.connector.metaapi_stream.overrides.process import prepare_process
from brokerd.connector.metaapi_stream.parts import ClientParts, StreamPorts
from brokerd.connector.metaapi_stream.sdk import check_sdk
from brokerd.connector.metaapi_stream.session import StreamSession
from brokerd.connector.ports import RemoteAccount
from brokerd.domain import MetaApiRef
from brokerd.errors import BrokerdError, InvalidRequest, LinkLost, RemoteUnavailable, TimedOut

CLOSE_SECONDS = 1.0
"""How long a session's close waits for its server; it goes on in the background."""
STUCK_CLOSE_SECONDS = 20.0
"""How long an open waits for its account's last close: longer than a close is taken for stuck."""


_Key = tuple[str, str]
"""A token's name and an account id: what the SDK holds only once, in whichever region."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Connection:
    """One connection of the SDK, and the task that connects it."""

    client: StreamClient
    account_id: str
    sdk: StreamingMetaApiConnectionInstance
    connecting: asyncio.Task[None]

    async def leave(self) -> None:
        """Close it; the SDK cannot close what is still connecting."""
        await asyncio.wait({self.connecting})
        await self.client.leave(self.sdk, account_id=self.account_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Closing:
    """A close under way."""

    client: StreamClient
    task: asyncio.Task[None]
    since: float


class MetaApiStream:
    """`StreamPort` on the contained SDK. Must be made and closed inside the running loop.

    `tend` is to be called every few seconds. `connections_made` counts what leaks by nature.
    """

    def __init__(
        self, settings: MetaApiSettings, *, overlap_seconds: float, ports: StreamPorts
    ) -> None:
        """Check the SDK; raises `ConfigInvalid` when it is not the one we contain."""
        check_sdk()
        prepare_process()
        self.connections_made = 0
        self._settings = settings
        self._overlap_seconds = overlap_seconds
        self._ports = ports
        self._admissions = Pace(per_second=settings.admissions_per_second)
        self._parts = ClientParts(
            settings=settings,
            ports=ports,
        )
        self._clients = Clients(
            make=self._make_client,
            longest_close_seconds=self._longest_close_seconds,
            connect_seconds=settings.connect_timeout_seconds,
            clock=ports.clock,
            metrics=ports.metrics,
        )
        self._sessions: dict[_Key, StreamSession | None] = {}
        self._closing: dict[_Key, _Closing] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<MetaApiStream {len(self._sessions)} sessions, {self._clients!r}>"

    async def open(
        self, remote: MetaApiRef, *, account: RemoteAccount, synced_through: datetime
    ) -> StreamSession:
        """Open the session; returns before its terminal answered. See `StreamPort`."""
        key = (remote.token, remote.account_id)
        await self._await_close(key)
        if key in self._sessions:
            raise LinkLost(f"MetaApi account {remote.account_id} already has a session")
        self._sessions[key] = None
        try:
            await self._admissions.turn()
            self._check_open()
            session = await self._connect(remote, account, synced_through)
        except BaseException:
            del self._sessions[key]
            raise
        self._sessions[key] = session
        return session

    async def tend(self) -> None:
        """Replace clients that are wedged, dismantle those that are done with; never raises."""
        for close in self._clients.review():
            await close()

    async def close(self) -> None:
        """End all sessions and clients in bounded time; never raises."""
        self._is_closed = True
        for session in self._sessions.values():
            if session is not None:
                session.end()
        clients = self._clients.all
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.close(), name="dismantle")
        await cancel_leftovers(calls=[client.calls for client in clients])

    async def _connect(
        self, remote: MetaApiRef, account: RemoteAccount, synced_through: datetime
    ) -> StreamSession:
        key = (remote.token, remote.account_id)
        buffer = EventBuffer(limit=self._settings.session_buffer_events)
        listener = StreamListener(
            buffer,
            synced_through=synced_through,
            overlap_seconds=self._overlap_seconds,
            clock=self._ports.clock,
        )
        client = self._client(key)
        client.calls.check_room()
        sdk = client.connection(account, region=remote.region, listener=listener)
        self.connections_made += 1
        self._ports.metrics.connections.inc()
        connection = _Connection(
            client=client,
            account_id=remote.account_id,
            sdk=sdk,
            connecting=client.calls.start(sdk.connect(), name=f"sdk-connect:{remote.account_id}"),
        )
        try:
            await client.calls.wait(
                connection.connecting, limit_seconds=self._settings.connect_timeout_seconds
            )
        except BrokerdError:
            self._leave(key, connection)
            raise
        except asyncio.CancelledError:
            self._leave(key, connection)
            raise
        except Exception as error:  # noqa: BLE001  # the SDK raises bare Exceptions
            self._leave(key, connection)
            raise RemoteUnavailable(f"the SDK did not connect: {type(error).__name__}") from None
        return StreamSession(buffer, listener=listener, leave=lambda: self._end(key, connection))

    def _client(self, key: _Key) -> StreamClient:
        """Return the client to open an account on; takes it from one that cannot close it."""
        client = self._clients.of(key[0])
        closing = self._closing.get(key)
        if closing is not None:
            if closing.client is client:
                raise TimedOut(f"the last session of account {key[1]} is still closing")
            closing.client.forget(key[1])
        return client

    def _make_client(self, token: str) -> StreamClient:
        secret = self._settings.tokens.get(token)
        if secret is None:
            raise InvalidRequest(f"no MetaApi token is configured under the name {token!r}")
        return StreamClient(secret, name=token, parts=self._parts)

    async def _await_close(self, key: _Key) -> None:
        closing = self._closing.get(key)
        if closing is not None:
            await asyncio.wait({closing.task}, timeout=STUCK_CLOSE_SECONDS)

    def _longest_close_seconds(self, client: StreamClient) -> float:
        now = self._ports.clock.monotonic()
        closing = (each for each in self._closing.values() if each.client is client)
        return max((now - each.since for each in closing), default=0.0)

    def _leave(self, key: _Key, connection: _Connection) -> asyncio.Task[None]:
        client = connection.client
        closing = _Closing(
            client=client,
            task=client.calls.start(connection.leave(), name=f"sdk-close:{key[1]}"),
            since=self._ports.clock.monotonic(),
        )
        self._closing[key] = closing

        def forget(_: object) -> None:
            if self._closing.get(key) is closing:
                del self._closing[key]

        closing.task.add_done_callback(forget)
        return closing.task

    async def _end(self, key: _Key, connection: _Connection) -> None:
        if self._sessions.pop(key, None) is None or self._is_closed:
            return
        await asyncio.wait({self._leave(key, connection)}, timeout=CLOSE_SECONDS)

    def _check_open(self) -> None:
        if self._is_closed:
            raise LinkLost("the stream is closed")
