"""The broker changes its history behind our back, or only seems to."""

import asyncio
import sys
from datetime import timedelta
from decimal import Decimal

import pytest
from link_world import running_link

from brokerd.config.settings import LinkSettings
from brokerd.connector.ports import DealsPage
from brokerd.connector.removal import TICKETS_ASKED
from brokerd.domain import Phase, Proof
from brokerd.errors import MalformedAnswer, NotFound
from brokerd.sandbox.facts import Amendment
from brokerd.sandbox.faults import FaultKind
from brokerd.sandbox.habits import Past

pytestmark = pytest.mark.looptime(noop_cycles=0)
BUSY = Past(deals=60, days=2.5)
ROLLING = 302  # the first rolling pull of a session and what it takes
RECHECKS = 2 * 600 + 2 * ROLLING


def pulls(world, outcome):
    """Return how many pulls ended so, of every kind."""
    kinds = ("sync", "rolling")
    return sum(world.sample("brokerd_sync_pulls_total", kind=k, outcome=outcome) for k in kinds)


@pytest.mark.parametrize("hours", [0, 5, 70])
async def test_a_back_dated_deal_is_found(hours):
    """A deal the broker dates back by up to 70 h is in the ledger after a rolling pull."""
    async with running_link() as world:
        await world.until_live()
        late = world.book(age=timedelta(hours=hours), is_quiet=True)
        waited = await world.until(lambda: late in world.ledger, within=ROLLING)
        await asyncio.sleep(1)
        assert world.status.proof is Proof.PROVEN
        assert world.phases.count(Phase.LIVE) == 1
        assert world.sample("brokerd_deals_found_by_pull_total") == 1
        world.assert_exact()
    sys.stdout.write(f"dated {hours} h back: found after {waited:.0f} s, counted once\n")


async def test_a_late_deal_is_looked_for_before_a_mismatch_is_declared():
    """A balance that does not fit makes the link look 72 h back before anybody is alarmed."""
    settings = LinkSettings(rolling_interval_seconds=3_600, proof_interval_seconds=300)
    async with running_link(settings=settings) as world:
        await world.until_live()
        late = world.book(age=timedelta(hours=70), is_quiet=True)
        world.state.transitions.clear()
        await world.until(lambda: late in world.ledger, within=301)
        await asyncio.sleep(1)
        assert world.status.proof is Proof.PROVEN
        assert world.sample("brokerd_balance_proofs_total", verdict="mismatch") == 0


async def test_an_edited_deal_becomes_a_revision():
    """A deal that the broker changed is revised once, its earlier form kept, and proven."""
    async with running_link(past=BUSY) as world:
        await world.until_live()
        deal = world.deal_aged(timedelta(hours=60))
        before = world.ledger[deal.deal_id]
        world.account.amend(deal.deal_id, Amendment(commission=deal.commission - 1))
        await world.until(lambda: world.ledger == world.truth, within=ROLLING)
        assert world.events(deal.deal_id) == ["deal.added", "deal.revised"]
        assert [row.replaced.deal for row in world.state.revisions] == [before]
        await asyncio.sleep(700)
        assert world.status.proof is Proof.PROVEN
        world.assert_exact()


async def test_a_stale_stream_copy_undoes_no_revision():
    """After a pull revised a deal, the stream's replay of its old form changes nothing."""
    async with running_link() as world:
        await world.until_live()
        [deal_id, *_] = world.trade()
        await world.until(lambda: deal_id in world.ledger, within=1)
        stale = world.account.deal(deal_id)
        world.account.amend(deal_id, Amendment(swap=stale.swap - 3))
        await world.until(lambda: world.ledger == world.truth, within=ROLLING)
        world.account.amend(deal_id, Amendment(swap=stale.swap))
        world.service.hidden.update(world.true_ids)  # only the stream tells of it
        world.service.drop(world.account.metaapi_id)
        await asyncio.sleep(5)
        assert world.events(deal_id) == ["deal.added", "deal.revised"]
        assert world.ledger[deal_id].swap == stale.swap - 3


async def test_a_deleted_deal_is_removed_once_all_agree():
    """Three absences, no ticket, a balance that proves it: only then is a deal removed."""
    async with running_link(past=BUSY) as world:
        await world.until_live()
        gone = world.deal_aged(timedelta(hours=60)).deal_id
        world.account.delete(gone)
        world.service.history_asked_at.clear()
        waited = await world.until(lambda: gone not in world.ledger, within=RECHECKS)
        assert waited >= 2 * world.settings.removal_recheck_seconds
        assert world.events(gone) == ["deal.added", "deal.removed"]
        await asyncio.sleep(2)
        assert world.status.proof is Proof.PROVEN
        await asyncio.sleep(1_000)
        world.assert_exact()


