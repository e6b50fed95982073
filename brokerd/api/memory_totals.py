"""Totals per account and day over plain values."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date
from decimal import Decimal

from brokerd.api.memory_deals import bearer
from brokerd.api.ports import DayTotals, TotalsQuery
from brokerd.domain import AccountId, Book, Deal
from brokerd.store.memory import AccountRow, DealRow, MemoryState


class MemoryTotalsReader:
    """A `TotalsReader` over a `MemoryState`."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def totals(self, query: TotalsQuery) -> Sequence[DayTotals]:
        """Read one keyset page."""
        theirs = None if query.link_id is None else bearer(self._state, query.link_id)
        days: dict[tuple[AccountId, date], list[Deal]] = {}
        for row in self._state.deals.values():
            if _matches(row, query, theirs):
                day = row.deal.time.astimezone(UTC).date()
                days.setdefault((row.account_id, day), []).append(row.deal)
        keys = sorted(key for key in days if query.after is None or key > query.after)
        page: list[DayTotals] = []
        for account_id, day in keys:
            if query.is_full(page):
                break
            page.append(_totals(self._state.accounts[account_id], day, days[account_id, day]))
        return page


def _matches(row: DealRow, query: TotalsQuery, account_id: AccountId | None) -> bool:
    is_theirs = (
        row.user_id == query.user_id if query.link_id is None else row.account_id == account_id
    )
    return (
        is_theirs
        and row.removed_at is None
        and (query.start is None or row.deal.time >= query.start)
        and (query.end is None or row.deal.time < query.end)
    )


def _totals(account: AccountRow, day: date, deals: Sequence[Deal]) -> DayTotals:
    trades = [deal for deal in deals if deal.is_trade]
    return DayTotals(
        account_id=account.account_id,
        link_id=account.link_id,
        user_id=account.spec.user_id,
        currency=account.spec.identity.currency,
        day=day,
        deals=len(deals),
        trades=len(trades),
        volume=_sum(deal.volume or Decimal(0) for deal in trades),
        profit=_sum(deal.profit for deal in deals),
        commission=_sum(deal.commission for deal in deals),
        swap=_sum(deal.swap for deal in deals),
        balance=_sum(deal.amount for deal in deals if deal.book is Book.BALANCE),
        credit=_sum(deal.amount for deal in deals if deal.book is Book.CREDIT),
    )


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    return sum(amounts, Decimal(0))
