"""Each contained defect: the plain SDK shows it, the contained one does not."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import metaapi_cloud_sdk.logger
import pytest
from aiohttp import web
from metaapi_cloud_sdk.logger import LoggerManager

from brokerd.connector.metaapi_stream.overrides import events
from brokerd.connector.metaapi_stream.overrides.process import prepare_process
from brokerd.connector.ports import Connected
from brokerd.sandbox.faults import Fault, FaultKind
from brokerd.sandbox.server import SandboxSettings, running_sandbox
from brokerd.sandbox.stream import StreamSettings

QUIET = SandboxSettings(deals_per_account_minute=0, stream=StreamSettings(status_seconds=0.5))
REGION = "vint-hill"
_ORIGINAL_GET_LOGGER = LoggerManager.__dict__["get_logger"]

Make = Callable[..., Any]


async def settle(seconds: float = 0.05) -> None:
    """Let what was queued happen."""
    await asyncio.sleep(seconds)


@pytest.fixture
async def websockets(sdk: Any) -> dict[str, Any]:
    """Give both websocket clients, without a server."""
    return {kind: sdk.api(kind)._metaapi_websocket_client for kind in ("plain", "contained")}


@pytest.mark.parametrize(("kind", "delivered"), [("plain", ["1"]), ("contained", ["1", "2", "3"])])
async def test_a1_a_reconnect_of_the_other_socket_keeps_the_order(
    websockets: dict[str, Any], feed: Make, deal_listener: Make, kind: str, delivered: list[str]
) -> None:
    """After the second instance's socket came back, the first one's packets are still in order."""
    ws = websockets[kind]
    packets, listener = feed(ws), deal_listener()
    ws.add_synchronization_listener("acc", listener)
    ws.add_reconnect_listener(_Deaf(), "acc")
    ws._socket_instances[REGION] = {1: []}
    ws._socket_instances_by_accounts[1] = {"acc": 0}
    packets.start()
    packets.deal("1")
    await settle()
    await ws._fire_reconnected(1, 0, REGION)
    packets.deal("2")
    packets.deal("3")
    await settle()
    assert listener.deals == delivered


class _Deaf:
    """A reconnect listener that wants nothing."""

    async def on_reconnected(self, _region: str, _instance_number: int) -> None:
        return


async def test_a1_a_reconnected_socket_forgets_its_own_order(
    websockets: dict[str, Any], feed: Make, deal_listener: Make
) -> None:
    """A server that restarted with an older sequence is heard again, as without containment."""
    ws = websockets["contained"]
    packets, listener = feed(ws), deal_listener()
    ws.add_synchronization_listener("acc", listener)
    ws._socket_instances_by_accounts[0]["acc"] = 0
    ws._socket_instances[REGION] = {0: []}
    ws._packet_orderer._last_session_start_timestamp["acc:0:host-0"] = 10_000
    ws.queue_packet({"type": "noop", "accountId": "acc"})
    await ws._fire_reconnected(0, 0, REGION)
    del ws._socket_instances_by_accounts[0]["acc"]  # packets look for their socket there
    packets.send("synchronizationStarted", synchronizationId="again")
    packets.deal("heard")
    await settle()
    assert listener.deals == ["heard"]


@pytest.mark.parametrize(("kind", "sockets"), [("plain", 2), ("contained", 1)])
async def test_a1_a_regular_account_has_one_instance(sdk: Any, kind: str, sockets: int) -> None:
    """Only a high-reliability account has a socket for a second terminal."""
    async with running_sandbox(QUIET) as sandbox:
        account_id = sandbox.add_account().metaapi_id
        sdk.api(kind, sandbox.url)
        await sdk.connection(kind, sandbox.url, account_id).connect()
        await settle(1.0)
        assert len(sandbox.sockets.sockets) == sockets


def is_packet_job(task: "asyncio.Task[object]") -> bool:
    """Say whether a task processes an account's packets."""
    return "call_account_events" in repr(task.get_coro())


@pytest.mark.parametrize(("kind", "lost"), [("plain", {"3"}), ("contained", set())])
async def test_a2_packets_that_come_while_the_queue_is_swapped_arrive(
    websockets: dict[str, Any], feed: Make, deal_listener: Make, kind: str, lost: set[str]
) -> None:
    """A deal that arrives while a backlog is drained after a synchronization is delivered."""
    ws = websockets[kind]
    packets, listener = feed(ws), deal_listener(seconds=0.05)
    ws.add_synchronization_listener("acc", listener)
    packets.start()
    packets.deal("1")
    packets.finish()
    packets.deal("2")
    while len(listener.deals) < 2:  # deal 1, then deal 2 or the replay of 1
        await settle(0)
    packets.deal("3")
    await settle(0.4)
    assert {"1", "2", "3"} - set(listener.deals) == lost


