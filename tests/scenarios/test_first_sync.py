"""From nothing to live and proven, whatever the history looks like."""

import sys
from datetime import timedelta

import pytest
from link_world import START, running_link

from brokerd.connector.ports import PAGE_LIMIT
from brokerd.domain import Phase, Platform, Proof
from brokerd.sandbox.habits import Past

pytestmark = pytest.mark.looptime(noop_cycles=0)
NONE = Past(deals=0, positions=0)


async def test_a_new_link_walks_every_phase_and_is_proven():
    """A registered account is live and proven within a second, by the phases in their order."""
    async with running_link() as world:
        assert await world.until_live() < 1
        assert world.phases == [
            Phase.CLAIMED,
            Phase.CONNECTING,
            Phase.VERIFYING,
            Phase.SYNCING,
            Phase.LIVE,
        ]
        await world.until(lambda: world.status.proof is Proof.PROVEN, within=1)
        assert world.status.proof_detail == "40 deals"
        assert world.watermark >= START
        world.assert_exact()


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 1999, 2000, 2500])
async def test_pages_end_where_history_ends(count):
    """Histories around the page's limit, all deals with one timestamp, come whole and end."""
    async with running_link(past=NONE) as world:
        world.book_many(count)
        await world.until_live()
        asked = len(world.service.history_asked_at)
        await world.until(lambda: world.status and world.status.proof is Proof.PROVEN)
        assert len(world.ledger) == count
        world.assert_exact()
    sys.stdout.write(f"{count} deals of one time: {asked} requests\n")
    # a full page is followed by one that begins with its last record
    assert asked == 1 + max(0, count - 1) // (PAGE_LIMIT - 1)


async def test_two_and_a_half_thousand_deals_are_synced_page_by_page():
    """A long history of a trading account is complete and proven."""
    async with running_link(past=Past(deals=2500, days=300)) as world:
        await world.until(lambda: world.status and world.status.proof is Proof.PROVEN)
        assert len(world.ledger) >= 2500
        world.assert_exact()


async def test_cash_is_part_of_the_proof():
    """Deposits, credit, corrections, fees and interest are kept, and the sums still hold."""
    async with running_link() as world:
        for kind in ("CREDIT", "CORRECTION", "CHARGE", "INTEREST", "COMMISSION_MONTHLY"):
            world.book("12.34", type=f"DEAL_TYPE_{kind}", age=timedelta(days=1), is_quiet=True)
        await world.until(lambda: world.status and world.status.proof is Proof.PROVEN)
        world.assert_exact()
        cash = [deal for deal in world.ledger.values() if deal.symbol is None]
        kinds = sorted({deal.type.removeprefix("DEAL_TYPE_").lower() for deal in cash})
    sys.stdout.write(f"{len(cash)} cash deals ({', '.join(kinds)}): {world.status.proof_detail}\n")
    assert len(kinds) >= 6


async def test_a_bonus_of_unknown_book_leaves_the_proof_open():
    """Where a bonus belongs nobody knows, so the proof is unknown and says of which type."""
    async with running_link() as world:
        world.book("50.00", type="DEAL_TYPE_BONUS", age=timedelta(days=1), is_quiet=True)
        await world.until(lambda: world.status and world.status.proof_detail)
        assert world.status.proof is Proof.UNKNOWN
        assert "DEAL_TYPE_BONUS" in world.status.proof_detail
        world.assert_exact()


async def test_mt4_entries_and_exits_share_a_ticket():
    """An MT4 account, where one ticket stands for two deals, is complete and proven."""
    async with running_link(platform=Platform.MT4) as world:
        await world.until(lambda: world.status and world.status.proof is Proof.PROVEN)
        world.trade(30)
        await world.until(lambda: world.ledger == world.truth, within=1)
        world.assert_exact()


async def test_sync_from_bounds_the_history_and_leaves_the_proof_open_at_first():
    """With syncFrom only younger deals are kept; their sum proves nothing before an anchor."""
    since = START - timedelta(days=5)
    async with running_link(sync_from=since) as world:
        await world.until(lambda: world.status and world.status.proof_detail.startswith("history"))
        assert world.status.proof is Proof.UNKNOWN
        assert set(world.ledger) == {d.deal_id for d in world.account.deals(start=since)}
