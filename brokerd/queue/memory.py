"""The queue over plain values: the same promises as `postgres`, for tests on virtual time."""

from collections.abc import Sequence
from dataclasses import replace

from brokerd.domain import Backoff, Claim, Fence, Incarnation
from brokerd.errors import Fenced
from brokerd.queue.deadlines import turn
from brokerd.queue.ports import QueueDepth
from brokerd.store.memory import LeaseRow, MemoryState


class MemoryQueue:
    """A `Queue` over a `MemoryState`."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def claim(
        self, incarnation: Incarnation, *, limit: int, errands: int = 0
    ) -> Sequence[Claim]:
        """Take up to `limit` waiting links, earliest deadline first, and errands beside them."""
        node = self._state.nodes.get(incarnation)
        if node is None or node.closed_at is not None:
            raise Fenced("this incarnation was closed")
        free = node.max_links - len(self._held(incarnation))
        taken = [*self._ready()[: max(0, min(limit, free))], *self._errands()[:errands]]
        return [self._take(lease, incarnation) for lease in taken]

    async def changed(self, incarnation: Incarnation) -> Sequence[Claim]:
        """Return the links we own whose spec is newer than what their owner reported."""
        return [
            self._claim(lease, incarnation)
            for lease in self._held(incarnation)
            if self._is_changed(lease)
        ]

    async def owned(self, incarnation: Incarnation) -> Sequence[Claim]:
        """Return all links we own."""
        return [self._claim(lease, incarnation) for lease in self._held(incarnation)]

    async def depth(self) -> QueueDepth:
        """Count what waits."""
        ready = self._ready()
        now = self._state.clock.now()
        oldest = min((lease.queued_at for lease in ready), default=now)
        return QueueDepth(
            ready=len(ready),
            in_backoff=len(self._unowned()) - len(ready),
            oldest_seconds=max(0.0, (now - oldest).total_seconds()),
            errands=len(self._errands()),
        )

    def _errands(self) -> Sequence[LeaseRow]:
        now = self._state.clock.now()
        return sorted(
            (
                lease
                for lease in self._state.leases.values()
                if lease.owner is None
                and lease.has_errand
                and (lease.not_before is None or lease.not_before <= now)
            ),
            key=lambda lease: (lease.queued_at, lease.account_id),
        )

    def _unowned(self) -> Sequence[LeaseRow]:
        return [
            lease
            for lease in self._state.leases.values()
            if lease.owner is None and lease.is_wanted
        ]

    def _ready(self) -> Sequence[LeaseRow]:
        now = self._state.clock.now()
        return sorted(
            (
                lease
                for lease in self._unowned()
                if lease.not_before is None or lease.not_before <= now
            ),
            key=lambda lease: turn(lease.deadline, lease.account_id),
        )

    def _held(self, incarnation: Incarnation) -> Sequence[LeaseRow]:
        return sorted(
            (lease for lease in self._state.leases.values() if lease.owner == incarnation),
            key=lambda lease: lease.account_id,
        )

    def _is_changed(self, lease: LeaseRow) -> bool:
        account = self._state.accounts[lease.account_id]
        status = self._state.links.get(lease.account_id)
        is_newer = status is not None and account.generation > status.observed_generation
        return is_newer or account.deleted_at is not None or not lease.is_wanted

    def _take(self, lease: LeaseRow, incarnation: Incarnation) -> Claim:
        taken = replace(lease, owner=incarnation, epoch=lease.epoch + 1, not_before=None)
        self._state.leases[lease.account_id] = taken
        return self._claim(taken, incarnation)

    def _claim(self, lease: LeaseRow, incarnation: Incarnation) -> Claim:
        account = self._state.accounts[lease.account_id]
        return Claim(
            fence=Fence(account_id=lease.account_id, incarnation=incarnation, epoch=lease.epoch),
            link_id=account.link_id,
            spec=account.spec,
            generation=account.generation,
            is_deleted=account.deleted_at is not None,
            backoff=Backoff(attempt=lease.attempt, bound_seconds=lease.backoff_bound_seconds),
            created_id=account.created_id,
            removes_remote=account.removes_remote,
            credential_version=account.credential_version,
        )
