"""What the balance proof says over time."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest
from link_world import running_link

from brokerd.domain import Phase, Proof
from brokerd.errors import RemoteUnavailable, Throttled

pytestmark = pytest.mark.looptime(noop_cycles=0)


async def test_three_mismatches_a_minute_apart_are_one_verdict():
    """A sum that stays wrong is Unknown for two minutes, then a mismatch with its difference."""
    async with running_link() as world:
        truth = world.account.balance
        world.service.information_changes = {"balance": truth + Decimal("5.25")}
        await world.until_live()
        await world.until(lambda: "mismatch 1 of 3" in world.status.proof_detail, within=1)
        assert world.status.proof is Proof.UNKNOWN
        waited = await world.until(lambda: world.status.proof is Proof.MISMATCH, within=130)
        assert waited >= 2 * world.settings.proof_retry_seconds
        assert "balance 5.25, credit 0.00 USD" in world.status.proof_detail
        assert world.phase is Phase.LIVE
        world.service.information_changes = {}
        await world.until(lambda: world.status.proof is Proof.PROVEN, within=62)


async def test_a_standing_mismatch_is_looked_at_once_a_minute():
    """A mismatch that nobody repairs costs a few requests a minute, not more."""
    async with running_link() as world:
        world.service.information_changes = {"balance": Decimal("0.01")}
        await world.until_live()
        await world.until(lambda: world.status.proof is Proof.MISMATCH, within=140)
        world.service.history_asked_at.clear()
        await asyncio.sleep(3_600)
        assert len(world.service.history_asked_at) < 90
        assert world.status.proof is Proof.MISMATCH


async def test_a_busy_account_is_proven_when_it_rests():
    """Readings that differ prove nothing and blame nobody; the proof comes a minute later."""
    async with running_link() as world:
        world.service.before_reading = lambda: world.book("1.00")
        await world.until_live()
        await asyncio.sleep(10)
        assert world.status.proof is Proof.UNKNOWN
        assert world.sample("brokerd_balance_proofs_total", verdict="mismatch") == 0
        world.service.before_reading = None
        await world.until(lambda: world.status.proof is Proof.PROVEN, within=61)
        world.assert_exact()


async def test_a_proof_is_repeated_every_interval():
    """A quiet live link is proven again once a day."""
    async with running_link() as world:
        await world.until_live()
        await world.until(lambda: world.status.proven_at is not None, within=1)
        first = world.status.proven_at
        await asyncio.sleep(world.settings.proof_interval_seconds + 60)
        assert world.status.proven_at - first >= timedelta(hours=23)


@pytest.mark.parametrize("hint", [None, 500.0])
async def test_a_proof_that_cannot_be_read_is_put_off(hint):
    """A failure of the readings costs the link nothing; the proof follows, after any hint."""
    async with running_link() as world:
        failure = (
            RemoteUnavailable("500") if hint is None else Throttled("429", retry_after_seconds=hint)
        )
        refusals = iter([failure])
        readings = iter([None])

        def fail_second():
            if next(readings, failure) is failure:
                for refusal in refusals:
                    raise refusal

        world.service.before_reading = fail_second
        await world.until_live()
        await asyncio.sleep(1)
        assert world.status.proof is Proof.UNKNOWN
        waited = await world.until(lambda: world.status.proof is Proof.PROVEN, within=570)
        assert waited >= (hint or 60) - 2
        assert world.phases.count(Phase.LIVE) == 1


async def test_a_sum_that_cannot_be_proven_costs_no_requests():
    """While a bonus leaves the sum unknown, rolling pulls are all that is asked."""
    async with running_link() as world:
        world.book("1.00", type="DEAL_TYPE_BONUS", age=timedelta(days=9), is_quiet=True)
        await world.until_live()
        await asyncio.sleep(1)
        world.service.history_asked_at.clear()
        await asyncio.sleep(3_600)
        assert len(world.service.history_asked_at) <= 13
