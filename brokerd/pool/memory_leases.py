"""What a link writes of itself, over plain values: the same promises as `postgres_leases`."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from brokerd.domain import Backoff, Fence, LinkStatus, Priority
from brokerd.errors import Fenced
from brokerd.ledger.feed import EventType, proof_event
from brokerd.ledger.memory_events import Outbox
from brokerd.ledger.payload import link_payload, proof_payload
from brokerd.queue.deadlines import deadline_for
from brokerd.store.memory import LeaseRow, MemoryState, TransitionRow


class MemoryLeases:
    """A `LeaseHandle` over a `MemoryState`."""

    def __init__(self, state: MemoryState, *, patience_seconds: Mapping[Priority, float]) -> None:
        self._state = state
        self._patience_seconds = patience_seconds

    async def report(self, fence: Fence, status: LinkStatus) -> None:
        """Store the status; when the phase or the proof changed, tell of it too."""
        self._require_held(fence)
        before = self._state.links.get(fence.account_id)
        self._state.links[fence.account_id] = status
        self._tell(fence, before, status)
        if before is None or before.phase is not status.phase:
            self._state.transitions.append(
                TransitionRow(
                    account_id=fence.account_id,
                    at=status.since,
                    phase=status.phase,
                    reason=status.reason,
                )
            )

    async def release(self, fence: Fence, *, backoff: Backoff, delay_seconds: float) -> None:
        """Give the slot back; the link queues again once the delay passed."""
        lease = self._require_held(fence)
        account = self._state.accounts[fence.account_id]
        status = self._state.links.get(fence.account_id)
        if status is not None and account.generation > status.observed_generation:
            delay_seconds = 0.0
        ready_at = self._state.clock.now() + timedelta(seconds=delay_seconds)
        deadline = deadline_for(
            ready_at,
            priority=account.spec.priority,
            patience_seconds=self._patience_seconds,
        )
        self._state.leases[fence.account_id] = replace(
            lease,
            owner=None,
            not_before=ready_at if delay_seconds > 0 else None,
            deadline=deadline if delay_seconds > 0 else lease.deadline,
            queued_at=ready_at,
            attempt=backoff.attempt,
            backoff_bound_seconds=backoff.bound_seconds,
        )

    async def finish(self, fence: Fence, *, generation: int) -> None:
        """Give the lease back; without an errand unless a newer spec set one."""
        lease = self._require_held(fence)
        is_newer = self._state.accounts[fence.account_id].generation > generation
        self._state.leases[fence.account_id] = replace(
            lease,
            owner=None,
            not_before=None,
            attempt=0,
            backoff_bound_seconds=0.0,
            queued_at=self._state.clock.now(),
            has_errand=lease.has_errand and is_newer,
        )

    async def save_backoff(self, fence: Fence, backoff: Backoff) -> None:
        """Store the backoff while the lease is kept."""
        self._state.leases[fence.account_id] = replace(
            self._require_held(fence),
            attempt=backoff.attempt,
            backoff_bound_seconds=backoff.bound_seconds,
        )

    async def record_modes(self, fence: Fence, *, margin_mode: str, trade_mode: str) -> bool:
        """Store the modes at the first connect; say whether they are the stored ones."""
        self._require_held(fence)
        account = self._state.accounts[fence.account_id]
        stored = replace(
            account,
            margin_mode=account.margin_mode or margin_mode,
            trade_mode=account.trade_mode or trade_mode,
        )
        self._state.accounts[fence.account_id] = stored
        return (stored.margin_mode, stored.trade_mode) == (margin_mode, trade_mode)

    def _tell(self, fence: Fence, before: LinkStatus | None, status: LinkStatus) -> None:
        account = self._state.accounts[fence.account_id]
        outbox = Outbox(
            self._state,
            fence.account_id,
            link_id=account.link_id,
            user_id=account.spec.user_id,
        )
        if before is None or before.phase is not status.phase:
            outbox.tell(EventType.LINK_CHANGED, link_payload(status))
        event = proof_event(status.proof)
        if event is not None and (before is None or before.proof is not status.proof):
            outbox.tell(event, proof_payload(status))

    def _require_held(self, fence: Fence) -> LeaseRow:
        if not self._state.holds(fence):
            raise Fenced("the lease is no longer ours")
        return self._state.leases[fence.account_id]
