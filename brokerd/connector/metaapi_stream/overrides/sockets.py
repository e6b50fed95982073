"""Overrides of a socket's life: opened in turn, watched, read sparingly, lost and reopened."""
# ruff: noqa: SLF001  # the SDK has no public way to any of this; sdk.py checks the names

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from json import JSONDecodeError
from math import inf
from typing import Protocol

import aiohttp
import engineio.exceptions
from metaapi_cloud_sdk.clients.metaapi.metaapi_websocket_client import MetaApiWebsocketClient

from brokerd.clock import Clock
from brokerd.connector.metaapi_stream.calls import Calls
from brokerd.connector.metaapi_stream.overrides.replacing import replace
from brokerd.connector.metaapi_stream.sdk import SocketRecord

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""The specifications of the largest brokers, in one frame, are a tenth of it."""
FAREWELL_SECONDS = 10.0
"""Between two farewells to an account that is still streamed though it left."""
FAULT_SECONDS = 1.0
"""Before the next attempt, when one could not even begin."""
END_SECONDS = 1.0
"""How long the loops of a socket's last connection may take to end before it is opened again."""

_NETWORK_FAILURES = (
    engineio.exceptions.EngineIOError,
    aiohttp.ClientError,
    OSError,
    JSONDecodeError,  # an error page that calls itself JSON
    UnicodeError,
)
_UNAUTHORIZED = "Unexpected status code 401"


def pace_socket_opens(
    ws: MetaApiWebsocketClient,
    prepare: Callable[[SocketRecord, str], Awaitable[None]],
) -> None:
    """A6, A7, A16: each attempt to open a socket waits for `prepare`, told instance and region.

    The SDK repeats a refused first connect without a pause, and never again reaches the server
    once an upgrade stalled: Engine.IO then refuses to connect what it takes for connected. When its
    client was closed meanwhile the loop finds no socket and turns without ever letting go.
    """
    server_url = ws._get_server_url

    async def address(instance: SocketRecord, region: str) -> str:
        if (result := instance["connectResult"]) is not None:
            result.add_done_callback(_note)  # nobody awaits it
        await prepare(instance, region)
        sio = instance["socket"]
        if not sio.connected and sio.eio.state != "disconnected":
            await sio.eio.disconnect(abort=True)
        url: str = await server_url(instance["instanceNumber"], instance["id"], region)
        return url

    async def get_server_url(instance_number: int, index: int, region: str) -> str:
        sockets = ws._socket_instances[region][instance_number]
        if index >= len(sockets):
            raise asyncio.CancelledError  # nothing less ends the loop
        try:
            return await address(sockets[index], region)
        except Exception:
            await asyncio.sleep(FAULT_SECONDS)  # or the loop would turn without end
            raise

    replace(ws, "_get_server_url", get_server_url)


