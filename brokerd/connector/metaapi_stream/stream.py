"""MetaApi's stream as the connector's `StreamPort`: sessions, each a connection of the SDK.

A link's connection is opened again only after its old close returned: the SDK keys everything by
account id, and a late close would tear the new connection down (sdk.md B7). So a session that is
closed goes on closing in the background, and the next `open` of its account waits for that.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from metaapi_cloud_sdk.metaapi.streaming_metaapi_connection_instance import (
    StreamingMetaApiConnectionInstance,
)

from brokerd.config.settings import MetaApiSettings
from brokerd.connector.governor.pace import Pace
from brokerd.connector.metaapi_stream import overrides
from brokerd.connector.metaapi_stream.buffer import EventBuffer
from brokerd.connector.metaapi_stream.calls import Calls
from brokerd.connector.metaapi_stream.client import ClientParts, StreamClient, StreamPorts
from brokerd.connector.metaapi_stream.dismantle import cancel_leftovers
from brokerd.connector.metaapi_stream.listener import StreamListener
from brokerd.connector.metaapi_stream.sdk import check_sdk
from brokerd.connector.metaapi_stream.session import StreamSession
from brokerd.domain import MetaApiRef
from brokerd.errors import BrokerdError, InvalidRequest, LinkLost, RemoteUnavailable, TimedOut

CLOSE_SECONDS = 1.5
"""How long a session's close waits for its server; it goes on in the background."""


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


class MetaApiStream:
    """`StreamPort` on the contained SDK. Must be made and closed inside the running loop."""

    def __init__(
        self, settings: MetaApiSettings, *, overlap_seconds: float, ports: StreamPorts
    ) -> None:
        """Check the SDK; raises `ConfigInvalid` when it is not the one we contain."""
        check_sdk()
        overrides.prepare_process()
        self._settings = settings
        self._overlap_seconds = overlap_seconds
        self._ports = ports
        self._calls = Calls(metrics=ports.metrics)
        self._admissions = Pace(per_second=settings.admissions_per_second)
        self._socket_opens = Pace(per_second=settings.socket_opens_per_second)
        self._clients: dict[str, StreamClient] = {}
        self._sessions: dict[_Key, StreamSession | None] = {}
        self._closing: dict[_Key, asyncio.Task[None]] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<MetaApiStream {len(self._sessions)} sessions, {self._calls!r}>"

    async def open(
        self, remote: MetaApiRef, *, reliability: str, synced_through: datetime
    ) -> StreamSession:
        """Open the session; returns before its terminal answered. See `StreamPort`."""
        key = (remote.token, remote.account_id)
        await self._await_close(key)
        if key in self._sessions:
            raise LinkLost(f"MetaApi account {remote.account_id} already has a session")
        self._sessions[key] = None
        try:
            await self._admissions.turn()
            self._calls.check_room()
            self._check_open()
            session = await self._connect(remote, reliability, synced_through)
        except BaseException:
            del self._sessions[key]
            raise
        self._sessions[key] = session
        return session

    async def close(self) -> None:
        """End all sessions and clients in bounded time; never raises."""
        self._is_closed = True
        for session in self._sessions.values():
            if session is not None:
                session.end()
        async with asyncio.TaskGroup() as group:
            for token, client in self._clients.items():
                group.create_task(client.close(), name=f"dismantle:{token}")
        await cancel_leftovers(calls=self._calls)

    async def _connect(
        self, remote: MetaApiRef, reliability: str, synced_through: datetime
    ) -> StreamSession:
        key = (remote.token, remote.account_id)
        buffer = EventBuffer(limit=self._settings.session_buffer_events)
        listener = StreamListener(
            buffer,
            synced_through=synced_through,
            overlap_seconds=self._overlap_seconds,
            clock=self._ports.clock,
        )
        client = self._client(remote.token)
        sdk = client.connection(remote, reliability=reliability, listener=listener)
        name = f"sdk-connect:{remote.account_id}"
        connection = _Connection(
            client=client,
            account_id=remote.account_id,
            sdk=sdk,
            connecting=self._calls.start(sdk.connect(), name=name),
        )
        try:
            await self._calls.wait(
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

    def _client(self, token: str) -> StreamClient:
        """Return the token's one client, made at its first use."""
        if token not in self._clients:
            secret = self._settings.tokens.get(token)
            if secret is None:
                raise InvalidRequest(f"no MetaApi token is configured under the name {token!r}")
            parts = ClientParts(
                settings=self._settings,
                calls=self._calls,
                socket_opens=self._socket_opens,
                ports=self._ports,
            )
            self._clients[token] = StreamClient(secret, parts=parts)
        return self._clients[token]

    async def _await_close(self, key: _Key) -> None:
        closing = self._closing.get(key)
        if closing is None:
            return
        await asyncio.wait({closing}, timeout=self._settings.connect_timeout_seconds)
        if not closing.done():
            raise TimedOut(f"the last session of account {key[1]} is still closing")

    def _leave(self, key: _Key, connection: _Connection) -> asyncio.Task[None]:
        closing = self._calls.start(connection.leave(), name=f"sdk-close:{key[1]}")
        self._closing[key] = closing
        closing.add_done_callback(lambda _: self._closing.pop(key, None))
        return closing

    async def _end(self, key: _Key, connection: _Connection) -> None:
        if self._sessions.pop(key, None) is None or self._is_closed:
            return
        await asyncio.wait({self._leave(key, connection)}, timeout=CLOSE_SECONDS)

    def _check_open(self) -> None:
        if self._is_closed:
            raise LinkLost("the stream is closed")
