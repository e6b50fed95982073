"""Postgres is away, slow, or says that the lease is somebody else's."""

import asyncio
import sys

import pytest
from link_world import running_link

from brokerd.config.settings import LinkSettings
from brokerd.domain import Desired, Phase
from brokerd.sandbox.faults import FaultKind

pytestmark = pytest.mark.looptime(noop_cycles=0)


@pytest.mark.parametrize("seconds", [0.005, 0.03, 0.05, 0.07, 0.09, 0.11, 0.2, 10.0, 310.0])
async def test_a_lease_that_is_taken_ends_the_link_at_its_next_write(seconds):
    """Fenced at whatever write comes next: `run` raises, nothing is written any more."""
    async with running_link() as world:
        await world.until(lambda: world.link is not None)
        await asyncio.sleep(seconds)
        world.steal()
        rows, status, head = dict(world.state.deals), world.status, world.watermark
        events = list(world.state.events)
        world.trade(3)
        await world.until(lambda: world.is_fenced, within=301)
        await asyncio.sleep(50)
        assert world.state.deals == rows
        assert world.state.events == events
        assert world.status == status
        assert world.watermark == head
        assert world.lease.owner == 99
        assert world.service.open_sessions == 0


@pytest.mark.parametrize("phase", [Phase.BACKOFF, Phase.SYNCING])
async def test_a_waiting_link_is_fenced_too(phase):
    """A link that waits finds out when it next speaks, and dials nothing."""
    async with running_link() as world:
        if phase is Phase.SYNCING:
            world.switch_on(FaultKind.SYNCHRONIZING)
        else:
            world.service.is_down = True
        await world.until_phase(phase)
        world.steal()
        world.faults.switch_off_all()
        world.service.is_down = False
        await world.until(lambda: world.is_fenced, within=61)
        assert not [row for row in world.phases if row is Phase.LIVE]


async def test_a_fenced_link_leaves_the_pause_to_the_new_owner():
    """Told to leave after its lease was taken, it writes no status and frees no slot."""
    async with running_link() as world:
        await world.until_live()
        world.steal()
        status = world.status
        world.link.drain()
        await world.until(lambda: world.is_fenced, within=1)
        assert world.status == status
        assert world.lease.owner == 99


async def test_a_live_link_stays_live_while_the_store_is_away():
    """Ten minutes without Postgres: one session, no deal lost, none acknowledged early."""
    async with running_link() as world:
        await world.until_live()
        await asyncio.sleep(5)
        world.wire.is_cut = True
        made = []
        for _ in range(20):
            made += world.trade()
            await asyncio.sleep(30)
        assert not set(made) & set(world.ledger)
        world.wire.is_cut = False
        await world.until(lambda: set(made) <= set(world.ledger), within=10)
        await asyncio.sleep(400)
        assert world.phases.count(Phase.LIVE) == 1
        assert len(world.service.opened) == 1
        world.assert_exact()


async def test_a_store_that_takes_two_seconds_a_commit_costs_no_session():
    """Deals wait for the commit before theirs and for their own; nothing else changes."""
    async with running_link() as world:
        await world.until_live()
        await asyncio.sleep(5)
        world.wire.commit_seconds = 2.0
        latest = 0.0
        for _ in range(300):
            made = world.trade()
            await asyncio.sleep(0.1)
            latest = max(latest, world.sample("brokerd_buffer_deals"))
        within = await world.until(lambda: set(made) <= set(world.ledger), within=4.2)
        await asyncio.sleep(700)
        batches = world.sample("brokerd_db_transaction_duration_seconds_count", op="write")
        assert (len(world.service.opened), world.phases.count(Phase.LIVE)) == (1, 1)
        world.assert_exact()
    sys.stdout.write(
        f"{len(world.truth)} deals in {batches:.0f} commits, at most {latest:.0f} in the buffer,"
        f" the last one there after {within:.1f} s\n"
    )
    assert batches < 40


async def test_a_status_the_store_missed_is_stored_when_it_is_back():
    """A change of phase during the outage is told once the store can be told."""
    async with running_link() as world:
        await world.until_live()
        await asyncio.sleep(1)
        world.wire.is_cut = True
        world.change(labels={"colour": "blue"})
        await asyncio.sleep(30)
        assert world.status.observed_generation == 1
        world.wire.is_cut = False
        await world.until(lambda: world.status.observed_generation == 2, within=11)
        assert world.phase is Phase.LIVE


async def test_a_link_that_leaves_without_a_store_is_released_later():
    """The release is repeated until Postgres takes it, and the last word is stored first."""
    async with running_link() as world:
        await world.until_live()
        world.wire.is_cut = True
        world.change(desired=Desired.PAUSED)
        await asyncio.sleep(120)
        assert world.lease.owner is not None
        assert world.service.open_sessions == 0
        world.wire.is_cut = False
        await world.until(lambda: world.lease.owner is None, within=2)
        assert world.phase is Phase.PAUSED
        assert world.status.observed_generation == 2


async def test_the_last_word_is_stored_before_the_lease_is_free():
    """When only the reports fail, the lease waits for them: nobody could send them later."""
    async with running_link() as world:
        await world.until_live()
        world.wire.reports_to_fail = 5
        world.change(desired=Desired.PAUSED)
        await world.until(lambda: world.lease.owner is None, within=10)
        assert world.phase is Phase.PAUSED


async def test_a_backoff_without_a_store_goes_on():
    """A backoff that cannot be saved is waited out all the same."""
    async with running_link() as world:
        await world.until_live()
        world.wire.is_cut = True
        world.service.kill(world.account.metaapi_id)
        await asyncio.sleep(20)
        assert len(world.service.opened) >= 2
        world.wire.is_cut = False
        await world.until(lambda: world.phase is Phase.LIVE, within=120)
        await asyncio.sleep(2)
        world.assert_exact()


async def test_a_slow_report_never_overwrites_a_newer_one():
    """Two reports at once are stored in the order in which they became true."""
    async with running_link() as world:
        world.wire.report_seconds = [0.0, 0.0, 0.0, 0.0, 2.0, 0.0]  # the one that says live is slow
        await asyncio.sleep(0.5)
        world.change(labels={"colour": "blue"})
        await asyncio.sleep(5)
        assert world.phase is Phase.LIVE
        assert world.status.observed_generation == 2


async def test_a_claimed_link_dials_though_the_store_hangs():
    """What a link in `claimed` waits for has a limit: then it dials, and is live, all the same."""
    world_settings = LinkSettings(report_seconds=7.0)
    async with running_link(settings=world_settings) as world:
        world.wire.report_seconds = [3_600.0]
        await world.until(lambda: world.service.accounts_asked_at)
        [asked_at] = world.service.accounts_asked_at
        assert asked_at == pytest.approx(7.0, abs=0.5)
        await world.until_live()
        assert Phase.CLAIMED not in world.phases  # the next word was sooner
