"""Every lease handle keeps the same promises: one suite over memory and Postgres."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from brokerd.connector.ports import LeaseHandle
from brokerd.domain import (
    AccountId,
    Backoff,
    Claim,
    Fence,
    Incarnation,
    LinkStatus,
    Phase,
    Priority,
    Proof,
    UserAction,
)
from brokerd.errors import Fenced
from brokerd.pool.ports import Nodes
from brokerd.queue.ports import Queue
from brokerd.store.memory import LeaseRow

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
Add = Callable[..., Awaitable[AccountId]]
LeaseOf = Callable[[AccountId], Awaitable[LeaseRow]]
StatusOf = Callable[[AccountId], Awaitable[LinkStatus | None]]
TransitionsOf = Callable[[AccountId], Awaitable[Sequence[tuple[Phase, str]]]]
STATUS = LinkStatus(
    phase=Phase.CONNECTING,
    reason="Dialling",
    message="dialling",
    observed_generation=1,
    since=NOW,
)


@pytest.fixture
async def claim(queue: Queue, nodes: Nodes, add: Add) -> Claim:
    """Claim one normal link."""
    await add()
    (claim,) = await queue.claim(await nodes.register("a", max_links=10), limit=1)
    return claim


def not_ours(fence: Fence) -> Sequence[Fence]:
    """Return fences that resemble a valid one."""
    return (
        replace(fence, epoch=fence.epoch - 1),
        replace(fence, epoch=fence.epoch + 1),
        replace(fence, incarnation=Incarnation(fence.incarnation + 1)),
        replace(fence, account_id=AccountId(fence.account_id + 1)),
    )


async def test_a_report_is_stored_whole(
    leases: LeaseHandle, claim: Claim, status_of: StatusOf
) -> None:
    """What is read back is what was reported, the second time too."""
    account_id = claim.fence.account_id
    assert await status_of(account_id) is None
    await leases.report(claim.fence, STATUS)
    assert await status_of(account_id) == STATUS
    full = replace(
        STATUS,
        phase=Phase.BACKOFF,
        next_attempt_at=NOW + timedelta(seconds=5),
        attempt=3,
        user_action=UserAction.CONTACT_OPERATOR,
        proof=Proof.MISMATCH,
        proof_detail="off by 1.00",
        proven_at=NOW,
    )
    await leases.report(claim.fence, full)
    assert await status_of(account_id) == full


async def test_a_transition_is_kept_for_each_change_of_phase(
    leases: LeaseHandle, claim: Claim, transitions_of: TransitionsOf
) -> None:
    """Reports within a phase add nothing to the history."""
    await leases.report(claim.fence, STATUS)
    await leases.report(claim.fence, replace(STATUS, message="still dialling"))
    await leases.report(claim.fence, replace(STATUS, phase=Phase.BACKOFF, reason="Lost"))
    await leases.report(claim.fence, STATUS)
    assert await transitions_of(claim.fence.account_id) == [
        (Phase.CONNECTING, "Dialling"),
        (Phase.BACKOFF, "Lost"),
        (Phase.CONNECTING, "Dialling"),
    ]


async def test_a_release_queues_the_link_again_at_once(
    leases: LeaseHandle, queue: Queue, claim: Claim, lease_of: LeaseOf
) -> None:
    """Without a delay there is no backoff, and the deadline is kept: nobody is overtaken."""
    held = await lease_of(claim.fence.account_id)
    await leases.release(claim.fence, backoff=Backoff(), delay_seconds=0)
    lease = await lease_of(claim.fence.account_id)
    assert (lease.owner, lease.not_before, lease.epoch) == (None, None, claim.fence.epoch)
    assert lease.deadline == held.deadline
    assert (await queue.depth()).ready == 1


@pytest.mark.parametrize(
    ("priority", "patience_seconds"),
    [(Priority.HIGH, 5.0), (Priority.NORMAL, 60.0), (Priority.LOW, 600.0)],
)
async def test_a_release_into_backoff_is_due_a_patience_after_it(
    *,
    leases: LeaseHandle,
    queue: Queue,
    nodes: Nodes,
    add: Add,
    lease_of: LeaseOf,
    priority: Priority,
    patience_seconds: float,
) -> None:
    """The deadline is `not_before` plus the class's patience; waiting counts from `not_before`."""
    account_id = await add(priority=priority)
    (claim,) = await queue.claim(await nodes.register("a", max_links=10), limit=1)
    before = datetime.now(UTC)
    await leases.release(
        claim.fence, backoff=Backoff(attempt=7, bound_seconds=64.0), delay_seconds=40.5
    )
    lease = await lease_of(account_id)
    assert lease.not_before is not None
    assert (
        timedelta(0) <= lease.not_before - before - timedelta(seconds=40.5) < timedelta(seconds=9)
    )
    assert lease.deadline == lease.not_before + timedelta(seconds=patience_seconds)
    assert lease.queued_at == lease.not_before
    assert (lease.attempt, lease.backoff_bound_seconds) == (7, 64.0)
    assert (await queue.depth()).in_backoff == 1


async def test_backoff_is_stored_while_the_lease_is_kept(
    leases: LeaseHandle, claim: Claim, lease_of: LeaseOf
) -> None:
    """A restart finds it."""
    held = await lease_of(claim.fence.account_id)
    await leases.save_backoff(claim.fence, Backoff(attempt=2, bound_seconds=2.5))
    assert await lease_of(claim.fence.account_id) == replace(
        held, attempt=2, backoff_bound_seconds=2.5
    )


async def test_the_first_modes_are_stored_and_later_ones_compared(
    leases: LeaseHandle, claim: Claim
) -> None:
    """A demo account that answers as a real one later is noticed, each time."""
    assert await leases.record_modes(claim.fence, margin_mode="hedging", trade_mode="demo")
    assert await leases.record_modes(claim.fence, margin_mode="hedging", trade_mode="demo")
    assert not await leases.record_modes(claim.fence, margin_mode="hedging", trade_mode="real")
    assert not await leases.record_modes(claim.fence, margin_mode="netting", trade_mode="demo")
    assert await leases.record_modes(claim.fence, margin_mode="hedging", trade_mode="demo")


async def test_who_does_not_hold_the_lease_writes_nothing(
    leases: LeaseHandle,
    claim: Claim,
    lease_of: LeaseOf,
    status_of: StatusOf,
    transitions_of: TransitionsOf,
) -> None:
    """Owner, epoch and account must all be right, or nothing changes anywhere."""
    held = await lease_of(claim.fence.account_id)
    for fence in not_ours(claim.fence):
        with pytest.raises(Fenced):
            await leases.report(fence, STATUS)
        with pytest.raises(Fenced):
            await leases.release(fence, backoff=Backoff(attempt=9), delay_seconds=9)
        with pytest.raises(Fenced):
            await leases.save_backoff(fence, Backoff(attempt=9))
        with pytest.raises(Fenced):
            await leases.record_modes(fence, margin_mode="x", trade_mode="y")
    assert await lease_of(claim.fence.account_id) == held
    assert await status_of(claim.fence.account_id) is None
    assert await transitions_of(claim.fence.account_id) == []
    assert await leases.record_modes(claim.fence, margin_mode="hedging", trade_mode="demo")


async def test_a_released_lease_is_nobodys(leases: LeaseHandle, claim: Claim) -> None:
    """A second release is refused: the link may be somebody else's by then."""
    await leases.release(claim.fence, backoff=Backoff(), delay_seconds=0)
    with pytest.raises(Fenced):
        await leases.release(claim.fence, backoff=Backoff(), delay_seconds=0)