@pytest.mark.parametrize(
    "spoil",
    [asyncio.CancelledError(), ValueError({1})],
    ids=["a cancellation", "an error the SDK cannot print"],
)
@pytest.mark.parametrize(("kind", "delivered"), [("plain", []), ("contained", ["2", "3"])])
async def test_a3_a_failed_listener_does_not_stop_the_queue(
    *,
    websockets: dict[str, Any],
    feed: Make,
    deal_listener: Make,
    kind: str,
    delivered: list[str],
    spoil: BaseException,
) -> None:
    """What a listener raises costs at most its own event."""
    ws = websockets[kind]
    packets, listener = feed(ws), deal_listener()
    ws.add_synchronization_listener("acc", listener)
    listener.spoil = spoil
    packets.start()
    packets.send("update", deals=[{"id": "1"}, {"id": "2"}])
    packets.deal("3")
    await settle()
    if kind == "plain" and isinstance(spoil, ValueError):
        delivered = ["3"]  # the rest of its packet alone is lost (A4)
    assert listener.deals == delivered


@pytest.mark.parametrize(
    ("kind", "delivered", "lost"), [("plain", ["1"], []), ("contained", ["1", "3"], ["acc"])]
)
async def test_a17_an_account_whose_packet_job_is_ended_is_heard_again(
    *,
    websockets: dict[str, Any],
    feed: Make,
    deal_listener: Make,
    kind: str,
    delivered: list[str],
    lost: list[str],
) -> None:
    """F25: the job that processes its packets is ended: a loss is told, the next one is heard."""
    ws = websockets[kind]
    told: list[str] = []
    if kind == "contained":
        events.drain_queues_by_popping(ws, told.append)
    packets, listener = feed(ws), deal_listener(seconds=5)
    ws.add_synchronization_listener("acc", listener)
    packets.start()
    packets.deal("1")
    await settle()
    [job] = [task for task in asyncio.all_tasks() if is_packet_job(task)]
    job.cancel()
    packets.deal("2")
    await settle()
    listener.seconds = 0.0
    packets.deal("3")
    await settle()
    assert listener.deals == delivered
    assert told == lost


async def test_b29_an_event_starts_no_timer(
    websockets: dict[str, Any], feed: Make, deal_listener: Make
) -> None:
    """Ten deals leave ten one-second tasks behind in the plain SDK, none here."""
    left = {}
    for kind, ws in websockets.items():
        packets = feed(ws)
        ws.add_synchronization_listener("acc", deal_listener())
        await settle()
        before = len(asyncio.all_tasks())
        packets.start()
        for number in range(10):
            packets.deal(str(number))
        await settle()
        left[kind] = len(asyncio.all_tasks()) - before
    assert left["plain"] >= 10
    assert left["contained"] == 0


class Door:
    """A server that counts handshakes and refuses them."""

    def __init__(self) -> None:
        self.knocks = 0
        self.url = ""

    async def refuse(self, _request: web.Request) -> web.Response:
        """Say 401, as for a token that was revoked."""
        self.knocks += 1
        return web.json_response({"error": "UnauthorizedError"}, status=401)


@asynccontextmanager
async def refusing() -> AsyncIterator[Door]:
    """Serve a door on loopback."""
    door = Door()
    app = web.Application()
    app.router.add_get("/ws/", door.refuse)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    door.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield door
    finally:
        await runner.cleanup()


async def test_a6_a_refused_first_connect_is_paced(sdk: Any) -> None:
    """A revoked token costs the plain SDK hundreds of handshakes a second, and us two at most."""
    knocks = {}
    for kind in ("contained", "plain"):
        async with refusing() as door:
            ws = sdk.api(kind, door.url, socket_opens_per_second=2)._metaapi_websocket_client
            opening = asyncio.ensure_future(ws.connect(0, REGION))
            await settle(0.7)
            knocks[kind] = door.knocks
            await end(ws, opening)
    assert 1 <= knocks["contained"] <= 2
    assert knocks["plain"] > 20


async def end(ws: Any, opening: "asyncio.Future[Any]") -> None:
    """Stop opening: the SDK's loop ends for nothing but a socket that is connected."""
    for instance in ws._socket_instances[REGION][0]:
        instance["socket"].connected = True
    await asyncio.wait_for(opening, 5)


@pytest.mark.parametrize(("kind", "is_back"), [("plain", False), ("contained", True)])
async def test_a7_a_stalled_upgrade_is_reset(sdk: Any, *, kind: str, is_back: bool) -> None:
    """Once upgrades are answered again the next attempt succeeds; the plain SDK makes none."""
    async with running_sandbox(QUIET) as sandbox:
        sandbox.faults.switch_on(Fault(kind=FaultKind.STALL_UPGRADE, limit=1))
        ws = sdk.api(kind, sandbox.url, connect_timeout_seconds=1)._metaapi_websocket_client
        ws._connect_timeout = 0.3
        opening = asyncio.ensure_future(ws.connect(0, REGION))
        await asyncio.wait({opening}, timeout=2)
        assert sandbox.faults.injected[FaultKind.STALL_UPGRADE] == 1
        assert opening.done() is is_back
        await end(ws, opening)


