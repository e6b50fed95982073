"""A deal that cannot be read stands aside: the link lives, and it heals when the record does."""

import asyncio
import sys
from dataclasses import replace
from datetime import timedelta

import pytest
from link_world import running_link

from brokerd.config.settings import LinkSettings
from brokerd.domain import BadReason, Proof, QuarantineState
from brokerd.sandbox.facts import Amendment, Booking

pytestmark = pytest.mark.looptime(noop_cycles=0)

SPOILT = {
    "nan": (("profit", "NaN"), BadReason.MALFORMED),
    "text": (("profit", '"12.3"'), BadReason.MALFORMED),
    "no_id": (("id", ""), BadReason.NO_ID),
    "nul": (("symbol", '"EUR\\u0000USD"'), BadReason.TEXT),
    "surrogate": (("symbol", '"EUR\\ud800USD"'), BadReason.MALFORMED),
    "huge": (("comment", '"' + "x" * 1_000_000 + '"'), BadReason.SIZE),
    "large": (("profit", "1e300"), BadReason.NUMBER),
}


def records(world):
    """Return the rows of the quarantine."""
    return list(world.state.quarantine.values())


async def rolling(world):
    """Let one rolling pull pass."""
    await asyncio.sleep(world.settings.rolling_interval_seconds + 60)


@pytest.mark.parametrize(("warp", "reason"), SPOILT.values(), ids=SPOILT.keys())
async def test_one_spoilt_record_blocks_nobody(warp, reason):
    """History with a poison deal: live, the others complete, one row however often it is read."""
    async with running_link() as world:
        bad = world.deal_aged(timedelta(days=2))
        world.account.amend(bad.deal_id, Amendment(warp=(warp,)))
        waited = await world.until_live(within=20)
        await rolling(world)
        assert world.ledger.keys() == world.truth.keys() - {bad.deal_id}
        (row,) = records(world)
        assert (row.record.reason, row.state) == (reason, QuarantineState.OPEN)
        assert row.times >= 2
        assert world.watermark > bad.time
        assert world.status.proof is Proof.UNKNOWN
        assert "quarantine: 1" in world.status.proof_detail
    sys.stdout.write(
        f"{reason}: live after {waited:.1f} s, {len(world.ledger)} neighbours stored, 1 record"
        f" seen {row.times} times\n"
    )


@pytest.mark.parametrize("name", ["nan", "nul", "huge"])
async def test_a_mended_record_is_stored_and_leaves_by_itself(name):
    """The next pull brings the deal, closes the row, and the ledger is proven again."""
    async with running_link() as world:
        bad = world.deal_aged(timedelta(days=2))
        world.account.amend(bad.deal_id, Amendment(warp=(SPOILT[name][0],)))
        await world.until_live(within=20)
        world.account.amend(bad.deal_id, Amendment(warp=()))
        await rolling(world)
        world.assert_exact()
        (row,) = records(world)
        assert row.state is QuarantineState.REPLAYED
        assert world.status.proof is Proof.PROVEN


async def test_a_stored_deal_that_the_broker_spoils_is_not_taken_for_gone():
    """It is there, however unreadable: nothing is removed, nothing is proven."""
    async with running_link() as world:
        await world.until_live(within=20)
        bad = world.deal_aged(timedelta(days=2))
        world.account.amend(bad.deal_id, Amendment(warp=(("profit", "NaN"),)))
        for _ in range(5):
            await rolling(world)
        assert bad.deal_id in world.ledger
        assert len(records(world)) == 1
        assert len(world.claims) == 1


async def test_a_spoilt_deal_of_the_stream_is_pulled_at_once():
    """The stream's copy is a gap; the pull keeps the broker's own record."""
    async with running_link() as world:
        await world.until_live(within=20)
        deal_id = world.trade()[0]
        await asyncio.sleep(1)
        assert deal_id in world.ledger
        made = world.account.deal(deal_id)
        spoilt = replace(made, ticket=world.account.server.take_ticket(), warp=(("type", "7"),))
        world.account.book(Booking(deals=(spoilt,)))
        await asyncio.sleep(2)
        (row,) = records(world)
        assert row.record.deal_id == spoilt.deal_id
        assert len(world.claims) == 1


async def test_what_was_asked_to_be_replayed_is_written_by_the_owner():
    """A record that can be read by now is stored from its raw text, at the next pull."""
    async with running_link() as world:
        bad = world.deal_aged(timedelta(days=2))
        world.account.amend(bad.deal_id, Amendment(warp=(("profit", '"1"'),)))
        await world.until_live(within=20)
        (row,) = records(world)
        readable = row.record.raw.replace('"profit":"1"', f'"profit":{bad.profit}')
        world.account.delete(bad.deal_id)  # no pull can bring it
        world.state.quarantine[row.quarantine_id] = replace(
            row,
            record=replace(row.record, raw=readable),
            replay_asked_at=world.clock.now(),
        )
        await rolling(world)
        assert world.ledger[bad.deal_id].profit == bad.profit
        assert records(world)[0].state is QuarantineState.REPLAYED


async def test_a_blocking_quarantine_stops_the_watermark_visibly():
    """By policy: not live, the reason told, the neighbours stored, and free after a discard."""
    settings = LinkSettings(quarantine_blocks=True)
    async with running_link(settings=settings) as world:
        bad = world.deal_aged(timedelta(days=2))
        world.account.amend(bad.deal_id, Amendment(warp=(("profit", "NaN"),)))
        await asyncio.sleep(300)
        assert world.watermark is None
        assert world.ledger.keys() == world.truth.keys() - {bad.deal_id}
        assert "Incomplete" in world.reasons
        assert "Live" not in world.reasons
        (row,) = records(world)
        world.state.quarantine[row.quarantine_id] = replace(row, state=QuarantineState.DISCARDED)
        await world.until_live(within=600)
        assert world.watermark > bad.time
