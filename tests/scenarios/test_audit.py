"""An audit that is asked for reads all history again, whoever carries it out."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from link_world import DAY_SECONDS, START, World, cut_windows, running_link

from brokerd.config.settings import LinkSettings
from brokerd.domain import Desired, Phase, Proof
from brokerd.errors import Incomplete, RemoteUnavailable
from brokerd.operations import OperationFailure, OperationState
from brokerd.sandbox.facts import Amendment
from brokerd.sandbox.habits import Past

pytestmark = pytest.mark.looptime(noop_cycles=0)
SETTINGS = LinkSettings(  # nothing but an audit looks at old windows
    rolling_interval_seconds=3_600.0,
    rolling_overlap_seconds=900.0,
    verify_interval_seconds=900 * DAY_SECONDS,
    proof_interval_seconds=900 * DAY_SECONDS,
)
YEAR = Past(deals=100, days=300)
OLD = timedelta(days=60)


async def settle_in(world: World) -> None:
    """Be live and proven, with history in five windows."""
    await world.until_live()
    await world.until(lambda: world.status.proof is Proof.PROVEN)
    cut_windows(world.state, world.account_id, parts=5, days=310)


def windows(world: World) -> int:
    """Count the closed windows."""
    return len(world.state.windows[world.account_id])


def outcomes(world: World, outcome: str) -> float:
    """Count audits that ended so."""
    return world.sample("brokerd_operations_total", kind="audit", outcome=outcome)


async def test_a_true_ledger_is_proven_and_every_window_was_read():
    """Nothing is found, nothing changes, every window is verified, the link stays live."""
    async with running_link(past=YEAR, settings=SETTINGS) as world:
        await settle_in(world)
        events, began_at = len(world.state.events), world.clock.now()
        asked = await world.ask_audit()
        assert world.operation(asked).state is OperationState.PENDING
        done = await world.until_ended(asked)
        assert (done.state, done.result.proof) == (OperationState.DONE, Proof.PROVEN)
        assert done.result.findings.windows == windows(world) == 5
        assert done.result.findings.is_clean
        assert done.result.difference.is_none
        assert done.result.difference.currency == "USD"
        verified = [each.verified_at for each in world.state.windows[world.account_id]]
        assert min(verified) >= began_at
        assert len(world.state.events) == events
        assert world.phases.count("live") == 1
        assert (outcomes(world, "proven"), outcomes(world, "mismatch")) == (1, 0)


async def test_a_deal_slipped_into_an_old_window_is_found():
    """Booked two months back behind the stream's back: counted as the audit's, and proven."""
    async with running_link(past=YEAR, settings=SETTINGS) as world:
        await settle_in(world)
        pulled = world.sample("brokerd_deals_received_total", path="pull")
        slipped = world.book(age=OLD, is_quiet=True)
        done = await world.until_ended(await world.ask_audit())
        assert (done.result.proof, done.result.findings.inserted) == (Proof.PROVEN, 1)
        row = world.state.deals[world.account_id, slipped]
        assert row.source == "audit"
        assert world.events(slipped) == ["deal.added"]
        assert world.sample("brokerd_deals_received_total", path="audit") == 1
        assert world.sample("brokerd_deals_received_total", path="pull") == pulled
        world.assert_exact()


async def test_an_edit_of_an_old_deal_is_found():
    """A commission corrected after months is a revision, and the balance proves it."""
    async with running_link(past=YEAR, settings=SETTINGS) as world:
        await settle_in(world)
        old = world.deal_aged(timedelta(days=200), least=OLD)
        world.account.amend(old.deal_id, Amendment(commission=old.commission - 3))
        done = await world.until_ended(await world.ask_audit())
        assert (done.result.proof, done.result.findings.revised) == (Proof.PROVEN, 1)
        world.assert_exact()


async def test_a_wrong_receipt_is_put_right_and_told():
    """A receipt that is not a recount of its window's deals is counted anew."""
    async with running_link(past=YEAR, settings=SETTINGS) as world:
        await settle_in(world)
        rows = world.state.windows[world.account_id]
        true = rows[1]
        assert true.receipt.count
        rows[1] = replace(true, receipt=replace(true.receipt, count=true.receipt.count + 1))
        done = await world.until_ended(await world.ask_audit())
        assert (done.result.proof, done.result.findings.false_receipts) == (Proof.PROVEN, 1)
        assert world.state.windows[world.account_id][1].receipt == true.receipt


