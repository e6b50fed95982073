"""Long work as clients ask for it, over plain values: for tests."""

from datetime import timedelta

from brokerd.api.ports import Asked
from brokerd.domain import LinkId
from brokerd.errors import StoreUnavailable
from brokerd.operations import Operation, OperationId, OperationKind, OperationState
from brokerd.store.memory import MemoryState


class MemoryOperationRegistry:
    """An `OperationRegistry` over a `MemoryState`."""

    def __init__(self, state: MemoryState, *, expire_seconds: float) -> None:
        self._state = state
        self._expire_seconds = expire_seconds

    async def ask(self, link_id: LinkId, kind: OperationKind) -> Asked | None:
        """Ask something of a link, unless that is open already; None when there is no such link."""
        rows, now = self._state.operations, self._state.clock.now()
        living = (a for a in self._state.accounts.values() if a.deleted_at is None)
        account = next((each for each in living if each.link_id == link_id), None)
        if account is None:
            return None
        for each in rows.values():
            is_same = (each.account_id, each.kind) == (account.account_id, kind)
            if is_same and each.finished_at is None:
                if each.link_id != link_id:
                    raise StoreUnavailable("it was asked of an earlier link, and is not failed yet")
                return Asked(operation=each, is_new=False)
        number = max((int(each.rpartition("-")[2]) for each in rows), default=0) + 1
        operation = Operation(
            operation_id=OperationId(f"operation-{number}"),
            kind=kind,
            account_id=account.account_id,
            link_id=link_id,
            state=OperationState.PENDING,
            asked_at=now,
            expires_at=now + timedelta(seconds=self._expire_seconds),
        )
        rows[operation.operation_id] = operation
        return Asked(operation=operation, is_new=True)

    async def read(self, operation_id: OperationId) -> Operation | None:
        """Read one operation; None when it never was, or ended long ago."""
        return self._state.operations.get(operation_id)
