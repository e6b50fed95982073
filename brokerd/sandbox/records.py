"""What a broker keeps of one login: how to get in, deals, orders, positions, and their sums."""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from brokerd.domain import DealId
from brokerd.errors import NotFound
from brokerd.sandbox.facts import (
    ZERO,
    Booking,
    ChangeKind,
    TruthDeal,
    TruthOrder,
    TruthPosition,
)
from brokerd.sandbox.validation import ValidationCode

_Place = tuple[datetime, int, str]
"""Where a record stands in history: time, number, id."""

RecordsListener = Callable[[ChangeKind, Booking], None]

_LOCKS_OUT = frozenset(
    {
        ValidationCode.OTP_REQUIRED,
        ValidationCode.PASSWORD_CHANGE_REQUIRED,
        ValidationCode.TRADING_ACCOUNT_DISABLED,
    }
)


@dataclass(slots=True, kw_only=True)
class Access:
    """What the broker asks of whoever logs in.

    Both passwords open the account, the investor's for reading alone. `trouble` is what stands in
    the way of everyone; `needed_slots` is how many of MetaApi's resource slots a terminal needs.
    """

    password: str = field(repr=False)
    investor_password: str = field(repr=False)
    trouble: ValidationCode | None = None
    needed_slots: int = 1

    def is_right(self, password: str) -> bool:
        """Say whether the password is one of the two."""
        return password in (self.password, self.investor_password)

    def admits(self, password: str) -> bool:
        """Say whether a terminal with this password is logged in."""
        return self.is_right(password) and self.trouble not in _LOCKS_OUT


class Records:
    """One login's file. `balance` and `credit` are the sums of its deals, always."""

    def __init__(self, *, login: str, access: Access) -> None:
        self.login = login
        self.access = access
        self.balance = ZERO
        self.credit = ZERO
        self.positions: dict[str, TruthPosition] = {}
        self.listeners: list[RecordsListener] = []
        self._deals: dict[DealId, TruthDeal] = {}
        self._deal_places: list[_Place] = []
        self._orders: dict[str, TruthOrder] = {}
        self._order_places: list[_Place] = []

    @property
    def deal_count(self) -> int:
        """Return how many deals the broker holds."""
        return len(self._deals)

    def deals(
        self, *, start: datetime | None, end: datetime | None, offset: int, limit: int | None
    ) -> list[TruthDeal]:
        """Return the deals with start <= time < end, oldest first, and of these a page."""
        places = _page(_between(self._deal_places, start, end), offset, limit)
        return [self._deals[DealId(self._deal_places[place][2])] for place in places]

    def orders(
        self, *, start: datetime | None, end: datetime | None, offset: int, limit: int | None
    ) -> list[TruthOrder]:
        """Return the completed orders with start <= done_time < end, likewise."""
        places = _page(_between(self._order_places, start, end), offset, limit)
        return [self._orders[self._order_places[place][2]] for place in places]

    def deal(self, deal_id: DealId) -> TruthDeal:
        """Return one deal; raises `NotFound`."""
        if deal_id not in self._deals:
            raise NotFound(f"login {self.login} has no deal {deal_id}")
        return self._deals[deal_id]

    def write(self, booking: Booking) -> None:
        """Write all of one act."""
        for deal in booking.deals:
            self.insert(deal)
        for order in booking.orders:
            self._orders[order.order_id] = order
            insort(self._order_places, (order.done_time, int(order.order_id), order.order_id))
        for position in booking.positions:
            self.positions[position.position_id] = position
        for position_id in booking.removed_position_ids:
            self.positions.pop(position_id, None)

    def insert(self, deal: TruthDeal) -> None:
        """Write one deal, which must be new."""
        assert deal.deal_id not in self._deals, f"deal {deal.deal_id} exists"
        self._deals[deal.deal_id] = deal
        insort(self._deal_places, _place(deal))
        self._add(deal, deal.amount)

    def remove(self, deal_id: DealId) -> TruthDeal:
        """Take one deal out; raises `NotFound`."""
        deal = self.deal(deal_id)
        del self._deals[deal_id]
        del self._deal_places[bisect_left(self._deal_places, _place(deal))]
        self._add(deal, -deal.amount)
        return deal

    def tell(self, kind: ChangeKind, booking: Booking) -> None:
        """Let everyone who shows this login know what became true of it."""
        for listener in tuple(self.listeners):
            listener(kind, booking)

    def _add(self, deal: TruthDeal, amount: Decimal) -> None:
        if deal.is_credit:
            self.credit += amount
        else:
            self.balance += amount


def _place(deal: TruthDeal) -> _Place:
    return (deal.time, int(deal.ticket), deal.deal_id)


def _between(places: list[_Place], start: datetime | None, end: datetime | None) -> range:
    low = 0 if start is None else bisect_left(places, (start, -1, ""))
    high = len(places) if end is None else bisect_left(places, (end, -1, ""))
    return range(low, max(low, high))


def _page(places: range, offset: int, limit: int | None) -> range:
    return places[offset:] if limit is None else places[offset : offset + limit]