async def test_a_deleted_deal_that_returns_is_restored():
    """A removal is no end: the deal comes back as a revision when the broker shows it again."""
    async with running_link(past=BUSY) as world:
        await world.until_live()
        deal = world.deal_aged(timedelta(hours=60))
        server = world.account.server
        world.account.delete(deal.deal_id)
        await world.until(lambda: deal.deal_id not in world.ledger, within=RECHECKS)
        world.account.records.insert(deal)
        await world.until(lambda: deal.deal_id in world.ledger, within=ROLLING)
        assert world.events(deal.deal_id) == ["deal.added", "deal.removed", "deal.revised"]
        assert world.account.server is server
        world.assert_exact()


@pytest.mark.parametrize("finds_hidden", [True, False])
async def test_a_short_answer_removes_nothing(finds_hidden):
    """A deal left out of answers, by ticket too, stays: the balance still includes it."""
    async with running_link(past=BUSY) as world:
        await world.until_live()
        deal = world.account.deals()[0]  # the deposit, which no sum can do without
        world.account.amend(deal.deal_id, Amendment(time=world.clock.now() - timedelta(hours=50)))
        await world.until(lambda: world.ledger == world.truth, within=ROLLING)
        world.service.hidden.add(deal.deal_id)
        world.service.finds_hidden = finds_hidden
        await asyncio.sleep(4 * 3_600)
        assert world.phase is Phase.LIVE
        world.assert_exact()


async def test_a_deal_without_an_amount_is_not_removed_while_its_ticket_is_known():
    """The balance cannot vouch for a deal of zero, so the ticket is asked before the removal."""
    async with running_link(past=BUSY) as world:
        zero = world.book("0.00", age=timedelta(hours=20), is_quiet=True)
        await world.until_live()
        world.service.hidden.add(zero)
        world.service.finds_hidden = False
        await asyncio.sleep(700)
        world.service.finds_hidden = True  # it was only the history that lagged
        await asyncio.sleep(2 * 3_600)
        world.assert_exact()


async def test_an_empty_answer_is_a_failure_not_truth():
    """Empty pages while the ledger holds deals: the watermark stands still, nothing is removed."""
    async with running_link(past=BUSY) as world:
        await world.until_live()
        before = world.watermark
        world.service.hidden.update(world.true_ids)
        await asyncio.sleep(2 * 3_600)
        assert world.watermark == before
        failed = pulls(world, "incomplete")
        assert world.phase is Phase.LIVE
        assert len(world.ledger) == len(world.truth)
        world.service.hidden.clear()
        waited = await world.until(lambda: world.watermark > before, within=ROLLING)
        world.assert_exact()
    sys.stdout.write(
        f"2 h of empty answers: {failed:.0f} pulls failed, 0 deals removed, the watermark stood"
        f" still and moved {waited:.0f} s afterwards\n"
    )
    assert failed > 10


@pytest.mark.parametrize("is_syncing", [True, False], ids=["syncing", "live"])
async def test_an_answer_that_cannot_be_read_is_no_empty_one(is_syncing):
    """Broken bodies for two hours: no watermark, no removal, and all of it afterwards."""
    async with running_link(past=BUSY) as world:
        broken = [MalformedAnswer("cut short")] * 100_000
        if is_syncing:
            world.service.history_failures = broken
            await world.until_phase(Phase.SYNCING)
        else:
            await world.until_live()
            world.service.history_failures = broken
        before, known = world.watermark, len(world.ledger)
        await asyncio.sleep(2 * 3_600)
        refused = 100_000 - len(broken)
        assert (world.watermark, len(world.ledger)) == (before, known)
        assert Phase.LIVE not in world.phases if is_syncing else world.phase is Phase.LIVE
        broken.clear()
        waited = await world.until(lambda: world.watermark != before, within=ROLLING + 60)
        await world.until(lambda: world.status.proof is Proof.PROVEN)
        world.assert_exact()
    sys.stdout.write(
        f"2 h of unreadable answers: {refused} refused, the watermark stood still and moved"
        f" {waited:.0f} s afterwards\n"
    )
    assert refused > 10


async def test_an_empty_answer_that_knows_no_ticket_either_is_a_failure():
    """More deals missing than tickets are asked for: without the balance's word, no progress."""
    async with running_link(past=BUSY) as world:
        assert len(world.true_ids) > TICKETS_ASKED
        await world.until_live()
        before = world.watermark
        world.service.hidden.update(world.true_ids)
        world.service.finds_hidden = False
        await asyncio.sleep(2 * 3_600)
        assert world.watermark == before
        world.service.hidden.clear()
        await world.until(lambda: world.watermark > before, within=ROLLING)
        world.assert_exact()


