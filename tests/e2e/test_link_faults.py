"""The network between daemon and MetaApi fails in every way, and every link lives through it.

The daemon and the SDK are the real ones; a proxy stands for the network. What is measured is
printed (`pytest -rP`). The suite runs with a shorter silence than the default of 20 s, so that it
ends in time; BROKERD_SUSPECT_SECONDS=20 measures what an operator gets.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

import pytest
from link_rig import PROBE_SECONDS, SUSPECT_SECONDS, Rig, running_rig, told

from brokerd.sandbox import dealing
from brokerd.sandbox.dealing import At

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]

SABOTAGED = Path(__file__).parents[1] / "support" / "sabotaged.py"
SOCKETS = 5
OPENS_PER_SECOND = 2


async def test_f1_a_reset_is_noticed_within_a_second(tmp_path, database_url):
    """TCP resets on all sockets: interrupted at once, live again on the same session."""
    async with running_rig(tmp_path, database_url) as rig:
        since = time.time()
        rig.stream.reset()
        noticed = await rig.until("syncing", since=since, within=5)
        await rig.until_live(since=since)
        live = rig.first("live", since=since)
        told(noticed_seconds=noticed, live_seconds=live)
        assert noticed <= 1
        assert all(phase != "backoff" for _, _, phase, _ in rig.moves(since=since))
        await rig.assert_exact()


@pytest.mark.parametrize("hole", ["both", "stream_out_only"])
async def test_f2_and_f6_a_black_hole_is_decided_in_time(tmp_path, database_url, hole):
    """Nothing arrives and nothing is closed, in both directions or in one: suspect, then lost."""
    async with running_rig(tmp_path, database_url) as rig:
        since = time.time()
        if hole == "both":
            rig.stream.is_black_hole = rig.rest.is_black_hole = True
        else:
            rig.stream.is_deaf = True
        suspect = await rig.until("suspect", since=since, within=SUSPECT_SECONDS + 10)
        lost = await rig.until("backoff", since=since, within=SUSPECT_SECONDS + 10)
        await asyncio.sleep(3)
        restored = time.time()
        rig.stream.is_black_hole = rig.rest.is_black_hole = rig.stream.is_deaf = False
        await rig.until_live(since=since, within=60)
        told(suspect=suspect, lost=lost, live_after_return=time.time() - restored)
        assert suspect <= SUSPECT_SECONDS + 0.5
        assert lost <= SUSPECT_SECONDS + PROBE_SECONDS + 1
        await rig.assert_exact()


async def test_f5_a_bad_line_keeps_its_links(tmp_path, database_url):
    """500 ± 400 ms, one segment in twenty lost, 10 KB/s: slow, and no reason to dial anew."""
    async with running_rig(tmp_path, database_url, links=2, deals_per_minute=20) as rig:
        since = time.time()
        for line in (rig.stream, rig.rest):
            line.latency_seconds, line.jitter_seconds = 0.5, 0.4
            line.loss, line.bytes_per_second = 0.05, 10_000.0
        await asyncio.sleep(float(os.environ.get("BROKERD_BAD_LINE_SECONDS", "15")))
        moves = rig.moves(since=since)
        for line in (rig.stream, rig.rest):
            line.latency_seconds = line.jitter_seconds = line.loss = 0.0
            line.bytes_per_second = None
        told(moves=len(moves), stream_connections=len(rig.stream.opened_at))
        assert moves == []
        await rig.assert_exact()


async def test_f7_a_server_that_slams_the_door_is_not_hammered(tmp_path, database_url):
    """Accepted and closed at once, for ten seconds: attempts stay far below the allowed rate."""
    async with running_rig(tmp_path, database_url) as rig:
        since = time.time()
        before = len(rig.stream.opened_at)
        rig.stream.slams_door = True
        rig.stream.reset()
        await asyncio.sleep(10)
        attempts = len(rig.stream.opened_at) - before
        rig.stream.slams_door = False
        await rig.until_live(since=since, within=60)
        told(attempts=attempts, most_in_a_second=rig.stream.most_opened_in(1.0))
        assert attempts < 10 * 20
        assert rig.stream.most_opened_in(1.0) <= 20
        await rig.assert_exact()


def most_within(times: Iterable[float], *, seconds: float) -> int:
    """Return how many moments the busiest span of that length holds."""
    ordered = list(times)
    return max(sum(at <= t < at + seconds for t in ordered) for at in ordered)


async def test_all_sockets_cut_at_once_come_back_no_faster_than_configured(tmp_path, database_url):
    """Must-show 3, small: five sockets, two links on each; the sandbox counts who knocks.

    Turns are half a second apart here and arrive with the machine's jitter: a quarter of a second
    of it is allowed for.
    """
    regions = [f"region-{number}" for number in range(SOCKETS)]
    environ = {"BROKERD_METAAPI__SOCKET_OPENS_PER_SECOND": str(OPENS_PER_SECOND)}
    async with running_rig(
        tmp_path, database_url, deals_per_minute=30, regions=regions, environ=environ
    ) as rig:
        attempts_at = rig.sandbox.sockets.attempts_at
        assert len(rig.sandbox.sockets.sockets) == len(attempts_at) == SOCKETS
        since = time.time()
        rig.stream.reset()
        await rig.until("syncing", since=since, within=5)
        await rig.until_live(since=since, within=30)
        live = rig.first("live", since=since)
        most = most_within(attempts_at, seconds=1 - 1 / OPENS_PER_SECOND / 2)
        told(links=len(rig.accounts), attempts=len(attempts_at), most=most, live_seconds=live)
        assert len(attempts_at) >= 2 * SOCKETS
        assert most <= OPENS_PER_SECOND
        assert all(phase != "backoff" for _, _, phase, _ in rig.moves(since=since))
        await rig.assert_exact()


SPOILT = [
    '2["synchronization",{"type":"update","accountId":"%s","sequenceNu',
    '2["synchronization",{"accountId":"%s","host":"x","sequenceNumber":3}]',
    '2["synchronization",{"type":"update","accountId":"%s","host":"x","deals":7}]',
    '2["synchronization",[{"accountId":"%s"}]]',
    '2{"accountId":"%s"}',
    "9%s",
]
"""No JSON, no type, no list, no object, no event, no packet."""


async def test_f25_packets_the_sdk_chokes_on_cost_nobody_but_their_account(tmp_path, database_url):
    """The SDK's tasks for them die; the packet they stand for is missed, and pulled in time."""
    async with running_rig(tmp_path, database_url, deals_per_minute=0.1) as rig:
        since, account = time.time(), rig.accounts[0]
        [stream] = rig.sandbox.stream.registry.of_account(account.metaapi_id)
        rig.lose_packets(account.metaapi_id, limit=1)
        lost = trade(rig, 1)
        for spoilt in SPOILT:
            stream.socket.send((spoilt % account.metaapi_id).encode())
        seconds = await until_held(rig, lost | trade(rig, 2), within=20)
        told(seconds=seconds)
        assert seconds <= 5
        assert {link for link, *_ in rig.moves(since=since)} <= {"l-0"}
        await rig.assert_exact()


