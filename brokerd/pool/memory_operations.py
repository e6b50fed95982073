"""What was asked of links, over plain values: the same promises as `postgres_operations`."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from brokerd.domain import Fence, Incarnation
from brokerd.errors import Fenced
from brokerd.operations import (
    AuditResult,
    Operation,
    OperationFailure,
    OperationId,
    OperationState,
    Progress,
)
from brokerd.store.memory import MemoryState


class MemoryOperations:
    """An `OperationStore` over a `MemoryState`."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def open_of(self, incarnation: Incarnation) -> Sequence[Operation]:
        """Return what is open for links we own, in the order in which it was asked."""
        leases = self._state.leases
        return [
            each
            for each in self._state.operations.values()
            if each.finished_at is None and leases[each.account_id].owner == incarnation
        ]

    async def advance(self, fence: Fence, operation_id: OperationId, progress: Progress) -> bool:
        """Note how far we came; False when the operation is not open any more."""
        operation = self._owned(fence, operation_id)
        if operation is None:
            return False
        self._state.operations[operation_id] = replace(
            operation,
            state=OperationState.RUNNING,
            started_at=operation.started_at or self._state.clock.now(),
            progress=progress,
        )
        return True

    async def finish(self, fence: Fence, operation_id: OperationId, result: AuditResult) -> bool:
        """Close it as done; False when it is not open any more."""
        operation = self._owned(fence, operation_id)
        if operation is None:
            return False
        now = self._state.clock.now()
        self._state.operations[operation_id] = replace(
            operation,
            state=OperationState.DONE,
            started_at=operation.started_at or now,
            finished_at=now,
            progress=replace(operation.progress, note=""),
            result=result,
        )
        return True

    async def sweep(self, *, keep_days: int) -> Sequence[Operation]:
        """Fail what is past its time or asked of a deleted link; forget what is old."""
        now, rows = self._state.clock.now(), self._state.operations
        failed = []
        for operation in tuple(rows.values()):
            if operation.finished_at is None and (failure := self._failure(operation)):
                ended = replace(
                    operation, state=OperationState.FAILED, finished_at=now, failure=failure
                )
                rows[operation.operation_id] = ended
                failed.append(ended)
            elif operation.finished_at and operation.finished_at < now - timedelta(days=keep_days):
                del rows[operation.operation_id]
        return failed

    def _failure(self, operation: Operation) -> OperationFailure | None:
        account = self._state.accounts.get(operation.account_id)
        if account is None or account.deleted_at or account.link_id != operation.link_id:
            return OperationFailure.LINK_DELETED
        is_late = operation.expires_at <= self._state.clock.now()
        return OperationFailure.EXPIRED if is_late else None

    def _owned(self, fence: Fence, operation_id: OperationId) -> Operation | None:
        if not self._state.holds(fence):
            raise Fenced(f"account {fence.account_id} is no longer ours")
        operation = self._state.operations.get(operation_id)
        if operation is None or operation.finished_at is not None:
            return None
        return operation if operation.account_id == fence.account_id else None