@pytest.mark.parametrize(("kind", "is_connected"), [("plain", False), ("contained", True)])
async def test_a8_a_cancelled_subscription_leaves_no_dead_socket(
    sdk: Any, *, kind: str, is_connected: bool
) -> None:
    """The second account gets its socket though the first left while it was being opened."""
    async with running_sandbox(QUIET) as sandbox:
        first, second = sandbox.add_account().metaapi_id, sandbox.add_account().metaapi_id
        sandbox.faults.switch_on(Fault(kind=FaultKind.STALL_UPGRADE, limit=2))
        ws = sdk.api(kind, sandbox.url, connect_timeout_seconds=1)._metaapi_websocket_client
        ws._connect_timeout = 0.5
        await sdk.connection(kind, sandbox.url, first).connect()
        await settle(0.2)
        await sdk.connection(kind, sandbox.url, second).connect()
        await settle(0.1)
        ws._subscription_manager.cancel_account(first)
        await settle(2.5)
        assert ws.connected(0, 0, REGION) is is_connected


async def test_a8_accounts_that_come_together_share_a_socket(streaming: Make) -> None:
    """Ten accounts at once open one socket, not ten."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        accounts = [sandbox.add_account().metaapi_id for _ in range(10)]
        for each in [await ours.open(account) for account in accounts]:
            await each.until(lambda each=each: each.of(Connected))
        assert len(sandbox.sockets.sockets) == 1


@pytest.mark.parametrize(("kind", "listeners"), [("plain", 4), ("contained", 2)])
async def test_a9_nobody_keeps_a_terminal_state(sdk: Any, kind: str, listeners: int) -> None:
    """No specification and no position is hashed: beside the connection only we listen."""
    async with running_sandbox(QUIET) as sandbox:
        account_id = sandbox.add_account().metaapi_id
        api = sdk.api(kind, sandbox.url)
        connection = sdk.connection(kind, sandbox.url, account_id)
        await connection.connect()
        async with asyncio.timeout(5):
            while not await connection._meta_api_connection.is_synchronized(None):
                await settle()
        ws = api._metaapi_websocket_client
        assert len(ws._synchronization_listeners[account_id]) == listeners
        information = connection.terminal_state.account_information
        assert (information is not None) is (kind == "plain")


def test_a10_the_sdks_loggers_do_not_wrap_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand connections may ask for their logger; the plain SDK's kills them all."""
    monkeypatch.setattr(metaapi_cloud_sdk.logger, "logging_enabled", True)
    prepare_process()
    for _ in range(1200):
        logger = LoggerManager.get_logger("MetaApiConnection")
    logger.error("text without a place for", {"an": "argument"})  # noqa: PLE1205  # the SDK's way
    monkeypatch.setattr(LoggerManager, "get_logger", _ORIGINAL_GET_LOGGER)
    for _ in range(1200):
        logger = LoggerManager.get_logger("a10")
    with pytest.raises(RecursionError):
        logger.error("anything")
    logging.Logger.manager.loggerDict.pop("a10")


@pytest.mark.parametrize(
    ("kind", "happened"),
    [("plain", (["refreshMarketDataSubscriptions"], [])), ("contained", ([], ["1"]))],
)
async def test_a11_nothing_is_asked_about_quotes(
    sdk: Any, feed: Make, deal_listener: Make, kind: str, happened: tuple[list[str], list[str]]
) -> None:
    """The first deal of a synchronization waits for no answer to it."""
    ws = sdk.api(kind)._metaapi_websocket_client
    never = asyncio.get_running_loop().create_future()
    requests = []

    async def mute(_account_id: str, request: dict[str, Any]) -> None:
        requests.append(request["type"])
        await never

    packets, listener = feed(ws), deal_listener()
    sdk.connection(kind, "http://127.0.0.1:9", "acc")
    ws.add_synchronization_listener("acc", listener)
    ws.rpc_request = mute
    packets.start()
    packets.deal("1")
    await settle()
    assert (requests, listener.deals) == happened


async def test_a11_every_wait_of_the_sdk_is_bounded(sdk: Any) -> None:
    """A request is given up after the configured time, and repeated once."""
    ws = sdk.api("contained", request_timeout_seconds=7.0)._metaapi_websocket_client
    assert (ws._request_timeout, ws._retries) == (7.0, 1)
    assert ws._packet_orderer._ordering_timeout_in_seconds == 3.5


async def test_b12_the_process_keeps_its_signal_handlers(sdk: Any) -> None:
    """Opening a socket leaves SIGINT to whoever had it."""
    before = signal.getsignal(signal.SIGINT)
    ws = sdk.api("contained")._metaapi_websocket_client
    opening = asyncio.ensure_future(ws.connect(0, REGION))
    await settle(0.2)
    assert signal.getsignal(signal.SIGINT) is before
    await end(ws, opening)