async def test_f25_a_read_loop_that_dies_takes_no_other_socket_with_it(tmp_path, database_url):
    """The SDK's own task is gone: the links on its socket notice and are back, no other does."""
    async with running_rig(
        tmp_path,
        database_url,
        deals_per_minute=30,
        regions=("region-1", "region-2"),
        program=SABOTAGED,
    ) as rig:
        since = time.time()
        rig.daemon.process.send_signal(signal.SIGUSR1)
        await asyncio.sleep(1.0)
        struck = {link for link, *_ in rig.moves(since=since)}
        assert struck in ({"l-0", "l-1"}, {"l-2", "l-3"})
        noticed = max(at for _, at, phase, _ in rig.moves(since=since) if phase == "syncing")
        seconds = 0.0
        while {link for link, _, phase, _ in rig.moves(since=since) if phase == "live"} != struck:
            seconds = time.time() - since
            assert seconds < 20, rig.daemon.log
            await asyncio.sleep(0.1)
        told(noticed_seconds=noticed, live_seconds=seconds)
        assert {link for link, *_ in rig.moves(since=since)} == struck
        assert all(phase != "backoff" for _, _, phase, _ in rig.moves(since=since))
        await rig.assert_exact()


async def until_held(rig: Rig, deals: set[str], *, within: float) -> float:
    """Wait until the first link's ledger holds these deals; return the seconds."""
    began_at = time.monotonic()
    while time.monotonic() - began_at < within:
        if deals <= rig.held():
            return time.monotonic() - began_at
        await asyncio.sleep(0.05)
    raise AssertionError(f"missing: {len(deals - rig.held())} of {len(deals)}\n{rig.daemon.log}")


def trade(rig: Rig, count: int) -> set[str]:
    """Let so many deals happen on the first account, each a packet of its own."""
    account = rig.accounts[0]
    before = {deal.deal_id for deal in account.deals()}
    while len(account.deals()) < len(before) + count:
        rig.sandbox.market.trade(account)
    return {deal.deal_id for deal in account.deals()} - before


async def test_f26_a_gap_with_150_packets_behind_it_stalls_nobody(tmp_path, database_url):
    """One packet is lost and 150 wait for it: the lost one is pulled, the others go on, in time."""
    async with running_rig(tmp_path, database_url, deals_per_minute=0.1) as rig:
        rig.lose_packets(rig.accounts[0].metaapi_id, limit=1)
        seconds = await until_held(rig, trade(rig, 150), within=20)
        told(seconds=seconds)
        assert seconds <= 5
        assert 'reason="sequence"} 1.0' in await rig.metrics()
        await rig.assert_exact()


async def test_f27_what_nobody_has_heard_of_is_stored_as_it_is(tmp_path, database_url):
    """A deal of a type that is in no list is a row with its raw record, and the link goes on."""
    async with running_rig(tmp_path, database_url, deals_per_minute=0.1) as rig:
        since, account = time.time(), rig.accounts[0]
        now = rig.sandbox.broker.now()
        booking = dealing.cash(
            account, at=At(time=now, booked_at=now), type="DEAL_TYPE_OF_TOMORROW", amount=Decimal(5)
        )
        account.book(booking)
        [deal] = booking.deals
        told(seconds=await until_held(rig, {deal.deal_id}, within=5))
        assert "DEAL_TYPE_OF_TOMORROW" in rig.raw(deal.deal_id)
        assert rig.moves(since=since) == []
        await rig.assert_exact()


async def test_f26_a_gap_of_an_account_that_never_rests_is_pulled_too(tmp_path, database_url):
    """Packets that go on coming do not hide the one that is missing."""
    async with running_rig(tmp_path, database_url, deals_per_minute=0.1) as rig:

        async def go_on() -> None:
            while True:
                trade(rig, 1)
                await asyncio.sleep(0.02)

        rig.lose_packets(rig.accounts[0].metaapi_id, limit=1)
        lost = trade(rig, 1)
        going_on = asyncio.create_task(go_on())
        seconds = await until_held(rig, lost, within=20)
        going_on.cancel()
        told(seconds=seconds)
        assert seconds <= 5
        await rig.assert_exact()
