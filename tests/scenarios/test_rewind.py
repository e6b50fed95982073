"""The database goes back under a live link: a failover lost the last commits."""

import asyncio
import sys
from copy import copy
from datetime import timedelta
from itertools import pairwise

import pytest
from link_world import World, running_link

from brokerd.config.settings import LinkSettings
from brokerd.domain import Phase, Proof
from brokerd.errors import LedgerRewound
from brokerd.ledger.content import receipt_of

pytestmark = pytest.mark.looptime(noop_cycles=0)
# so that twelve hours are more than a rolling pull reads
SETTINGS = LinkSettings(rolling_interval_seconds=3_600, rolling_overlap_seconds=21_600)
TABLES = ("deals", "revisions", "events", "windows", "heads", "links")
HOUR = timedelta(hours=1)


def saved(world: World) -> dict[str, object]:
    """Keep the ledger as it stands."""
    return {name: copy(getattr(world.state, name)) for name in TABLES}


def go_back(world: World, tables: dict[str, object]) -> None:
    """Let the ledger be as it was."""
    for name, rows in tables.items():
        setattr(world.state, name, rows)


def assert_covered(world: World) -> None:
    """Check that windows tile history up to the watermark, each with a true receipt."""
    windows = world.state.windows[world.account_id]
    assert windows[0].start < min(deal.time for deal in world.truth.values())
    assert all(one.end == two.start for one, two in pairwise(windows))
    assert windows[-1].end == world.watermark
    for window in windows:
        inside = [d for d in world.ledger.values() if window.start <= d.time < window.end]
        assert window.receipt == receipt_of(inside)


@pytest.mark.parametrize("hours", [1, 5, 12])
async def test_lost_commits_are_pulled_again_on_the_same_session(hours):
    """However far back: no new session, no hole, every deal there again within a rolling pull."""
    async with running_link(settings=SETTINGS) as world:
        await world.until_live()
        await asyncio.sleep(10)
        before = saved(world)
        for _ in range(hours):
            world.trade()
            await asyncio.sleep(HOUR.total_seconds())
        known, watermark = len(world.ledger), world.watermark
        go_back(world, before)
        lost = known - len(world.ledger)
        assert watermark - world.watermark >= (hours - 1) * HOUR
        waited = await world.until(lambda: world.ledger == world.truth, within=3_700)
        await world.until(lambda: world.watermark > watermark, within=3_700)
        await asyncio.sleep(2 * HOUR.total_seconds())
        assert (len(world.service.opened), world.phases.count(Phase.LIVE)) == (1, 1)
        assert world.status.proof is Proof.PROVEN
        assert_covered(world)
        world.assert_exact()
        code = LedgerRewound.code
        found = world.sample("brokerd_sync_pulls_total", kind="rolling", outcome=code)
    sys.stdout.write(f"{hours} h, {lost} deals lost: there again after {waited:.0f} s\n")
    assert found == 1


async def test_a_ledger_that_lost_its_beginning_is_pulled_from_there():
    """Even the first window is gone: the next one does not pretend that it was there."""
    async with running_link(settings=SETTINGS) as world:
        await world.until(lambda: bool(world.state.links))
        before = saved(world)
        await world.until_live()
        world.trade(3)
        await asyncio.sleep(5)
        go_back(world, before)
        assert (world.ledger, world.watermark) == ({}, None)
        await world.until(lambda: world.ledger == world.truth, within=3_700)
        await asyncio.sleep(2 * HOUR.total_seconds())
        assert len(world.service.opened) == 1
        assert_covered(world)
        world.assert_exact()


async def test_a_ledger_that_goes_back_while_a_link_syncs_leaves_no_hole():
    """The span that was being pulled began where the lost watermark was; the next try does not."""
    async with running_link(settings=SETTINGS) as world:
        await world.until_live()
        await asyncio.sleep(10)
        before = saved(world)
        for _ in range(12):
            world.trade()
            await asyncio.sleep(HOUR.total_seconds())
        world.service.drop(world.account.metaapi_id)
        went_back = iter([True])

        def go_back_once() -> None:
            if next(went_back, False):
                go_back(world, before)

        world.service.between_pages = go_back_once
        await world.until(lambda: world.sample("brokerd_link_reconnects_total") == 1, within=120)
        assert world.ledger == world.truth
        await asyncio.sleep(2 * HOUR.total_seconds())
        assert_covered(world)
        world.assert_exact()
