"""A link loses its stream, its broker, its terminal, a whole night; and nothing of its deals."""

import asyncio
from datetime import timedelta

import pytest
from link_world import World, running_link, subsequence
from structlog.testing import capture_logs

from brokerd.config.settings import MarketHours
from brokerd.domain import Phase, Proof
from brokerd.health.calendar import calendar_of
from brokerd.sandbox.facts import ConnectionStatus
from brokerd.sandbox.faults import FaultKind

pytestmark = pytest.mark.looptime(noop_cycles=0)
RECONNECTS = "brokerd_link_reconnects_total"


async def test_a_dropped_session_comes_back_and_is_pulled():
    """After a drop the link syncs on the same session and is live again, with all deals made."""
    async with running_link() as world:
        await world.until_live()
        world.service.drop(world.account.metaapi_id)
        missed = world.trade(10)
        await world.until_phase(Phase.SYNCING, within=1)
        assert world.entered.reason == "Reconnecting"
        assert await world.until_live() < 5
        assert set(missed) <= set(world.ledger)
        assert len(world.service.opened) == 1
        assert world.sample(RECONNECTS) == 1
        await world.until(lambda: world.status.proof_detail == f"{len(world.truth)} deals")
        world.assert_exact()


async def test_a_reconnect_reads_a_quarter_of_an_hour_again():
    """The pull after a reconnect starts at the watermark less its overlap, not at the beginning."""
    async with running_link() as world:
        await world.until_live()
        watermark = world.watermark
        world.service.drop(world.account.metaapi_id)
        await world.until_live()
        overlap = timedelta(seconds=world.settings.reconnect_overlap_seconds)
        assert world.service.history_asked_from[-1] == watermark - overlap


async def test_the_ledger_goes_on_while_only_the_stream_is_away():
    """REST works, the stream does not come back: deals are pulled all the same, minutes old.

    The account is verified before each such pull, and the link does not pretend to be live.
    """
    async with running_link() as world:
        await world.until_live()
        world.switch_on(FaultKind.MUTE)
        world.service.drop(world.account.metaapi_id)
        for _ in range(20):
            made = world.trade(2)
            await world.until(lambda made=made: set(made) <= set(world.ledger), within=395)
            assert world.phase is not Phase.LIVE
        assert world.watermark > world.clock.now() - timedelta(seconds=395)
        asked = len(world.service.history_asked_at)
        assert asked < 60
        world.service.information_changes = {"login": "1"}
        rows = dict(world.state.deals)
        world.trade(2)
        await world.until_phase(Phase.QUARANTINED, within=395)
        assert world.state.deals == rows


async def test_a_hundred_drops_lose_and_double_nothing():
    """A session that drops again and again, in the middle of syncs too, ends exact."""
    async with running_link() as world:
        await world.until_live()
        for drop in range(100):
            world.trade(2)
            world.service.drop(world.account.metaapi_id)
            await asyncio.sleep(0.5 + drop % 7)
        await asyncio.sleep(60)
        await world.until_live(within=600)
        assert world.sample(RECONNECTS) <= 100
        world.assert_exact()


async def test_a_reconnect_counts_once_the_link_is_live_again():
    """A session that breaks while it recovers has come back once, not twice."""
    async with running_link() as world:
        await world.until_live()
        world.service.drop(world.account.metaapi_id)
        await world.until_phase(Phase.SYNCING, within=1)
        world.service.before_page = lambda: world.service.drop(world.account.metaapi_id)
        await asyncio.sleep(10)
        world.service.before_page = None
        assert world.phase is Phase.SYNCING
        await world.until_live()
        assert world.sample(RECONNECTS) == 1


async def test_a_session_that_never_comes_back_is_dialled_again():
    """Disconnected for longer than the limit: backoff, a new session, nothing lost."""
    async with running_link() as world:
        await world.until_live()
        world.service.is_down = True
        missed = world.trade(3)
        await world.until_phase(Phase.BACKOFF, within=65)
        assert world.entered.reason == "ConnectTimeout"
        await asyncio.sleep(20)
        world.service.is_down = False
        await world.until_live(within=world.settings.backoff_ceiling_seconds)
        assert len(world.service.opened) >= 2
        assert set(missed) <= set(world.ledger)
        world.assert_exact()


async def test_a_broken_session_is_dialled_again_at_once():
    """The first loss after a long good time costs no wait."""
    async with running_link() as world:
        await world.until_live()
        await asyncio.sleep(1_000)
        world.service.kill(world.account.metaapi_id)
        missed = world.trade(3)
        await world.until_phase(Phase.BACKOFF, within=1)
        assert await world.until_live() < 1
        assert set(missed) <= set(world.ledger)
        world.assert_exact()


async def test_a_night_of_outage():
    """A service that is away for eight hours: few attempts, and back within one ceiling."""
    async with running_link() as world:
        await world.until_live()
        world.service.is_down = True
        for _ in range(8):
            await asyncio.sleep(3_600)
            world.trade(5)
        assert world.status.phase is Phase.BACKOFF
        assert world.lease.backoff_bound_seconds == world.settings.backoff_ceiling_seconds
        assert 96 <= world.sample("brokerd_link_failures_total", code="remote_unavailable") <= 400
        world.service.is_down = False
        assert await world.until_live(within=302) <= world.settings.backoff_ceiling_seconds + 2
        await world.until(lambda: world.status.proof is Proof.PROVEN, within=1)
        world.assert_exact()


