"""The Socket.IO endpoint, driven by the SDK's own client and by hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import engineio
import msgspec
import pytest
import socketio
from aiohttp import web

from brokerd.clock import SystemClock
from brokerd.sandbox import eio_frames as frames
from brokerd.sandbox.eio import PING_INTERVAL_SECONDS, PING_TIMEOUT_SECONDS, EioServer
from brokerd.sandbox.eio_socket import Socket

engineio.asyncio_client.async_signal_handler_set = True  # it would replace the loop's own


class Echo:
    """A handler that answers each event with the same body and remembers what happened."""

    def __init__(self) -> None:
        self.is_upgrading = True
        self.regions: list[str | None] = []
        self.lost: list[Socket] = []
        self.is_lost = asyncio.Event()

    def turn_away(self, token: str, *, region: str | None) -> int | None:
        """Accept one token."""
        self.regions.append(region)
        return None if token == "good" else 401

    def may_upgrade(self, _socket: Socket) -> bool:
        """Answer the probe unless told otherwise."""
        return self.is_upgrading

    def received(self, socket: Socket, *, event: str, body: msgspec.Raw) -> None:
        """Send it back."""
        socket.send(frames.encode_event(f"{event}-back", body))

    def closed(self, socket: Socket) -> None:
        """Remember."""
        self.lost.append(socket)
        self.is_lost.set()


class Clock(SystemClock):
    """The system's clock, with a jump."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def monotonic(self) -> float:
        """Return the loop's time plus the jump."""
        return super().monotonic() + self.ahead_seconds


