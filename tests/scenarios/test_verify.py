"""What the broker changes in history long closed is found, kept, and told."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

import pytest
from link_world import START, World, running_link

from brokerd.config.settings import LinkSettings
from brokerd.domain import Proof
from brokerd.errors import RemoteUnavailable
from brokerd.ledger.content import receipt_of
from brokerd.sandbox.facts import Amendment
from brokerd.sandbox.habits import Past

pytestmark = pytest.mark.looptime(noop_cycles=0)
DAY_SECONDS = 86_400.0
HOUR_SECONDS = 3_600.0
SETTINGS = LinkSettings(  # days of the defaults in hours
    rolling_interval_seconds=HOUR_SECONDS,
    rolling_overlap_seconds=6 * HOUR_SECONDS,
    verify_interval_seconds=HOUR_SECONDS,
    proof_interval_seconds=90 * DAY_SECONDS,
)
BEAT_SECONDS = 50.0
"""A heartbeat as rare as the service may send it: days of them are most of what these tests do."""
OLD = timedelta(days=60)
YEAR = Past(deals=100, days=300)


async def settle_in(world: World) -> None:
    """Wait until the first window is older than what the rolling pull reads."""
    await world.until_live()
    await asyncio.sleep(world.settings.rolling_overlap_seconds + 2 * HOUR_SECONDS)
    world.assert_exact()


async def eventually(world: World, is_met: Callable[[], bool], *, looks: float = 8) -> float:
    """Wait until something is so, within so many turns of the cycle; return the seconds."""
    began_at = world.clock.monotonic()
    while not is_met():
        waited = world.clock.monotonic() - began_at
        assert waited <= looks * world.settings.verify_interval_seconds
        await asyncio.sleep(60)
    return world.clock.monotonic() - began_at


def windows_of(outcome: str, world: World) -> float:
    """Count windows by outcome."""
    return world.sample("brokerd_sync_windows_total", outcome=outcome)


def assert_covered(world: World) -> None:
    """Check that windows tile history up to the watermark, each with a true receipt."""
    windows = world.state.windows[world.account_id]
    assert all(one.end == two.start for one, two in pairwise(windows))
    assert windows[-1].end == world.watermark
    for window in windows:
        inside = [d for d in world.ledger.values() if window.start <= d.time < window.end]
        assert window.receipt == receipt_of(inside)


async def test_a_deal_booked_into_the_distant_past_is_found():
    """Late by two months, behind the stream's back: no rolling pull sees it, the cycle does."""
    async with running_link(past=YEAR, settings=SETTINGS, status_seconds=BEAT_SECONDS) as world:
        await settle_in(world)
        late = world.book(age=OLD, is_quiet=True)
        assert late not in world.ledger
        await eventually(world, lambda: late in world.ledger)
        assert windows_of("mismatch", world) == 1
        assert world.events(late) == ["deal.added"]
        assert_covered(world)
        world.assert_exact()


async def test_an_edit_of_an_old_deal_is_a_revision():
    """A commission corrected after two months replaces the row, and the old row is kept."""
    async with running_link(past=YEAR, settings=SETTINGS, status_seconds=BEAT_SECONDS) as world:
        await settle_in(world)
        old = world.deal_aged(timedelta(days=200), least=OLD)
        world.account.amend(old.deal_id, Amendment(commission=old.commission - 3))
        await eventually(world, lambda: world.ledger == world.truth)
        assert [each.replaced.deal.deal_id for each in world.state.revisions] == [old.deal_id]
        assert windows_of("mismatch", world) == 1
        assert_covered(world)


