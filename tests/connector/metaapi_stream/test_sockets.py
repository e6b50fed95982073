"""A socket that is refused, cut off, flooded, or closed under a loop: plain SDK and contained."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from stream_accounts import REGION

from brokerd.connector.ports import Connected, DealSeen, Disconnected, Synchronized
from brokerd.errors import Unauthorized
from brokerd.sandbox.faults import Fault, FaultKind
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox
from brokerd.sandbox.stream import StreamSettings

QUIET = SandboxSettings(deals_per_account_minute=0, stream=StreamSettings(status_seconds=0.5))
NOWHERE = "http://127.0.0.1:9"
KINDS = ("plain", "contained")

Make = Callable[..., Any]


async def settle(seconds: float = 0.05) -> None:
    """Let what was started happen."""
    await asyncio.sleep(seconds)


CLOSED_UNDER_A_LOOP = """
import asyncio, sys
from metaapi_cloud_sdk import MetaApi
from brokerd.connector.metaapi_stream.overrides.sockets import pace_socket_opens
async def main():
    ws = MetaApi("a.b.c")._metaapi_websocket_client
    async def prepare(*_): await asyncio.sleep(0)
    if sys.argv[1] == "contained":
        pace_socket_opens(ws, prepare)
    ws._socket_instances["x"] = {0: []}
    connecting = asyncio.ensure_future(ws.connect(0, "x"))
    await asyncio.sleep(0)
    ws._socket_instances["x"][0] = []  # as close() does
    await asyncio.sleep(1.5)
    print("alive", connecting.cancelled(), flush=True)
