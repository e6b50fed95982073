"""Each fault of the stream does what it says, is counted where it strikes, and ends."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import pytest

from brokerd.sandbox.faults import Fault, FaultKind
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox
from brokerd.sandbox.stream import StreamSettings
from brokerd.sandbox.truth import TruthAccount

Connect = Callable[..., AbstractAsyncContextManager[Any]]

QUIET = SandboxSettings(deals_per_account_minute=0, stream=StreamSettings(status_seconds=0.2))


def trade(sandbox: Sandbox, account: TruthAccount, *, changes: int) -> None:
    """Let so many changes happen."""
    for _ in range(changes):
        sandbox.market.trade(account)


def numbers(client: Any) -> list[int]:
    """Return the sequence numbers of the updates so far."""
    return [packet["sequenceNumber"] for packet in client.of("update")]


async def test_a_lost_packet_leaves_a_gap(connect: Connect) -> None:
    """The packet and its number are missing; what follows has the next ones."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        last = (await client.synchronize(account.metaapi_id))[-1]["sequenceNumber"]
        sandbox.faults.switch_on(Fault(kind=FaultKind.LOSE_PACKETS, limit=2))
        trade(sandbox, account, changes=4)
        await client.until(lambda: len(numbers(client)) == 2)
        assert numbers(client) == [last + 3, last + 4]
        assert sandbox.faults.injected[FaultKind.LOSE_PACKETS] == 2


async def test_a_duplicated_packet_comes_twice(connect: Connect) -> None:
    """Both copies are the same, number and all."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        await client.synchronize(account.metaapi_id)
        sandbox.faults.switch_on(Fault(kind=FaultKind.DUPLICATE_PACKETS, limit=1))
        trade(sandbox, account, changes=2)
        await client.until(lambda: len(numbers(client)) == 3)
        first, second, third = client.of("update")
        assert first == second
        assert third["sequenceNumber"] == first["sequenceNumber"] + 1
        assert sandbox.faults.injected[FaultKind.DUPLICATE_PACKETS] == 1


async def test_a_reordered_packet_follows_its_successor(connect: Connect) -> None:
    """Two packets change places; nothing is lost."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        last = (await client.synchronize(account.metaapi_id))[-1]["sequenceNumber"]
        sandbox.faults.switch_on(Fault(kind=FaultKind.REORDER_PACKETS, limit=1))
        trade(sandbox, account, changes=3)
        await client.until(lambda: len(numbers(client)) == 3)
        assert numbers(client) == [last + 2, last + 1, last + 3]


async def test_a_reordered_packet_without_a_successor_comes_in_the_end(connect: Connect) -> None:
    """The last packet of a quiet account is late, not lost."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        await client.synchronize(account.metaapi_id)
        sandbox.faults.switch_on(Fault(kind=FaultKind.REORDER_PACKETS, limit=1))
        trade(sandbox, account, changes=1)
        await client.read_for(0.3)
        assert numbers(client) == []
        await client.until(lambda: len(numbers(client)) == 1)


async def test_a_mute_account_says_nothing_while_others_speak(connect: Connect) -> None:
    """No packet, no status and no answer of that account; a gap is left behind."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        mute, loud = sandbox.add_account(), sandbox.add_account()
        for account in (mute, loud):
            await client.synchronize(account.metaapi_id)
        fault = Fault(kind=FaultKind.MUTE, account_ids=frozenset({mute.metaapi_id}))
        sandbox.faults.switch_on(fault)
        before = len(client.packets)
        await client.request("refreshMarketDataSubscriptions", mute.metaapi_id)
        for account in (mute, loud):
            trade(sandbox, account, changes=2)
        await client.read_for(0.5)
        speakers = {packet["accountId"] for packet in client.packets[before:]}
        assert speakers == {loud.metaapi_id}
        assert sandbox.faults.injected[FaultKind.MUTE] >= 4
        sandbox.faults.switch_off(FaultKind.MUTE)
        trade(sandbox, mute, changes=1)
        await client.until(lambda: client.packets[-1]["accountId"] == mute.metaapi_id)


async def test_the_status_stops_and_all_else_goes_on(connect: Connect) -> None:
    """A client sees deals but no heartbeat."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        await client.synchronize(account.metaapi_id)
        sandbox.faults.switch_on(Fault(kind=FaultKind.STOP_STATUS))
        await client.read_for(0.1)  # one may be on its way
        before = len(client.of("status"))
        await client.read_for(0.6)
        trade(sandbox, account, changes=1)
        await client.until(lambda: len(numbers(client)) == 1)
        assert len(client.of("status")) == before
        assert sandbox.faults.injected[FaultKind.STOP_STATUS] >= 2
        sandbox.faults.switch_off_all()
        await client.until(lambda: len(client.of("status")) > before)


async def test_a_burst_follows_the_end_of_the_synchronization_at_once(connect: Connect) -> None:
    """The deals are made and sent before anything else can happen on the socket."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        sandbox.faults.switch_on(Fault(kind=FaultKind.BURST_AFTER_SYNC, limit=1, count=20))
        known = account.deal_count
        await client.synchronize(account.metaapi_id)
        await client.until(lambda: len(client.deal_ids()) >= 20)
        assert len(client.deal_ids()) == account.deal_count - known
        end = client.types().index("dealSynchronizationFinished")
        assert client.types()[end + 1] == "update"
        assert sandbox.faults.injected[FaultKind.BURST_AFTER_SYNC] == 1


async def is_cut(client: Any, *, seconds: float = 1.0) -> bool:
    """Say whether the client's socket ends within that time."""
    try:
        await client.read_for(seconds)
    except EOFError:
        return True
    return False


