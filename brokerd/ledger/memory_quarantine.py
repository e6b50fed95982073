"""The quarantine in memory: the same promises as `postgres_quarantine`, without a database."""

from collections.abc import Sequence
from dataclasses import replace

from brokerd.domain import (
    AccountId,
    BadRecord,
    Fence,
    OpenRecord,
    QuarantineState,
    Source,
)
from brokerd.errors import Fenced
from brokerd.store.memory import MemoryState, QuarantineRow


class MemoryQuarantine:
    """A `QuarantineStore` over the rows that all memory adapters share."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def keep(
        self, fence: Fence, records: Sequence[BadRecord], *, source: Source
    ) -> Sequence[str]:
        """Keep the records and return the digests of those that are new."""
        self._check(fence)
        known = self._digests(fence.account_id)
        for record in records:
            row = known.get(record.digest)
            if row is None:
                self._insert(fence.account_id, record, source)
            else:
                self._see_again(row, record)
        return tuple(record.digest for record in records if record.digest not in known)

    async def open_records(self, account_id: AccountId) -> Sequence[OpenRecord]:
        """Return the records of an account that are still open, oldest first."""
        return [
            OpenRecord(
                quarantine_id=row.quarantine_id,
                deal_id=row.record.deal_id,
                seen_at=row.last_seen_at,
                raw=None if row.replay_asked_at is None else row.record.raw,
            )
            for row in self._state.quarantine.values()
            if row.account_id == account_id and row.state is QuarantineState.OPEN
        ]

    async def close(self, fence: Fence, quarantine_ids: Sequence[int]) -> None:
        """Note that what these records say is in the ledger now."""
        self._check(fence)
        for quarantine_id in quarantine_ids:
            row = self._state.quarantine.get(quarantine_id)
            is_ours = row is not None and row.account_id == fence.account_id
            if row is not None and is_ours and row.state is QuarantineState.OPEN:
                self._state.quarantine[quarantine_id] = replace(
                    row,
                    state=QuarantineState.REPLAYED,
                    closed_at=self._state.clock.now(),
                    replay_asked_at=None,
                )

    def _check(self, fence: Fence) -> None:
        if not self._state.holds(fence):
            raise Fenced(f"account {fence.account_id} is no longer ours")

    def _digests(self, account_id: AccountId) -> dict[str, QuarantineRow]:
        rows = self._state.quarantine.values()
        return {row.record.digest: row for row in rows if row.account_id == account_id}

    def _insert(self, account_id: AccountId, record: BadRecord, source: Source) -> None:
        now = self._state.clock.now()
        quarantine_id = max(self._state.quarantine, default=0) + 1
        self._state.quarantine[quarantine_id] = QuarantineRow(
            quarantine_id=quarantine_id,
            account_id=account_id,
            record=record,
            source=source,
            first_seen_at=now,
            last_seen_at=now,
        )

    def _see_again(self, row: QuarantineRow, record: BadRecord) -> None:
        """Note a known record once more; only an operator's word outlasts that."""
        was_replayed = row.state is QuarantineState.REPLAYED
        self._state.quarantine[row.quarantine_id] = replace(
            row,
            record=replace(row.record, reason=record.reason, problem=record.problem),
            last_seen_at=self._state.clock.now(),
            times=row.times + 1,
            state=QuarantineState.OPEN if was_replayed else row.state,
            closed_at=None if was_replayed else row.closed_at,
        )
