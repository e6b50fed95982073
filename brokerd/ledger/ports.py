"""What the ledger's writer needs of a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from brokerd.connector.ports import HeldDeal
from brokerd.domain import (
    AccountId,
    BadRecord,
    DealId,
    Fence,
    LinkWrite,
    OpenRecord,
    Source,
    Totals,
    WriteOutcome,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberedWrite:
    """One link's write under a random number of its own.

    The number stays in the rows it changed. So when an answer was lost and the write is sent
    again, the store knows its own traces and reports them as done by this write.
    """

    write_id: int
    write: LinkWrite


class QuarantineStore(Protocol):
    """The rows of what cannot be deals.

    All methods raise `StoreUnavailable`; those with a fence raise `Fenced`, and wrote nothing.
    """

    async def keep(
        self, fence: Fence, records: Sequence[BadRecord], *, source: Source
    ) -> Sequence[str]:
        """Keep records of different digests and return the digests of those that are new."""

    async def open_records(self, account_id: AccountId) -> Sequence[OpenRecord]:
        """Return the records of an account that are still open, oldest first."""

    async def close(self, fence: Fence, quarantine_ids: Sequence[int]) -> None:
        """Note that what these records say is in the ledger now."""


class LedgerStore(Protocol):
    """The ledger's rows. Every method raises `StoreUnavailable`."""

    @property
    def quarantine(self) -> QuarantineStore:
        """Return the rows of what cannot be deals."""

    async def commit(self, writes: Sequence[NumberedWrite]) -> Mapping[AccountId, WriteOutcome]:
        """Commit all writes at once, each under its fence; at most one per account.

        An account that is missing from the answer was fenced, and nothing of it was written.
        Raises `BadDeal` when the store refuses the data: then nothing at all was written.
        """

    async def close_window(
        self, fence: Fence, *, start: datetime, end: datetime, is_continuation: bool = False
    ) -> None:
        """Record that [start, end) was pulled whole, and move the watermark to `end`.

        What lies before the watermark is covered already. Raises `Fenced`, and `LedgerRewound` when
        `start` would leave a hole behind the watermark, or when a continuation finds none.
        """

    async def watermark(self, account_id: AccountId) -> datetime | None:
        """Return the time through which the ledger is complete."""

    async def held(
        self, account_id: AccountId, *, start: datetime, end: datetime
    ) -> Mapping[DealId, HeldDeal]:
        """Return the deals that are not removed with start <= time < end."""

    async def totals(self, account_id: AccountId) -> Totals:
        """Sum all deals of the account that are not removed."""
