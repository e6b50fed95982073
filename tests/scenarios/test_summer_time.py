"""F36: a broker's clocks go back or forward, and stand still meanwhile; the ledger keeps UTC."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from link_world import running_link

from brokerd.domain import Phase, Proof
from brokerd.ledger.content import receipt_of
from brokerd.sandbox.facts import Amendment, ConnectionStatus
from brokerd.sandbox.habits import Past

pytestmark = pytest.mark.looptime(noop_cycles=0)

HOUR = timedelta(hours=1)
BUSY = Past(deals=60, days=2.5)


def without_wall(deals):
    """Return deals without what the broker's clock on the wall showed."""
    return {deal_id: replace(deal, broker_time="") for deal_id, deal in deals.items()}


def assert_whole(world):
    """No window skipped, none doubled, each receipt that of the deals in it; each deal once."""
    windows = sorted(world.state.windows[world.account_id], key=lambda window: window.start)
    assert all(one.end == two.start for one, two in pairwise(windows))
    deals = world.ledger.values()
    for window in windows:
        inside = [deal for deal in deals if window.start <= deal.time < window.end]
        assert window.receipt == receipt_of(inside)
    assert without_wall(world.ledger) == without_wall(world.truth)
    told = [(event.deal_id, event.revision) for event in world.state.events if event.deal_id]
    assert len(told) == len(set(told))


@pytest.mark.parametrize("change", [HOUR, -HOUR], ids=["forward", "back"])
async def test_f36_the_brokers_clock_jumps_and_stands_still(change):
    """Trades around it, and forty minutes without a broker: UTC goes on, and so does all else.

    Where the clock goes back, later deals show earlier times on the wall of the broker.
    """
    async with running_link(past=BUSY) as world:
        await world.until_live()
        made = []
        for minute in range(0, 240, 10):
            made += world.trade() if not 110 <= minute < 150 else []
            if minute == 110:
                world.account.set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)
            if minute == 120:
                world.account.server.utc_offset += change
            if minute == 150:
                world.account.set_connection(ConnectionStatus.CONNECTED)
            await asyncio.sleep(600)
        await asyncio.sleep(700)
        assert world.phase is Phase.LIVE
        assert len(world.service.opened) == 1
        assert set(made) <= set(world.ledger)
        assert all(world.events(deal_id) == ["deal.added"] for deal_id in made)
        walls = [world.ledger[deal_id].broker_time for deal_id in made]
        if change < timedelta(0):
            assert walls != sorted(walls)
        assert_whole(world)
        assert world.status.proof is Proof.PROVEN


@pytest.mark.parametrize("change", [HOUR, -HOUR], ids=["later", "earlier"])
async def test_f36_a_history_whose_times_moved_by_an_hour_is_revised(change):
    """A service that reckons old times by the new offset tells each deal an hour off: revised."""
    async with running_link(past=BUSY) as world:
        await world.until_live()
        await asyncio.sleep(7_200)
        before = set(world.ledger)
        for deal in world.account.deals():
            if deal.time + change <= world.clock.now():
                world.account.amend(deal.deal_id, Amendment(time=deal.time + change))
        await world.until(lambda: world.ledger == world.truth, within=2 * 310)
        await asyncio.sleep(2_000)
        assert set(world.ledger) == before
        assert {tuple(world.events(deal_id)) for deal_id in before} <= {
            ("deal.added",),
            ("deal.added", "deal.revised"),
        }
        assert_whole(world)
        assert world.status.proof is Proof.PROVEN