asyncio.run(asyncio.wait_for(main(), 5))
"""


@pytest.mark.parametrize(("kind", "is_alive"), [("plain", False), ("contained", True)])
def test_a16_a_client_closed_while_it_connects_lets_go_of_the_loop(
    *, kind: str, is_alive: bool
) -> None:
    """The plain SDK's loop finds no socket, suppresses that, and turns for ever without a wait."""
    command = [sys.executable, "-c", CLOSED_UNDER_A_LOOP, kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        told, _ = process.communicate(timeout=20 if is_alive else 6)
    except subprocess.TimeoutExpired:
        told = ""
    finally:
        process.kill()
        process.communicate()
    assert ("alive True" in told) is is_alive


@pytest.mark.filterwarnings("ignore:coroutine 'MetaApiWebsocketClient.close' was never awaited")
@pytest.mark.parametrize("kind", KINDS)
async def test_b10_a_refused_token_ends_the_subscriptions(
    sdk: Any, streaming: Make, kind: str
) -> None:
    """Ours ends the sessions as `Unauthorized`; the plain SDK subscribes on."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account_id = sandbox.add_account().metaapi_id
        if kind == "plain":
            ws = sdk.api(kind, sandbox.url)._metaapi_websocket_client
            connection = sdk.connection(kind, sandbox.url, account_id)
            await connection.connect()
            await connection.wait_synchronized({"timeoutInSeconds": 10})
        else:
            watched = await ours.open(account_id)
            await watched.until(lambda: watched.of(Synchronized))
            ws = ours.clients[0]._ws
        sandbox.state.users.default.is_revoked = True
        ws.ensure_subscribe(account_id, 0)
        if kind == "plain":
            await settle(0.5)
        else:
            await watched.until(lambda: watched.ended, seconds=2)
            assert isinstance(watched.ended, Unauthorized)
            await watched.session.close()
        assert ws._subscription_manager.is_account_subscribing(account_id) is (kind == "plain")


async def test_b10_a_token_refused_at_the_door_is_tried_once_a_minute(
    streaming: Make,
) -> None:
    """The session ends as refused; the next ones do without a handshake; then it is tried."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        accounts = [sandbox.add_account().metaapi_id for _ in range(3)]
        sandbox.state.users.default.is_revoked = True
        refused = await ours.open(accounts[0])
        await refused.until(lambda: refused.ended, seconds=3)
        assert isinstance(refused.ended, Unauthorized)
        await refused.session.close()
        opens = ours.opens()
        for account in accounts:
            with pytest.raises(Unauthorized):
                await ours.open(account)
        await ours.stream.tend()
        assert ours.opens() == opens
        assert ours.clients == []
        sandbox.state.users.default.is_revoked = False
        ours.stream._clients._places["main"].refused_until = 0.0
        watched = await ours.open(accounts[0])
        await watched.until(lambda: watched.of(Synchronized))


@pytest.mark.parametrize("kind", KINDS)
async def test_b10_a_refused_lookup_is_told(sdk: Any, kind: str) -> None:
    """The server's address is asked with the token too."""
    ws = sdk.api(kind)._metaapi_websocket_client
    unauthorized = httpx.Response(401, request=httpx.Request("GET", "https://x"), json={})

    async def refuse(_options: object) -> httpx.Response:
        return unauthorized

    ws._domain_client._http_client._make_request = refuse
    asking = asyncio.ensure_future(ws._domain_client.get_settings())
    await settle()
    if kind == "contained":
        assert sdk.client().is_refused
    assert not asking.done()  # in the plain SDK that is all that happens
    asking.cancel()
    await asyncio.wait({asking})


PAST = {"metadata": {"recommendedRetryTime": "2020-01-01T00:00:00.000Z"}, "message": "slow down"}


@pytest.mark.parametrize(
    "answer",
    [{"status_code": 429, "json": PAST}, {"status_code": 429}, {"status_code": 200, "text": "<"}],
    ids=["a hint in the past", "no hint", "no JSON"],
)
@pytest.mark.parametrize("kind", KINDS)
async def test_b20_an_answer_of_any_kind_is_no_reason_to_ask_at_once(
    sdk: Any, kind: str, answer: dict[str, Any]
) -> None:
    """The plain SDK asks hundreds of times a second when the hint is past."""
    ws = sdk.api(kind)._metaapi_websocket_client
    asked = 0

    async def answer_so(_options: object) -> httpx.Response:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return httpx.Response(**answer, request=httpx.Request("GET", "https://x"))

    ws._domain_client._http_client._make_request = answer_so
    asking = asyncio.ensure_future(ws._domain_client.get_settings())
    await settle(0.2)
    is_past = answer.get("json") is PAST
    assert asked > 20 if kind == "plain" and is_past else asked == 1
    asking.cancel()
    await asyncio.wait({asking})


def flood(sandbox: Sandbox, account_id: str, *, size: int) -> None:
    """Send one packet of so many bytes, which says nothing."""
    (stream,) = sandbox.stream.registry.of_account(account_id)
    stream.socket.send(stream.packet("keepalive", {"padding": "x" * size}))


@pytest.mark.parametrize(("kind", "is_cut"), [("plain", True), ("contained", False)])
async def test_b27_a_large_frame_does_not_cost_the_socket(
    sdk: Any, *, kind: str, is_cut: bool
) -> None:
    """Six megabytes for one account drop the plain SDK's socket, with all that are on it."""
    async with running_sandbox(QUIET) as sandbox:
        account_id = sandbox.add_account().metaapi_id
        sdk.api(kind, sandbox.url)
        await sdk.connection(kind, sandbox.url, account_id).connect()
        async with asyncio.timeout(5):
            while not sandbox.stream.registry.of_account(account_id):
                await settle()
        await settle(0.3)  # until both are on websockets
        (stream,) = sandbox.stream.registry.of_account(account_id)
        flood(sandbox, account_id, size=6 * 1024 * 1024)
        await settle(0.7)
        assert stream.is_over is is_cut


async def test_b27_a_frame_beyond_all_limits_is_survived(
    streaming: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket is cut and comes back, and what happened meanwhile with it."""
    monkeypatch.setattr(
        "brokerd.connector.metaapi_stream.overrides.sockets.MAX_FRAME_BYTES", 100_000
    )
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account = sandbox.add_account()
        watched = await ours.open(account.metaapi_id)
        await watched.until(lambda: watched.of(Synchronized))
        flood(sandbox, account.metaapi_id, size=200_000)
        await watched.until(lambda: watched.of(Disconnected), seconds=2)
        watched.events.clear()
        sandbox.market.trade(account, deals=1)
        await watched.until(lambda: watched.of(Synchronized), seconds=15)
        assert watched.of(DealSeen)


def read_loops() -> list["asyncio.Task[object]"]:
    """Return the tasks of Engine.IO that read a socket."""
    return [task for task in asyncio.all_tasks() if "._read_loop" in repr(task.get_coro())]


@pytest.mark.parametrize(("kind", "is_deaf"), [("plain", True), ("contained", False)])
async def test_a18_a_socket_whose_read_loop_died_is_opened_again(
    sdk: Any, *, kind: str, is_deaf: bool
) -> None:
    """F25: the plain SDK keeps the socket, connected and deaf; ours comes back by another one."""
    async with running_sandbox(QUIET) as sandbox:
        account_id = sandbox.add_account().metaapi_id
        sdk.api(kind, sandbox.url)
        connection = sdk.connection(kind, sandbox.url, account_id)
        await connection.connect()
        await connection.wait_synchronized({"timeoutInSeconds": 10})
        before = set(sandbox.sockets.sockets)
        for reading in read_loops():
            reading.cancel()
        for _ in range(60):
            await settle(0.1)
            is_back = bool(sandbox.stream.registry.of_account(account_id))
            if is_back and not before & set(sandbox.sockets.sockets):
                break
        assert bool(before & set(sandbox.sockets.sockets)) is is_deaf


async def test_a18_the_links_of_a_socket_whose_read_loop_died_hear_of_it(streaming: Make) -> None:
    """Told at once, back on another socket, nothing missed; who is on another does not notice."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account, other = sandbox.add_account(), sandbox.add_account()
        watched = await ours.open(account.metaapi_id)
        await watched.until(lambda: watched.of(Synchronized))
        (reading,) = read_loops()
        beside = await ours.open(other.metaapi_id, region="elsewhere")
        await beside.until(lambda: beside.of(Synchronized))
        reading.cancel()
        await watched.until(lambda: watched.of(Disconnected), seconds=1)
        sandbox.market.trade(account, deals=1)
        await watched.until(lambda: len(watched.of(Synchronized)) == 2, seconds=15)
        assert {deal.deal_id for deal in account.deals()[-1:]} <= watched.deal_ids()
        assert not beside.of(Disconnected)


@pytest.mark.parametrize(("kind", "goes_on"), [("plain", False), ("contained", True)])
async def test_a19_a_socket_that_is_open_again_leaves_other_regions_alone(
    sdk: Any, *, kind: str, goes_on: bool
) -> None:
    """The plain SDK ends a subscription that another region's server has not answered yet."""
    async with running_sandbox(QUIET) as sandbox, httpx.AsyncClient() as http:
        here, there = (sandbox.add_account().metaapi_id for _ in range(2))
        sandbox.faults.switch_on(Fault(kind=FaultKind.MUTE, account_ids=frozenset({there})))
        manager = sdk.api(kind, sandbox.url)._metaapi_websocket_client._subscription_manager
        connection = sdk.connection(kind, sandbox.url, here)
        await connection.connect()
        await connection.wait_synchronized({"timeoutInSeconds": 10})
        await sdk.connection(kind, sandbox.url, there, region="london").connect()
        async with asyncio.timeout(20):
            while not sandbox.stream.registry.of_account(there):
                await settle()
            await http.post(f"{sandbox.url}/control/sockets/drop", json={"account_ids": [here]})
            while not manager._awaiting_resubscribe:
                await settle()
        await settle()
        assert manager.is_account_subscribing(there, 0) is goes_on


@pytest.mark.parametrize(("kind", "goes_on"), [("plain", False), ("contained", True)])
async def test_a19_only_what_was_under_way_on_the_socket_begins_anew(
    sdk: Any, *, kind: str, goes_on: bool
) -> None:
    """Sockets of the same number: of an account's other instance, and of another region."""
    ws = sdk.api(kind)._metaapi_websocket_client
    manager = ws._subscription_manager
    for number in (0, 1):
        ws._socket_instances_by_accounts[number] = {"here": 0, "there": 0}
    for name in ("here:0", "here:1", "there:0"):
        manager._subscriptions[name] = {"shouldRetry": True, "future": None, "task": None}
    manager.on_reconnected(0, 0, ["here"])
    tries = {name: each["shouldRetry"] for name, each in manager._subscriptions.items()}
    assert tries == {"here:0": False, "here:1": goes_on, "there:0": goes_on}


@pytest.mark.parametrize("kind", KINDS)
async def test_b17_an_account_that_left_is_unsubscribed_no_more_than_every_ten_seconds(
    sdk: Any, kind: str
) -> None:
    """The plain SDK takes its ten seconds for milliseconds."""
    ws = sdk.api(kind)._metaapi_websocket_client
    throttle = ("unsubscribe", "acc", 0, ws._unsubscribe_throttling_interval)
    assert ws._throttle_request(*throttle) is False  # the first one is let pass
    await settle(0.03)
    assert ws._throttle_request(*throttle) is (kind == "plain")


async def test_b35_a_farewell_that_was_lost_is_said_again(streaming: Make) -> None:
    """The server streams on after a mute close; the account's heartbeat brings a second one."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        stays, leaves = (sandbox.add_account() for _ in range(2))
        kept = await ours.open(stays.metaapi_id)
        left = await ours.open(leaves.metaapi_id)
        for watched in (kept, left):
            await watched.until(lambda: watched.of(Synchronized))  # noqa: B023  # awaited here
        ws = ours.clients[0]._ws
        socket = ws._socket_instances[REGION][0][0]["socket"]
        emit = socket.emit

        async def lose(*_: object, **__: object) -> None:
            return

        socket.emit = lose
        await left.session.close()
        ours.clients[0].forget(leaves.metaapi_id)
        socket.emit = emit
        async with asyncio.timeout(5):
            while sandbox.stream.registry.of_account(leaves.metaapi_id):
                await settle()
        assert leaves.metaapi_id not in ws._connected_hosts
        assert sandbox.stream.registry.of_account(stays.metaapi_id)


@pytest.mark.parametrize(("kind", "is_unsubscribed"), [("plain", False), ("contained", True)])
async def test_b35_the_plain_sdk_stays_subscribed(
    sdk: Any, *, kind: str, is_unsubscribed: bool
) -> None:
    """Heartbeats of an account that nobody has are no reason for it to unsubscribe."""
    async with running_sandbox(QUIET) as sandbox:
        account_id = sandbox.add_account().metaapi_id
        ws = sdk.api(kind, sandbox.url)._metaapi_websocket_client
        connection = sdk.connection(kind, sandbox.url, account_id)
        await connection.connect()
        await connection.wait_synchronized({"timeoutInSeconds": 10})
        ws._subscription_manager._subscription_state.pop(account_id)
        if kind == "contained":
            sdk.client(sandbox.url).forget(account_id)
        await settle(1.5)
        assert (sandbox.stream.registry.of_account(account_id) == ()) is is_unsubscribed


async def test_b15_an_unknown_account_makes_no_ghost(streaming: Make) -> None:
    """A packet that nobody asked for is not remembered."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account_id = sandbox.add_account().metaapi_id
        watched = await ours.open(account_id)
        await watched.until(lambda: watched.of(Connected))
        (stream,) = sandbox.stream.registry.of_account(account_id)
        packet = stream.packet("status", {"connected": True, "authenticated": True})
        stream.socket.send(packet.replace(account_id.encode(), b"ghost"))
        await settle(0.2)
        ws = ours.clients[0]._ws
        assert set(ws._regions_by_accounts) == {account_id}