async def test_a_purged_account_is_emptied_when_the_balance_agrees():
    """A broker that erases more deals than tickets are asked for is believed by its balance."""
    async with running_link(past=BUSY) as world:
        await world.until_live()
        for deal_id in world.true_ids[10:]:
            world.account.delete(deal_id)
        await world.until(lambda: world.ledger == world.truth, within=RECHECKS)
        world.assert_exact()


async def test_a_redated_deal_is_found_by_its_ticket():
    """A deal that the broker moved out of the span is revised, not removed, and not suspected."""
    async with running_link(past=BUSY) as world:
        await world.until_live()
        deal = world.deal_aged(timedelta(hours=60))
        world.account.amend(deal.deal_id, Amendment(time=world.clock.now() - timedelta(days=30)))
        await world.until(lambda: world.ledger == world.truth, within=ROLLING)
        assert world.events(deal.deal_id) == ["deal.added", "deal.revised"]
        world.service.history_asked_at.clear()
        await asyncio.sleep(2 * 3_600)
        assert len(world.service.history_asked_at) <= 2 * 13  # nothing is doubted any more
        world.assert_exact()


async def test_a_ticket_unknown_by_404_counts_as_absent():
    """MetaApi may say 404 for a ticket it does not know; that is an answer."""
    async with running_link(past=BUSY) as world:
        await world.until_live()
        gone = world.deal_aged(timedelta(hours=60)).deal_id
        world.account.delete(gone)

        async def unknown(_remote, *, deal_id):
            raise NotFound(f"no deal {deal_id}")

        world.service.deals_by_ticket = unknown
        await world.until(lambda: gone not in world.ledger, within=RECHECKS)
        world.assert_exact()


async def test_a_synchronizing_answer_moves_no_watermark():
    """While MetaApi says that its copy is partial, a sync does not end and nothing is closed."""
    async with running_link() as world:
        world.switch_on(FaultKind.SYNCHRONIZING)
        await world.until_phase(Phase.SYNCING)
        await asyncio.sleep(60)
        assert world.watermark is None
        assert world.phase is Phase.SYNCING
        world.switch_off(FaultKind.SYNCHRONIZING)
        await world.until_live(within=31)
        world.assert_exact()


async def test_a_live_link_stays_live_while_answers_are_partial():
    """Partial answers to a live link's pulls, tickets included, move and remove nothing."""
    async with running_link(past=BUSY) as world:
        await world.until_live()
        before = world.watermark
        world.switch_on(FaultKind.SYNCHRONIZING)
        gone = world.deal_aged(timedelta(hours=60)).deal_id
        world.account.delete(gone)
        await asyncio.sleep(2 * 3_600)
        assert world.watermark == before
        assert world.phases.count(Phase.LIVE) == 1
        assert gone in world.ledger
        made = world.trade()
        await asyncio.sleep(0.1)
        assert set(made) <= set(world.ledger)
        partial = pulls(world, "synchronizing")
    sys.stdout.write(f"2 h of partial answers: {partial:.0f} pulls, the watermark stood still\n")
    assert partial > 10


async def test_a_ticket_answered_while_synchronizing_tells_nothing():
    """A ticket that a partial copy does not know is no absence: the pull has failed."""
    async with running_link(past=BUSY) as world:
        await world.until_live()
        before = world.watermark
        gone = world.deal_aged(timedelta(hours=60)).deal_id
        world.account.delete(gone)

        async def partial(_remote, *, deal_id):  # noqa: ARG001
            return DealsPage(deals=(), is_synchronizing=True)

        world.service.deals_by_ticket = partial
        await asyncio.sleep(RECHECKS)
        assert gone in world.ledger
        assert world.watermark == before


async def test_history_that_moves_between_pages_is_pulled_again():
    """A deal booked into a page already read shifts the next; the pull starts over."""
    async with running_link(past=Past(deals=0, positions=0)) as world:
        world.book_many(1_500)
        shifts = iter([True])

        def shift():
            if next(shifts, False):
                world.book("3.00", age=timedelta(days=9), is_quiet=True)

        world.service.between_pages = shift
        await world.until(lambda: world.status and world.status.proof is Proof.PROVEN)
        assert len(world.ledger) == 1_501
        assert len(world.service.history_asked_at) >= 4  # twice two pages
        world.assert_exact()


async def test_money_is_exact_to_the_last_digit():
    """Cents that no float can hold stay cents, in rows and sums."""
    async with running_link() as world:
        await world.until_live()
        for _ in range(30):
            world.book("0.10")
            world.book("-85.26")
        await asyncio.sleep(1)
        assert sum(d.amount for d in world.ledger.values()) == world.account.balance
        assert {d.profit for d in world.ledger.values()} >= {Decimal("0.10"), Decimal("-85.26")}
        world.assert_exact()