class Served:
    """A running endpoint with all its parts."""

    def __init__(self) -> None:
        self.echo, self.clock = Echo(), Clock()
        self.server = EioServer(self.echo, clock=self.clock)
        self.url = ""

    def address(self, **query: str) -> str:
        """Return the endpoint's URL with a query."""
        pairs = {"auth-token": "good", "EIO": "3", "transport": "polling"} | query
        return f"{self.url}/ws/?" + "&".join(f"{name}={value}" for name, value in pairs.items())


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """Serve the endpoint on a free port."""
    served = Served()
    app = web.Application()
    app.router.add_route("*", "/ws/", served.server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    served.url = f"http://{host}:{port}"
    yield served
    for socket in served.server.sockets:
        served.server.drop(socket)
    await runner.cleanup()


@asynccontextmanager
async def sdk_client(
    served: Served, *, transports: list[str] | None = None
) -> AsyncIterator[tuple[socketio.AsyncClient, "asyncio.Queue[object]"]]:
    """Connect the client library that the SDK uses."""
    client = socketio.AsyncClient(reconnection=False, request_timeout=5)
    answers: asyncio.Queue[object] = asyncio.Queue()
    client.on("request-back", answers.put_nowait)
    client.on("disconnect", lambda: answers.put_nowait("disconnected"))
    try:
        await client.connect(
            f"{served.url}?auth-token=good&clientId=0.5&protocol=3",
            socketio_path="ws",
            transports=transports,
        )
        yield client, answers
    finally:
        await client.disconnect()
        await asyncio.wait_for(client.eio.wait(), 5)  # its loops may open one more HTTP session
        await client.eio.http.close()


@pytest.mark.parametrize(
    ("transports", "carrier"),
    [(None, "websocket"), (["polling"], "polling"), (["websocket"], "websocket")],
    ids=["upgrade", "polling only", "websocket only"],
)
async def test_the_sdks_client_talks_over_every_transport(
    served: Served, transports: list[str] | None, carrier: str
) -> None:
    """Events go both ways, whole, in order, whatever carries them."""
    async with sdk_client(served, transports=transports) as (client, answers):
        assert client.eio.current_transport == carrier
        assert [socket.client_id for socket in served.server.sockets] == ["0.5"]
        for number in range(40):
            await client.emit("request", {"n": number, "text": "ä€"})
        async with asyncio.timeout(5):
            received = [await answers.get() for _ in range(40)]
    assert received == [{"n": number, "text": "ä€"} for number in range(40)]


async def test_a_bad_token_is_refused_at_the_handshake(served: Served) -> None:
    """The handshake answers 401, as MetaApi documents, and opens nothing."""
    async with aiohttp.ClientSession() as http:
        for transport in ("polling", "websocket"):
            url = served.address(**{"auth-token": "bad", "transport": transport})
            async with http.get(url) as answer:
                assert answer.status == 401
    assert served.server.sockets == ()


async def test_a_probe_connection_needs_no_client_id(served: Served) -> None:
    """The SDK's latency probe names no client; it is served like any other."""
    async with aiohttp.ClientSession() as http, http.get(served.address()) as answer:
        packets = frames.decode_payload(await answer.read())
    assert [packet[:2] for packet in packets] == [b"0{", b"40"]
    assert served.server.sockets[0].client_id is None


async def test_the_upgrade_follows_the_protocol(served: Served) -> None:
    """2probe is answered by 3probe, a hanging poll returns, and 5 moves the traffic."""
    async with aiohttp.ClientSession() as http:
        async with http.get(served.address()) as answer:
            opened = frames.decode_payload(await answer.read())[0]
        sid = msgspec.json.decode(opened[1:])["sid"]
        websocket = await http.ws_connect(served.address(sid=sid, transport="websocket"))
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            poll = group.create_task(_body(http, served.address(sid=sid, b64="1")))
            await asyncio.sleep(0.05)
            assert not poll.done()
            await websocket.send_str("2probe")
            assert await websocket.receive_str() == "3probe"
        assert poll.result() == b"1:6"
        await websocket.send_str("5")
        await websocket.send_str("2beat")
        assert await websocket.receive_str() == "3beat"
        await websocket.close()


async def _body(http: aiohttp.ClientSession, url: str) -> bytes:
    async with http.get(url) as answer:
        return await answer.read()


async def test_a_stalled_upgrade_hangs_the_client(served: Served) -> None:
    """With the fault on, the probe stays unanswered until the client gives up."""
    served.echo.is_upgrading = False
    client = socketio.AsyncClient(reconnection=False)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(
            client.connect(f"{served.url}?auth-token=good", socketio_path="ws"), 0.3
        )
    assert client.eio.state == "connected"
    http = client.eio.http
    await client.eio.disconnect(abort=True)
    await http.close()


async def test_a_dropped_socket_looks_like_a_lost_network(served: Served) -> None:
    """The client sees its connection end, and the handler forgets the socket once."""
    async with sdk_client(served) as (_client, answers):
        socket = served.server.sockets[0]
        served.server.drop(socket)
        served.server.drop(socket)
        async with asyncio.timeout(5):
            assert await answers.get() == "disconnected"
        assert served.echo.lost == [socket]
        assert served.server.sockets == ()


async def test_a_client_that_leaves_is_forgotten(served: Served) -> None:
    """Disconnecting in order removes the socket."""
    async with sdk_client(served) as (client, _answers):
        await client.disconnect()
        async with asyncio.timeout(5):
            await served.echo.is_lost.wait()
    assert len(served.echo.lost) == 1


async def test_a_client_that_stops_pinging_is_swept(served: Served) -> None:
    """Silence beyond interval and timeout ends the connection, not a second before."""
    async with sdk_client(served):
        served.clock.ahead_seconds = PING_INTERVAL_SECONDS + PING_TIMEOUT_SECONDS - 1
        served.server.sweep()
        assert len(served.server.sockets) == 1
        served.clock.ahead_seconds += 2
        served.server.sweep()
        assert served.server.sockets == ()


async def test_a_client_that_does_not_read_is_cut_off(served: Served) -> None:
    """What waits for one client is bounded."""
    async with aiohttp.ClientSession() as http, http.get(served.address()):
        socket = served.server.sockets[0]
        packet = b"4" + b"x" * (8 * 1024 * 1024)
        for _ in range(9):
            socket.send(packet)
    assert not socket.is_open


@pytest.mark.parametrize(
    ("query", "status"),
    [({"EIO": "4"}, 400), ({"sid": "nobody"}, 400)],
    ids=["another protocol", "an unknown session"],
)
async def test_a_wrong_request_is_refused(
    served: Served, query: dict[str, str], status: int
) -> None:
    """Other protocol versions and forgotten sessions are told so."""
    async with aiohttp.ClientSession() as http, http.get(served.address(**query)) as answer:
        assert answer.status == status