async def test_an_old_deal_is_removed_only_after_three_looks_at_its_window():
    """What vanishes from the distant past follows the rule of removal, at its pace."""
    async with running_link(past=YEAR, settings=SETTINGS, status_seconds=BEAT_SECONDS) as world:
        await settle_in(world)
        gone = world.account.delete(world.deal_aged(timedelta(days=200), least=OLD).deal_id)
        await eventually(world, lambda: windows_of("mismatch", world) == 1)
        assert gone.deal_id in world.ledger
        waited = await eventually(world, lambda: gone.deal_id not in world.ledger)
        assert waited >= 2 * world.settings.removal_recheck_seconds - 60
        assert world.events(gone.deal_id)[-1] == "deal.removed"
        assert windows_of("mismatch", world) == 1
        assert_covered(world)


async def test_old_windows_become_months_and_each_is_looked_at_in_turn():
    """Nine quiet days end as a few windows, all of them verified again and again."""
    async with running_link(past=YEAR, settings=SETTINGS, status_seconds=BEAT_SECONDS) as world:
        await world.until_live()
        for _ in range(9):
            world.trade(2)
            await asyncio.sleep(DAY_SECONDS)
        windows = world.state.windows[world.account_id]
        assert len(windows) <= 4  # the first one, this month's, the last days
        assert windows_of("merged", world) >= 6
        assert windows_of("mismatch", world) == 0
        old = [w for w in windows if w.end < world.clock.now() - timedelta(hours=10)]
        assert old
        assert all(world.clock.now() - w.verified_at < timedelta(hours=4) for w in old)
        assert_covered(world)
        world.assert_exact()


async def test_the_cycle_costs_one_request_a_turn():
    """Re-reading one small window is all that a turn asks of MetaApi."""
    async with running_link(past=YEAR, settings=SETTINGS, status_seconds=BEAT_SECONDS) as world:
        await settle_in(world)
        world.service.history_asked_from.clear()
        await asyncio.sleep(DAY_SECONDS)
        old = [at for at in world.service.history_asked_from if at < START]
        assert 10 <= len(old) <= 26


async def test_a_look_that_fails_is_repeated():
    """A failure of MetaApi costs the link nothing and is followed by another look."""
    async with running_link(past=YEAR, settings=SETTINGS, status_seconds=BEAT_SECONDS) as world:
        await settle_in(world)
        late = world.book(age=OLD, is_quiet=True)

        def fail_old() -> None:
            if world.service.history_asked_from[-1] < START - timedelta(days=30):
                raise RemoteUnavailable("503")

        world.service.before_page = fail_old
        await asyncio.sleep(6 * HOUR_SECONDS)
        assert late not in world.ledger
        world.service.before_page = None
        await eventually(world, lambda: late in world.ledger, looks=2)
        assert world.phases.count("live") == 1


async def test_a_mismatch_reads_all_history_again_before_it_is_a_verdict():
    """The third mismatch in a row finds the old deal that explains it, and is none."""
    async with running_link(past=YEAR, settings=SETTINGS, status_seconds=BEAT_SECONDS) as world:
        await world.until_live()
        await world.until(lambda: world.status.proof is Proof.PROVEN, within=1)
        world.book(age=OLD, is_quiet=True)
        world.service.kill(world.account.metaapi_id)
        await world.until(lambda: "mismatch 2 of 3" in world.status.proof_detail, within=130)
        assert world.ledger != world.truth
        await world.until(lambda: world.status.proof is Proof.PROVEN, within=70)
        assert world.ledger == world.truth
        assert world.sample("brokerd_balance_proofs_total", verdict="mismatch") == 0
        assert_covered(world)


async def test_a_mismatch_that_history_cannot_explain_is_read_for_once():
    """All windows are read again before the verdict, and not for every look after it."""
    async with running_link(past=YEAR, settings=SETTINGS, status_seconds=BEAT_SECONDS) as world:
        world.service.information_changes = {"balance": world.account.balance + 1}
        await world.until_live()
        await world.until(lambda: world.status.proof is Proof.MISMATCH, within=140)
        assert "balance 1.00" in world.status.proof_detail
        verified = windows_of("verified", world)
        assert verified == len(world.state.windows[world.account_id])
        await asyncio.sleep(3_600)
        assert windows_of("verified", world) == verified
