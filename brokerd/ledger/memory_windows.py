"""The windows in memory: the same promises as `postgres_windows`, kept without a database."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import reduce

from brokerd.domain import AccountId, Anchor, Fence, Window
from brokerd.errors import Fenced
from brokerd.ledger import content
from brokerd.store.memory import HeadRow, MemoryState


class MemoryWindows:
    """The connector's `Windows` over the rows that all memory adapters share."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def span_end(
        self, account_id: AccountId, *, start: datetime, end: datetime, max_deals: int
    ) -> datetime:
        """Return `end`, or the earlier time at which the ledger's deals exceed `max_deals`."""
        times = sorted(
            row.deal.time
            for row in self._state.deals.values()
            if row.account_id == account_id
            and row.removed_at is None
            and start <= row.deal.time < end
        )
        if len(times) <= max_deals:
            return end
        if times[max_deals] > start:
            return times[max_deals]
        return next((time for time in times if time > start), end)

    async def closed(self, account_id: AccountId) -> Sequence[Window]:
        """Return the account's windows in order."""
        return tuple(self._state.windows.get(account_id, ()))

    async def merge(self, fence: Fence, *, start: datetime, end: datetime) -> bool:
        """Make one window of those that tile [start, end); False when they do not, any more."""
        windows = self._owned(fence)
        parts = [each for each in windows if start <= each.start and each.end <= end]
        if len(parts) < 2 or (parts[0].start, parts[-1].end) != (start, end):  # noqa: PLR2004
            return False
        whole = Window(
            start=start,
            end=end,
            receipt=reduce(content.joined, (each.receipt for each in parts)),
            verified_at=min((p.verified_at for p in parts if p.verified_at), default=None),
        )
        at = windows.index(parts[0])
        windows[at : at + len(parts)] = [whole]
        return True

    async def verify(self, fence: Fence, *, start: datetime) -> bool:
        """Note that the window was compared with the broker; say whether its receipt was true."""
        windows = self._owned(fence)
        for at, window in enumerate(windows):
            if window.start == start:
                counted = content.receipt_of(
                    row.deal
                    for row in self._state.deals.values()
                    if row.account_id == fence.account_id
                    and row.removed_at is None
                    and window.start <= row.deal.time < window.end
                )
                windows[at] = replace(window, receipt=counted, verified_at=self._state.clock.now())
                return counted == window.receipt
        raise ValueError(f"account {fence.account_id} has no window from {start}")

    async def anchor(self, fence: Fence, anchor: Anchor) -> None:
        """Store what the account held before its partial history; the first one stays."""
        self._owned(fence)
        head = self._state.heads.get(fence.account_id, HeadRow())
        if head.anchor is None:
            self._state.heads[fence.account_id] = replace(head, anchor=anchor)

    def _owned(self, fence: Fence) -> list[Window]:
        if not self._state.holds(fence):
            raise Fenced(f"account {fence.account_id} is no longer ours")
        return self._state.windows.get(fence.account_id, [])
