"""The proof of a history that begins at syncFrom: anchored once, incremental from then on."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest
from link_world import START, World, running_link

from brokerd.domain import Anchor, Proof

pytestmark = pytest.mark.looptime(noop_cycles=0)
SINCE = START - timedelta(days=5)


async def anchored(world: World) -> Anchor:
    """Wait until the account is anchored and proven; return the anchor."""
    await world.until(lambda: world.status and world.status.proof is Proof.PROVEN, within=190)
    return world.state.heads[world.account_id].anchor


def before(world: World) -> Decimal:
    """Sum up what the broker booked before the history begins."""
    deals = world.account.deals(end=SINCE)
    return sum((deal.amount for deal in deals), Decimal(0))


async def test_two_proofs_a_minute_apart_anchor_a_partial_history():
    """The offset is what the account held at syncFrom, and the third proof is Proven."""
    async with running_link(sync_from=SINCE) as world:
        await world.until_live()
        anchor = await anchored(world)
        assert world.clock.monotonic() >= world.settings.proof_retry_seconds
        assert anchor == Anchor(balance=before(world), credit=Decimal(0))
        assert world.status.proof_detail.endswith("deals since syncFrom")
        assert set(world.ledger) == {d.deal_id for d in world.account.deals(start=SINCE)}


async def test_a_deal_on_its_way_is_not_anchored():
    """A balance that is ahead of the history once does not become the offset."""
    async with running_link(sync_from=SINCE) as world:
        world.service.information_changes = {"balance": world.account.balance + 9}
        await world.until(lambda: world.status and "not anchored" in world.status.proof_detail)
        world.service.information_changes = {}
        anchor = await anchored(world)
        assert anchor.balance == before(world)


async def test_an_anchored_history_is_held_to_the_balance():
    """After the anchor a difference is a mismatch with its exact amount, and heals."""
    async with running_link(sync_from=SINCE) as world:
        await anchored(world)
        world.trade(5)
        world.service.information_changes = {"balance": world.account.balance + Decimal("0.01")}
        world.service.kill(world.account.metaapi_id)
        await world.until(lambda: world.status.proof is Proof.MISMATCH, within=200)
        assert "balance 0.01" in world.status.proof_detail
        world.service.information_changes = {}
        await world.until(lambda: world.status.proof is Proof.PROVEN, within=62)


async def test_the_anchor_outlives_the_session():
    """Another session proves at once, against the anchor of the first."""
    async with running_link(sync_from=SINCE) as world:
        anchor = await anchored(world)
        proven_at = world.status.proven_at
        world.trade(3)
        world.service.kill(world.account.metaapi_id)
        await world.until(lambda: world.status.proven_at > proven_at, within=30)
        assert world.status.proof is Proof.PROVEN
        assert world.state.heads[world.account_id].anchor == anchor


async def test_a_removal_from_a_partial_history_is_proved_by_the_anchor():
    """A deal that vanishes is removed, as in a whole history."""
    async with running_link(sync_from=SINCE) as world:
        await anchored(world)
        gone = world.account.delete(world.deal_aged(timedelta(days=2)).deal_id)
        recheck = world.settings.removal_recheck_seconds
        await asyncio.sleep(4 * recheck)
        assert gone.deal_id not in world.ledger
        assert world.status.proof is Proof.PROVEN