@pytest.mark.parametrize("reliability", ["regular", "high"])
async def test_only_the_second_socket_is_dropped(connect: Connect, reliability: Any) -> None:
    """The socket that carries instance 1 alone is cut, the other one lives on."""
    async with (
        running_sandbox(QUIET) as sandbox,
        connect(sandbox) as first,
        connect(sandbox) as second,
    ):
        account = sandbox.add_account(reliability=reliability)
        await first.synchronize(account.metaapi_id)
        await second.subscribe(account.metaapi_id, instance=1)
        sandbox.faults.switch_on(Fault(kind=FaultKind.DROP_IDLE_SOCKETS, limit=1))
        assert await is_cut(second)
        assert not await is_cut(first, seconds=0.3)
        assert sandbox.faults.injected[FaultKind.DROP_IDLE_SOCKETS] == 1


async def test_a_fault_without_a_target_waits_for_one(connect: Connect) -> None:
    """Nothing is counted while no second socket exists; the first to come is cut."""
    async with (
        running_sandbox(QUIET) as sandbox,
        connect(sandbox) as first,
        connect(sandbox) as second,
    ):
        account = sandbox.add_account()
        await first.synchronize(account.metaapi_id)
        sandbox.faults.switch_on(Fault(kind=FaultKind.DROP_IDLE_SOCKETS, limit=1))
        assert not await is_cut(first, seconds=0.3)
        assert sandbox.faults.injected[FaultKind.DROP_IDLE_SOCKETS] == 0
        await second.subscribe(account.metaapi_id, instance=1)
        assert await is_cut(second)


async def test_all_sockets_of_the_accounts_are_dropped_and_no_others(connect: Connect) -> None:
    """A fault for one account leaves the sockets of others alone."""
    async with (
        running_sandbox(QUIET) as sandbox,
        connect(sandbox) as first,
        connect(sandbox) as other,
    ):
        hit, spared = sandbox.add_account(), sandbox.add_account()
        await first.synchronize(hit.metaapi_id)
        await other.synchronize(spared.metaapi_id)
        accounts = frozenset({hit.metaapi_id})
        sandbox.faults.switch_on(Fault(kind=FaultKind.DROP_SOCKETS, account_ids=accounts, limit=1))
        assert await is_cut(first)
        assert not await is_cut(other, seconds=0.3)
        assert sandbox.faults.injected[FaultKind.DROP_SOCKETS] == 1


async def test_the_second_socket_goes_later_than_the_first(connect: Connect) -> None:
    """Both are cut, the second one after `seconds`: the order that wipes the plain SDK's state."""
    async with (
        running_sandbox(QUIET) as sandbox,
        connect(sandbox) as first,
        connect(sandbox) as second,
    ):
        account = sandbox.add_account()
        await first.synchronize(account.metaapi_id)
        await second.subscribe(account.metaapi_id, instance=1)
        sandbox.faults.switch_on(Fault(kind=FaultKind.DELAY_IDLE_SOCKET, limit=1, seconds=0.5))
        assert await is_cut(first)
        assert not await is_cut(second, seconds=0.2)
        assert await is_cut(second)
        assert sandbox.faults.injected[FaultKind.DELAY_IDLE_SOCKET] == 1


async def test_sockets_are_dropped_again_at_the_faults_pace(connect: Connect) -> None:
    """Without a limit the fault returns `per_minute` times a minute."""
    async with running_sandbox(QUIET) as sandbox:
        account = sandbox.add_account()
        sandbox.faults.switch_on(Fault(kind=FaultKind.DROP_SOCKETS, per_minute=120))
        async with connect(sandbox) as client:
            await client.subscribe(account.metaapi_id)
            assert await is_cut(client)
        async with connect(sandbox) as client:
            await client.subscribe(account.metaapi_id)
            assert not await is_cut(client, seconds=0.2)
            assert await is_cut(client)
        assert sandbox.faults.injected[FaultKind.DROP_SOCKETS] == 2


async def test_a_stalled_upgrade_is_counted() -> None:
    """The probe gets no answer while the fault is on."""
    async with running_sandbox(QUIET) as sandbox, aiohttp.ClientSession() as http:
        query = f"auth-token={sandbox.settings.token}&EIO=3"
        async with http.get(f"{sandbox.url}/ws/?{query}&transport=polling&b64=1") as answer:
            sid = (await answer.text()).partition('"sid":"')[2][:32]
        sandbox.faults.switch_on(Fault(kind=FaultKind.STALL_UPGRADE, limit=1))
        url = f"{sandbox.url}/ws/?{query}&transport=websocket&sid={sid}"
        async with http.ws_connect(url) as websocket:
            await websocket.send_str("2probe")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(websocket.receive(), 0.3)
        assert sandbox.faults.injected[FaultKind.STALL_UPGRADE] == 1
        async with http.ws_connect(url) as websocket:
            await websocket.send_str("2probe")
            assert await websocket.receive_str() == "3probe"


async def test_a_lost_broker_shows_in_the_status(connect: Connect) -> None:
    """While the fault is on the terminal is not connected; afterwards it is again."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        await client.synchronize(account.metaapi_id)
        sandbox.faults.switch_on(Fault(kind=FaultKind.BROKER_DISCONNECT))
        await client.until(lambda: client.of("status")[-1]["connected"] is False)
        trade(sandbox, account, changes=2)
        await client.read_for(0.2)
        assert numbers(client) == []
        sandbox.faults.switch_off(FaultKind.BROKER_DISCONNECT)
        await client.until(lambda: len(numbers(client)) == 2)
        assert client.of("status")[-1]["connected"] is True