async def test_backoff_grows_across_releases_and_claims():
    """The bound is stored with the lease and taken up by the next claim, whoever claims."""
    async with running_link() as world:
        await world.until_live()
        world.service.is_down = True
        await asyncio.sleep(3_600)
        bounds = [claim.backoff.bound_seconds for claim in world.claims]
        assert len(bounds) > 5
        assert bounds == sorted(bounds)
        assert bounds[-1] == world.settings.backoff_ceiling_seconds
        assert world.status.next_attempt_at is not None
        assert world.status.attempt == world.lease.attempt >= len(bounds)


async def test_a_link_that_stood_forgets_its_backoff_when_it_leaves_in_order():
    """Backoff from yesterday does not slow the next owner of a link that was live since."""
    async with running_link() as world:
        world.service.is_down = True
        await asyncio.sleep(1_000)
        world.service.is_down = False
        await world.until_live(within=302)
        assert world.lease.attempt > 3
        await asyncio.sleep(world.settings.stable_seconds + 1)
        world.link.drain()
        await world.until(lambda: world.link is None)
        assert (world.lease.attempt, world.lease.backoff_bound_seconds) == (0, 0.0)


async def test_a_link_that_stands_forgets_its_backoff_for_good():
    """Five minutes live and the store knows it: a node killed later leaves no old failures."""
    async with running_link() as world:
        world.service.is_down = True
        await asyncio.sleep(1_000)
        world.service.is_down = False
        await world.until_live(within=302)
        attempt = world.lease.attempt
        assert attempt > 3
        await asyncio.sleep(world.settings.stable_seconds - 2)
        assert world.lease.attempt == attempt
        await asyncio.sleep(4)
        assert (world.lease.attempt, world.lease.backoff_bound_seconds) == (0, 0.0)
        assert world.phases.count(Phase.LIVE) == 1


async def test_a_link_that_flaps_keeps_its_backoff():
    """Live for less than `stable_seconds` is no reason to dial at once again."""
    async with running_link() as world:
        for _ in range(6):
            await world.until_live(within=60)
            await asyncio.sleep(20)
            world.service.kill(world.account.metaapi_id)
            await world.until_phase(Phase.BACKOFF, within=1)
        assert world.status.attempt == 6


async def test_a_broker_away_for_a_weekend_costs_no_restart():
    """While the terminal beats, a broker may stay away: one session, live when it is back."""
    hours = MarketHours(time_zone="UTC", open=("Thu 00:00-Mon 12:00",))  # the world starts then
    async with running_link(calendar=calendar_of({"*": hours})) as world:
        await world.until_live()
        world.account.set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)
        await world.until_phase(Phase.SYNCING, within=1)
        assert world.entered.reason == "BrokerDisconnected"
        await asyncio.sleep(48 * 3_600)
        world.book()
        world.account.set_connection(ConnectionStatus.CONNECTED)
        assert await world.until_live() < 2
        assert len(world.service.opened) == 1
        world.assert_exact()


async def test_a_loss_out_of_hours_wakes_nobody():
    """What is lost at a weekend, by the broker's hours, is told but no warning; it comes back."""
    hours = MarketHours(time_zone="UTC", open=("Tue 00:00-Fri 24:00",))  # the world starts Monday
    calendar = calendar_of({"*": hours})
    for known, level in ((calendar, "info"), (None, "warning")):
        with capture_logs() as logs:
            async with running_link(calendar=known) as world:
                await world.until_live()
                world.switch_on(FaultKind.MUTE)
                await world.until_phase(Phase.BACKOFF, within=60)
                world.switch_off(FaultKind.MUTE)
                await world.until_live(within=60)
        (first, *_) = (log for log in logs if log["event"] == "link.lost")
        assert first["log_level"] == level


async def test_a_terminal_that_never_answers_is_given_up():
    """A session on which nobody speaks ends in backoff after the connect limit."""
    async with running_link() as world:
        world.switch_on(FaultKind.MUTE)
        await world.until_phase(Phase.CONNECTING)
        waited = await world.until_phase(Phase.BACKOFF, within=70)
        assert waited == pytest.approx(world.settings.connect_timeout_seconds, abs=2)
        world.switch_off(FaultKind.MUTE)
        await world.until_live(within=302)
        assert subsequence([Phase.CONNECTING, Phase.BACKOFF, Phase.LIVE], world.phases)


async def test_a_lost_session_leaves_no_cancellation_behind():
    """A link waits for its next dial as a task that nobody cancelled.

    A group that failed marks its task as being cancelled (before Python 3.13); on 3.11.2 the next
    `asyncio.timeout` then ends the link for good, with its lease.
    """
    async with running_link() as world:
        await world.until_live()
        world.switch_on(FaultKind.MUTE)
        await world.until_phase(Phase.BACKOFF, within=120)
        await world.until(lambda: len(world.leases.cancellations_seen) >= 2, within=600)
        assert set(world.leases.cancellations_seen) == {0}


async def test_a_link_that_is_cut_as_its_session_breaks_ends_all_the_same():
    """Of a group that fails while it is cancelled only the failure is told; the cut must hold."""
    world = World()
    async with asyncio.TaskGroup() as group:
        others = [group.create_task(each.run()) for each in (world.writer, world.desk)]
        link = group.create_task(world.run())
        await world.until_live()
        world.service.kill(world.account.metaapi_id)
        link.cancel()
        ended, _ = await asyncio.wait([link], timeout=60)
        for task in (link, *others):
            task.cancel()
    assert ended
    assert world.phases[-1] is Phase.LIVE  # it wrote nothing any more