async def test_a_mismatch_is_a_verdict_after_three_looks_and_names_the_difference():
    """A balance that no deal explains: two minutes, history read once, the exact cents."""
    async with running_link(past=YEAR, settings=SETTINGS) as world:
        await settle_in(world)
        world.service.information_changes = {"balance": world.account.balance + Decimal("1.25")}
        world.service.history_asked_from.clear()
        asked = await world.ask_audit()
        await world.until(lambda: "mismatch 1 of 3" in world.operation(asked).progress.note)
        assert world.operation(asked).state is OperationState.RUNNING
        done = await world.until_ended(asked, within=150)
        assert done.result.proof is Proof.MISMATCH
        assert (done.result.difference.balance, done.result.difference.credit) == (
            Decimal("1.25"),
            0,
        )
        assert "balance 1.25" in done.result.detail
        assert (world.status.proof, world.status.proof_detail) == (
            Proof.MISMATCH,
            done.result.detail,
        )
        old = [at for at in world.service.history_asked_from if at < world.clock.now() - OLD]
        assert len(old) == len(set(old)) == 5  # each window once
        assert outcomes(world, "mismatch") == 1


async def test_a_deal_that_is_gone_is_missing_and_later_removed():
    """The audit says what it lacks and what that is worth; removal keeps to its three looks."""
    async with running_link(past=YEAR, settings=SETTINGS) as world:
        await settle_in(world)
        gone = world.account.delete(world.deal_aged(timedelta(days=200), least=OLD).deal_id)
        done = await world.until_ended(await world.ask_audit(), within=150)
        assert (done.result.proof, done.result.findings.missing) == (Proof.MISMATCH, 1)
        assert gone.deal_id in world.ledger
        await world.until(lambda: gone.deal_id not in world.ledger, within=1_500)
        assert world.events(gone.deal_id)[-1] == "deal.removed"


async def test_an_audit_resumes_after_its_session_was_lost():
    """Killed in the middle: what was read is not read again, and the findings are kept."""
    async with running_link(past=YEAR, settings=SETTINGS) as world:
        await settle_in(world)
        world.book(age=timedelta(days=280), is_quiet=True)
        asked = await world.ask_audit()
        await world.until(lambda: world.operation(asked).progress.findings.windows >= 2)
        read = world.operation(asked).progress
        world.service.history_asked_from.clear()
        world.service.kill(world.account.metaapi_id)
        done = await world.until_ended(asked, within=60)
        assert world.phases.count("live") == 2
        assert done.result.findings.inserted == 1
        assert done.result.findings.windows == 5
        assert min(world.service.history_asked_from) >= read.read_through
        world.assert_exact()


async def test_what_cannot_wait_goes_first():
    """Between two windows the keeper pulls what the stream lost; the audit goes on after it."""
    async with running_link(past=YEAR, settings=SETTINGS) as world:
        await settle_in(world)
        world.switch_delay(3.0)
        asked = await world.ask_audit()
        await asyncio.sleep(1)
        traded = world.trade(1)
        await world.until(lambda: set(traded) <= set(world.ledger))
        world.service.drop(world.account.metaapi_id)
        await world.until_phase(Phase.SYNCING)
        assert world.operation(asked).finished_at is None
        await world.until_phase(Phase.LIVE)
        done = await world.until_ended(asked, within=60)
        assert done.result.proof is Proof.PROVEN