def open_sockets_one_by_one(ws: MetaApiWebsocketClient, calls: Calls) -> None:
    """A8: one socket of an instance is opened at a time, by nobody who could be cancelled.

    The SDK opens it inside the first account's subscription; when that is cancelled, the socket
    stays in the table, unconnected, and every account assigned to it times out.
    """
    create = ws._create_socket_instance_by_account
    locks: defaultdict[tuple[str | None, int], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def create_in_turn(account_id: str, instance_number: int) -> None:
        async with locks[ws.get_account_region(account_id), instance_number]:
            await create(account_id, instance_number)
        if not ws._subscription_manager.is_subscription_active(account_id):  # left meanwhile
            ws._socket_instances_by_accounts[instance_number].pop(account_id, None)

    async def create_socket_instance(account_id: str, instance_number: int) -> None:
        name = f"sdk-socket:{account_id}:{instance_number}"
        await asyncio.shield(calls.start(create_in_turn(account_id, instance_number), name=name))

    replace(ws, "_create_socket_instance_by_account", create_socket_instance)


def watch_attempts(instance: SocketRecord, watch: "AttemptWatch") -> None:
    """B10: how an attempt to open the socket begins and ends is told, also that the token is bad.

    The SDK swallows every failure and tries again for ever.
    """
    eio = instance["socket"].eio
    connect = eio.connect

    async def watched_connect(url: str, **how: object) -> None:
        watch.began()
        try:
            await connect(url, **how)
        except asyncio.CancelledError:  # the SDK's time limit
            watch.failed(is_broken=False)
            raise
        except Exception as error:
            watch.failed(is_broken=not isinstance(error, _NETWORK_FAILURES))
            if _UNAUTHORIZED in str(error):
                watch.refused()
            raise
        watch.opened()

    replace(eio, "connect", watched_connect)


class AttemptWatch(Protocol):
    """Who is told of a socket's attempts. Nothing in it waits or raises."""

    def began(self) -> None:
        """Note that an attempt is under way."""

    def opened(self) -> None:
        """Note that it succeeded."""

    def failed(self, *, is_broken: bool) -> None:
        """Note that it failed; `is_broken` when it did so before it could reach the network."""

    def refused(self) -> None:
        """Note that the server refuses the token."""


def take_large_frames(instance: SocketRecord) -> None:
    """B27: a frame above aiohttp's 4 MiB of one account does not drop the socket of a hundred.

    Engine.IO makes its HTTP session when it has none that is open, so each attempt brings its own.
    """
    eio = instance["socket"].eio
    connect = eio.connect

    async def connect_with_room(url: str, **how: object) -> None:
        if eio.http is not None and not eio.http.closed:
            await eio.http.close()
        eio.http = _RoomySession(aiohttp.ClientSession())
        await connect(url, **how)

    replace(eio, "connect", connect_with_room)


class _RoomySession:
    """An aiohttp session whose websockets take frames up to our limit."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    async def ws_connect(
        self, url: str, *, headers: Mapping[str, str]
    ) -> aiohttp.ClientWebSocketResponse:
        return await self._session.ws_connect(url, headers=headers, max_msg_size=MAX_FRAME_BYTES)


def read_packets(
    instance: SocketRecord, read: Callable[[object], Mapping[str, object] | None]
) -> None:
    """A14, B26: what nobody reads of a packet is not decoded; see packets.py.

    `read` returns the packet of a message, or None for what is left to the SDK to read.
    """
    sio = instance["socket"]
    handle = sio.eio.handlers["message"]
    synchronize = sio.handlers["/"]["synchronization"]

    async def handle_message(message: object) -> None:
        packet = read(message)
        if packet is None:
            await handle(message)
        else:
            await synchronize(packet)

    sio.eio.handlers["message"] = handle_message


def drop_strays(
    instance: SocketRecord,
    *,
    is_served: Callable[[object], bool],
    calls: Calls,
    clock: Clock,
) -> None:
    """B15, B17: what comes for an account that left goes no further; the server is told once more.

    Its first farewell may have been lost. The SDK would remember the account as a ghost, leave it
    subscribed while only heartbeats come, and else say farewell a hundred times a second.
    """
    sio = instance["socket"]
    synchronize = sio.handlers["/"]["synchronization"]
    told: dict[str, float] = {}

    async def on_synchronization(packet: object) -> None:
        account_id = packet.get("accountId") if isinstance(packet, Mapping) else None
        if account_id is None or is_served(account_id):
            await synchronize(packet)
            return
        now = clock.monotonic()
        if now - told.get(account_id, -inf) < FAREWELL_SECONDS:
            return
        for each in [each for each, at in told.items() if now - at >= FAREWELL_SECONDS]:
            del told[each]
        told[account_id] = now
        farewell = {
            "type": "unsubscribe",
            "accountId": account_id,
            "instanceIndex": instance["instanceNumber"],
            "application": "MetaApi",
            "requestId": f"stray-{account_id}",
        }
        calls.start(sio.emit("request", farewell), name=f"sdk-stray:{account_id}")

    sio.handlers["/"]["synchronization"] = on_synchronization


def reconnect_aside(instance: SocketRecord, calls: Calls, lost: Callable[[], None]) -> None:
    """B13, B32: a closed socket is told at once, and its loops end before it is opened again.

    The SDK's listeners hear of it a minute later. And it reconnects inside the handler that the
    closed connection's own read loop waits for, so every reconnect leaves a loop behind.
    """
    sio = instance["socket"]
    reconnect = sio.handlers["/"]["disconnect"]

    async def reconnect_once_ended(ending: "asyncio.Task[object] | None") -> None:
        if ending is not None:
            await asyncio.wait({ending}, timeout=END_SECONDS)
        await reconnect()

    async def on_disconnect() -> None:
        lost()
        name = f"sdk-reconnect:{instance['instanceNumber']}:{instance['id']}"
        calls.start(reconnect_once_ended(sio.eio.read_loop_task), name=name)

    sio.handlers["/"]["disconnect"] = on_disconnect


def end_with_read_loop(instance: SocketRecord, calls: Calls) -> None:
    """A18: a socket whose read loop ended of itself is closed, and with that opened again.

    Engine.IO calls it connected for ever; the links on it are deaf, and what opens there is too.
    """
    eio = instance["socket"].eio
    connect = eio.connect

    def close_if_open(reading: "asyncio.Task[object]") -> None:
        if not reading.cancelled():
            reading.exception()  # nobody else looks at it
        if eio.read_loop_task is reading and eio.state == "connected":
            name = f"sdk-deaf:{instance['instanceNumber']}:{instance['id']}"
            calls.start(eio.disconnect(abort=True), name=name)

    async def watched_connect(url: str, **how: object) -> None:
        await connect(url, **how)
        eio.read_loop_task.add_done_callback(close_if_open)

    replace(eio, "connect", watched_connect)


def _note(result: asyncio.Future[None]) -> None:
    """Look at a result, so that asyncio does not complain that nobody did."""
    if not result.cancelled():
        result.exception()
