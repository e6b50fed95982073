"""What links went through, in one process."""

from collections.abc import Sequence
from datetime import timedelta

from brokerd.domain import LinkId
from brokerd.health.uptime import Entered
from brokerd.store.memory import MemoryState, TransitionRow


class MemoryPast:
    """A `Past` over the transitions of a `MemoryState`."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def of(self, link_id: LinkId, *, limit: int) -> Sequence[Entered]:
        """Return the newest changes of phase, the oldest of them first."""
        living = {
            account.account_id
            for account in self._state.accounts.values()
            if account.link_id == link_id and account.deleted_at is None
        }
        rows = [row for row in self._state.transitions if row.account_id in living]
        newest = sorted(rows, key=lambda row: row.at)[-limit:]
        return [Entered(phase=row.phase, reason=row.reason, at=row.at) for row in newest]

    async def forget(self, *, older_than_days: int, limit: int) -> int:
        """Forget up to `limit` old changes, never a link's newest one."""
        oldest = self._state.clock.now() - timedelta(days=older_than_days)
        rows = self._state.transitions
        gone = [row for row in rows if row.at < oldest and _has_newer(row, rows)][:limit]
        self._state.transitions = [row for row in rows if row not in gone]
        return len(gone)


def _has_newer(row: TransitionRow, rows: Sequence[TransitionRow]) -> bool:
    return any(each.account_id == row.account_id and each.at > row.at for each in rows)