async def test_an_audit_takes_its_turn_and_holds_up_nothing_meanwhile():
    """While long histories have all the turns it waits; the keeper goes on with what is due."""
    settings = replace(SETTINGS, max_long_pulls=1)
    async with running_link(past=YEAR, settings=settings) as world:
        await settle_in(world)
        async with world.ports.long_pulls:
            asked = await world.ask_audit()
            await asyncio.sleep(30)
            waiting = world.operation(asked)
            assert waiting.state is OperationState.RUNNING
            assert (waiting.progress.findings.windows, waiting.progress.windows_left) == (0, 5)
            world.service.drop(world.account.metaapi_id)
            await world.until_phase(Phase.SYNCING)
            assert await world.until_phase(Phase.LIVE) < 5
        assert (await world.until_ended(asked)).result.proof is Proof.PROVEN


@pytest.mark.parametrize("failure", [RemoteUnavailable("503"), Incomplete("short")], ids=repr)
async def test_failures_that_time_cures_delay_it_and_say_so(failure):
    """MetaApi fails three times: the note says what it waits for, and it is done after all."""
    async with running_link(past=YEAR, settings=SETTINGS) as world:
        await settle_in(world)
        asked = await world.ask_audit()
        world.service.history_failures = [failure] * 3
        await world.until(lambda: failure.code in world.operation(asked).progress.note)
        done = await world.until_ended(asked, within=60)
        assert (done.result.proof, done.progress.note) == (Proof.PROVEN, "")
        assert world.phases.count("live") == 1


async def test_a_link_that_is_not_live_keeps_it_waiting():
    """Paused it stays pending; live again it is carried out without another word."""
    async with running_link(past=YEAR, settings=SETTINGS) as world:
        await settle_in(world)
        world.change(desired=Desired.PAUSED)
        await world.until_phase(Phase.PAUSED)
        asked = await world.ask_audit()
        await asyncio.sleep(1_800)
        assert world.operation(asked).state is OperationState.PENDING
        world.change(desired=Desired.LIVE)
        await world.until_phase(Phase.LIVE)
        world.desk.wake.set()
        assert (await world.until_ended(asked)).result.proof is Proof.PROVEN


async def test_what_is_not_done_in_time_fails():
    """An hour later whoever asked has left."""
    async with running_link(past=YEAR, settings=SETTINGS) as world:
        await world.until_live()
        world.change(desired=Desired.PAUSED)
        await world.until_phase(Phase.PAUSED)
        asked = await world.ask_audit()
        done = await world.until_ended(asked, within=7_300)
        assert (done.state, done.failure) == (OperationState.FAILED, OperationFailure.EXPIRED)
        assert outcomes(world, "expired") == 1


async def test_a_deleted_link_fails_it_in_the_middle():
    """The link leaves at once; its audit is failed, not left running for ever."""
    async with running_link(past=YEAR, settings=SETTINGS) as world:
        await settle_in(world)
        asked = await world.ask_audit()
        await world.until(lambda: world.operation(asked).progress.findings.windows >= 1)
        world.delete()
        await world.until_phase(Phase.DELETING)
        await asyncio.sleep(11)
        world.desk.wake.set()
        done = await world.until_ended(asked)
        assert (done.state, done.failure) == (OperationState.FAILED, OperationFailure.LINK_DELETED)


async def test_a_partial_history_is_anchored_before_the_verdict():
    """Asked right after the first sync, the audit waits for the second look that anchors it."""
    async with running_link(past=YEAR, settings=SETTINGS, sync_from=START - OLD) as w:
        await w.until_live()
        done = await w.until_ended(await w.ask_audit(), within=150)
        assert done.result.proof is Proof.PROVEN
        assert "since syncFrom" in done.result.detail


async def test_a_zombie_neither_notes_nor_finishes():
    """The lease was taken meanwhile: the audit is the new owner's."""
    async with running_link(past=YEAR, settings=SETTINGS) as world:
        await settle_in(world)
        asked = await world.ask_audit()
        await world.until(lambda: world.operation(asked).progress.findings.windows >= 1)
        world.steal()
        before = world.operation(asked)
        await world.until(lambda: world.is_fenced)
        assert world.operation(asked) == before
