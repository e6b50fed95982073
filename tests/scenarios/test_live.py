"""What a live link hears at once, and how it finds what it did not hear."""

import asyncio
from datetime import timedelta

import pytest
from link_world import running_link

from brokerd.domain import Phase, Proof, Source
from brokerd.sandbox.faults import FaultKind

pytestmark = pytest.mark.looptime(noop_cycles=0)
FOUND_BY_PULL = "brokerd_deals_found_by_pull_total"


async def test_live_deals_are_committed_within_milliseconds():
    """A deal of a live link is in the ledger a few virtual milliseconds after it was made."""
    async with running_link() as world:
        await world.until_live()
        for _ in range(20):
            made = world.trade()
            await asyncio.sleep(0.01)
            assert set(made) <= set(world.ledger)
            assert world.state.deals[world.account_id, made[0]].source is Source.STREAM
            await asyncio.sleep(7)
        world.assert_exact()
        assert world.phases.count(Phase.LIVE) == 1


async def test_doubled_packets_make_one_row_and_one_event():
    """A stream that says everything twice changes nothing."""
    async with running_link() as world:
        await world.until_live()
        world.switch_on(FaultKind.DUPLICATE_PACKETS)
        made = world.trade(30)
        await asyncio.sleep(1)
        world.assert_exact()
        assert all(world.events(deal_id) == ["deal.added"] for deal_id in made)


async def test_the_rolling_pull_finds_what_the_stream_lost():
    """Deals the stream lost are in the ledger after one rolling interval, counted as missed."""
    async with running_link() as world:
        await world.until_live()
        world.switch_on(FaultKind.LOSE_PACKETS)
        lost = world.trade(5)
        world.switch_off(FaultKind.LOSE_PACKETS)
        heard = world.trade()
        await asyncio.sleep(0.1)
        assert not set(lost) & set(world.ledger)
        assert set(heard) <= set(world.ledger)
        await world.until(lambda: world.ledger == world.truth, within=301)
        assert world.sample(FOUND_BY_PULL) == len(lost)
        assert world.phases.count(Phase.LIVE) == 1
        await world.until(
            lambda: world.status.proof_detail == f"{len(world.truth)} deals", within=1
        )
        world.assert_exact()


async def test_what_the_proofs_own_pull_finds_is_counted_too():
    """A lost deal counts as missed whichever pull finds it, the proof's included."""
    async with running_link() as world:
        await world.until_live()
        await asyncio.sleep(1)
        assert world.sample(FOUND_BY_PULL) == 0
        world.switch_on(FaultKind.LOSE_PACKETS)
        lost = world.trade(3)
        world.change(labels={"colour": "blue"})
        auditor_turn = world.settings.rolling_interval_seconds
        await asyncio.sleep(auditor_turn + 1)
        assert world.sample(FOUND_BY_PULL) == len(lost)


async def test_a_deal_booked_while_the_first_sync_runs_is_counted_once():
    """What pull and stream bring together is one row; nothing of a first sync counts as missed."""
    async with running_link() as world:
        world.service.between_pages = world.trade
        await world.until_live()
        await asyncio.sleep(1)
        world.service.between_pages = None
        await asyncio.sleep(700)
        world.assert_exact()
        assert world.sample(FOUND_BY_PULL) == 0


async def test_rolling_pulls_keep_their_pace():
    """An idle live link asks for history once per interval, give or take, not more."""
    async with running_link() as world:
        await world.until_live()
        world.service.history_asked_at.clear()
        await asyncio.sleep(3_600)
        assert 11 <= len(world.service.history_asked_at) <= 13
        assert world.watermark >= world.clock.now() - timedelta(seconds=301)
        assert world.status.proof is Proof.PROVEN
