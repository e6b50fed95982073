"""The quarantine as operators see it, over plain values: for tests."""

from collections.abc import Sequence
from dataclasses import replace

from brokerd.api.ports import QuarantinedRecord
from brokerd.domain import LinkId, QuarantineState
from brokerd.store.memory import MemoryState, QuarantineRow


class MemoryQuarantineReader:
    """A `QuarantineReader` over a `MemoryState`."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def page(
        self, link_id: LinkId, *, state: QuarantineState | None, after: int, limit: int
    ) -> Sequence[QuarantinedRecord] | None:
        """Read records behind `after`; None when no link ever had that id."""
        if all(account.link_id != link_id for account in self._state.accounts.values()):
            return None
        found = [
            self._record(row)
            for row in self._state.quarantine.values()
            if self._link_of(row) == link_id
            and row.quarantine_id > after
            and state in {None, row.state}
        ]
        return found[:limit]

    async def read(self, link_id: LinkId, quarantine_id: int) -> QuarantinedRecord | None:
        """Read one record."""
        row = self._state.quarantine.get(quarantine_id)
        return None if row is None or self._link_of(row) != link_id else self._record(row)

    async def ask_replay(self, link_id: LinkId, quarantine_id: int) -> QuarantinedRecord | None:
        """Have the owner write an open record; None when it is open no more."""
        row = self._state.quarantine[quarantine_id]
        return await self._change(link_id, replace(row, replay_asked_at=self._state.clock.now()))

    async def discard(
        self, link_id: LinkId, quarantine_id: int, *, note: str
    ) -> QuarantinedRecord | None:
        """Close an open record for a reason; None when it is open no more."""
        return await self._change(
            link_id,
            replace(
                self._state.quarantine[quarantine_id],
                state=QuarantineState.DISCARDED,
                closed_at=self._state.clock.now(),
                replay_asked_at=None,
                note=note,
            ),
        )

    async def _change(self, link_id: LinkId, changed: QuarantineRow) -> QuarantinedRecord | None:
        before = self._state.quarantine[changed.quarantine_id]
        if before.state is not QuarantineState.OPEN:
            return None
        self._state.quarantine[changed.quarantine_id] = changed
        return await self.read(link_id, changed.quarantine_id)

    def _link_of(self, row: QuarantineRow) -> LinkId:
        return self._state.accounts[row.account_id].link_id

    def _record(self, row: QuarantineRow) -> QuarantinedRecord:
        account = self._state.accounts[row.account_id]
        return QuarantinedRecord(
            quarantine_id=row.quarantine_id,
            link_id=account.link_id,
            platform=account.spec.identity.platform,
            record=row.record,
            source=row.source,
            state=row.state,
            times=row.times,
            first_seen_at=row.first_seen_at,
            last_seen_at=row.last_seen_at,
            replay_asked_at=row.replay_asked_at,
            closed_at=row.closed_at,
            note=row.note,
        )
