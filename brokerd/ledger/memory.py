"""The ledger in memory: the same promises as `postgres`, kept without a database."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal

from brokerd.connector.ports import HeldDeal
from brokerd.domain import (
    AccountId,
    Book,
    Deal,
    DealId,
    Fence,
    LinkWrite,
    Receipt,
    Totals,
    Window,
    WriteOutcome,
)
from brokerd.errors import Fenced, LedgerRewound
from brokerd.ledger import content
from brokerd.ledger.change import Change, Held, change_by_deal, change_by_removal, may_change
from brokerd.ledger.feed import EventType
from brokerd.ledger.memory_events import Outbox
from brokerd.ledger.memory_quarantine import MemoryQuarantine
from brokerd.ledger.payload import deal_payload
from brokerd.ledger.ports import NumberedWrite
from brokerd.store.memory import DealRow, HeadRow, MemoryState, RevisionRow

_EVENT_TYPES = {
    Change.INSERTED: EventType.DEAL_ADDED,
    Change.REVISED: EventType.DEAL_REVISED,
    Change.RESTORED: EventType.DEAL_REVISED,
    Change.REMOVED: EventType.DEAL_REMOVED,
}


@dataclass(slots=True)
class _Done:
    """What a write did so far."""

    inserted: set[DealId] = field(default_factory=set)
    revised: set[DealId] = field(default_factory=set)
    removed: set[DealId] = field(default_factory=set)

    def note(self, deal_id: DealId, change: Change) -> None:
        match change:
            case Change.INSERTED:
                self.inserted.add(deal_id)
            case Change.REVISED | Change.RESTORED:
                self.revised.add(deal_id)
            case Change.REMOVED:
                self.removed.add(deal_id)
            case Change.KEPT:
                pass

    def outcome(self) -> WriteOutcome:
        return WriteOutcome(
            inserted=frozenset(self.inserted),
            revised=frozenset(self.revised),
            removed=frozenset(self.removed),
        )


class MemoryLedgerStore:
    """A `LedgerStore` over the rows that all memory adapters share."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state
        self.quarantine = MemoryQuarantine(state)

    async def commit(self, writes: Sequence[NumberedWrite]) -> Mapping[AccountId, WriteOutcome]:
        """Commit all writes at once, each under its fence; at most one per account."""
        accounts = Counter(each.write.fence.account_id for each in writes)
        if any(count > 1 for count in accounts.values()):
            raise ValueError("two writes of one account in one batch")
        return {
            each.write.fence.account_id: self._apply(each)
            for each in writes
            if self._state.holds(each.write.fence)
        }

    async def close_window(
        self, fence: Fence, *, start: datetime, end: datetime, is_continuation: bool = False
    ) -> None:
        """Record that [start, end) was pulled whole, and move the watermark to `end`."""
        if not self._state.holds(fence):
            raise Fenced(f"account {fence.account_id} is no longer ours")
        account_id = fence.account_id
        head = self._state.heads.get(account_id, HeadRow())
        is_hole = is_continuation if head.watermark is None else start > head.watermark
        if is_hole:
            raise LedgerRewound(f"a window from {start} leaves a hole behind {head.watermark}")
        begin = start if head.watermark is None else head.watermark
        if begin >= end:
            return
        windows = self._state.windows.setdefault(account_id, [])
        now = self._state.clock.now()
        recounted = self._recount(account_id, begin, end)
        piece = Window(start=begin, end=end, receipt=recounted, verified_at=now)
        if windows and _day(windows[-1].start) == _day(end):
            last = windows.pop()
            receipt = content.joined(last.receipt, piece.receipt)
            piece = Window(start=last.start, end=end, receipt=receipt, verified_at=now)
        windows.append(piece)
        self._state.heads[account_id] = replace(head, watermark=end)

    async def watermark(self, account_id: AccountId) -> datetime | None:
        """Return the time through which the ledger is complete."""
        return self._state.heads.get(account_id, HeadRow()).watermark

    async def held(
        self, account_id: AccountId, *, start: datetime, end: datetime
    ) -> Mapping[DealId, HeldDeal]:
        """Return the deals that are not removed with start <= time < end."""
        return {
            deal.deal_id: HeldDeal(book=deal.book, amount=deal.amount)
            for deal in self._present(account_id)
            if start <= deal.time < end
        }

    async def totals(self, account_id: AccountId) -> Totals:
        """Sum all deals of the account that are not removed."""
        deals = self._present(account_id)
        return Totals(
            deals=len(deals),
            balance=sum((d.amount for d in deals if d.book is Book.BALANCE), Decimal(0)),
            credit=sum((d.amount for d in deals if d.book is Book.CREDIT), Decimal(0)),
            unmapped_types=frozenset(d.type for d in deals if d.book is Book.UNMAPPED),
            quarantined=len(await self.quarantine.open_records(account_id)),
            anchor=self._state.heads.get(account_id, HeadRow()).anchor,
        )

    def _apply(self, numbered: NumberedWrite) -> WriteOutcome:
        """Carry out one write whose fence holds."""
        write, done = numbered.write, _Done()
        is_newest = self._note_pull(write)
        for deal in sorted(write.deals, key=lambda deal: (deal.time, deal.deal_id)):
            row = self._row(write, deal.deal_id)
            if row is not None and row.write_id == numbered.write_id:
                done.note(deal.deal_id, Change.REVISED if row.revision else Change.INSERTED)
                continue
            change = change_by_deal(
                _held(row), content_hash=content.content_hash(deal), may_change=is_newest
            )
            self._change(numbered, row, deal, change)
            done.note(deal.deal_id, change)
        for deal_id in write.removals:
            row = self._row(write, deal_id)
            if row is not None and row.write_id == numbered.write_id:
                done.note(deal_id, Change.REMOVED)
                continue
            change = change_by_removal(_held(row), may_change=is_newest)
            if row is not None:
                self._change(numbered, row, row.deal, change)
            done.note(deal_id, change)
        return done.outcome()

    def _note_pull(self, write: LinkWrite) -> bool:
        """Raise the account's mark to the pull's beginning; say whether it may change rows."""
        head = self._state.heads.get(write.fence.account_id, HeadRow())
        is_newest = may_change(fetched_at=write.fetched_at, pulled_at=head.pulled_at)
        if is_newest:
            head = replace(head, pulled_at=write.fetched_at)
            self._state.heads[write.fence.account_id] = head
        return is_newest

    def _row(self, write: LinkWrite, deal_id: DealId) -> DealRow | None:
        return self._state.deals.get((write.fence.account_id, deal_id))

    def _change(
        self, numbered: NumberedWrite, old: DealRow | None, deal: Deal, change: Change
    ) -> None:
        """Write the row that `change` asks for, with its revision, receipts and event."""
        write, key = numbered.write, (numbered.write.fence.account_id, deal.deal_id)
        if change is Change.KEPT:
            return
        now = self._state.clock.now()
        row = DealRow(
            account_id=write.fence.account_id,
            user_id=write.user_id,
            deal=deal,
            revision=0 if old is None else old.revision + 1,
            content_hash=content.content_hash(deal),
            source=write.source if old is None else old.source,
            write_id=numbered.write_id,
            committed_at=now,
            removed_at=now if change is Change.REMOVED else None,
        )
        self._state.deals[key] = row
        if old is not None:
            self._state.revisions.append(RevisionRow(kind=change, replaced=old))
            if old.removed_at is None:
                self._move_receipt(row.account_id, old.deal, is_added=False)
        if row.removed_at is None:
            self._move_receipt(row.account_id, deal, is_added=True)
        outbox = Outbox(self._state, row.account_id, link_id=write.link_id, user_id=write.user_id)
        outbox.tell(
            _EVENT_TYPES[change],
            deal_payload(deal),
            deal_id=deal.deal_id,
            revision=row.revision,
        )

    def _move_receipt(self, account_id: AccountId, deal: Deal, *, is_added: bool) -> None:
        move = content.add if is_added else content.remove
        self._state.windows[account_id] = [
            replace(window, receipt=move(window.receipt, deal))
            if window.start <= deal.time < window.end
            else window
            for window in self._state.windows.get(account_id, [])
        ]

    def _present(self, account_id: AccountId) -> list[Deal]:
        return [
            row.deal
            for row in self._state.deals.values()
            if row.account_id == account_id and row.removed_at is None
        ]

    def _recount(self, account_id: AccountId, start: datetime, end: datetime) -> Receipt:
        return content.receipt_of(
            deal for deal in self._present(account_id) if start <= deal.time < end
        )


def _held(row: DealRow | None) -> Held | None:
    if row is None:
        return None
    return Held(content_hash=row.content_hash, is_removed=row.removed_at is not None)


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()
