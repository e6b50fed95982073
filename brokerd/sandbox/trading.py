"""A trading account as its broker has it, whether MetaApi knows it or not."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from brokerd.domain import DealId, Platform
from brokerd.sandbox.facts import (
    CENT,
    DEFAULT_OWNER,
    ZERO,
    Amendment,
    Booking,
    ChangeKind,
    ProvisioningState,
    Reliability,
    SymbolSpec,
    TruthDeal,
    TruthOrder,
    TruthPosition,
)
from brokerd.sandbox.records import Access, Records
from brokerd.sandbox.validation import ValidationCode


@dataclass(slots=True, kw_only=True, eq=False)
class TradeServer:
    """A broker's server: its symbols, its prices, its tickets, its clock on the wall."""

    name: str
    platform: Platform
    specs: Mapping[str, SymbolSpec]
    prices: dict[str, Decimal]
    utc_offset: timedelta
    next_number: int

    def take_ticket(self) -> str:
        """Return a number that this server has never given to a deal or an order."""
        ticket, self.next_number = str(self.next_number), self.next_number + 1
        return ticket


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSpec:
    """What an account is made with; `owner` is the MetaApi user who holds it there."""

    server: TradeServer
    name: str = "sandbox"
    currency: str = "USD"
    region: str = "new-york"
    reliability: Reliability = "regular"
    is_hedging: bool = True
    leverage: int = 100
    state: ProvisioningState = ProvisioningState.DEPLOYED
    owner: str = DEFAULT_OWNER


class TradingAccount:
    """One login at a trade server, and what happens to it there.

    Whatever changes its records is told to all who show them: the same login may be several
    accounts at MetaApi, or none.
    """

    def __init__(self, *, spec: AccountSpec, records: Records) -> None:
        self.spec = spec
        self.records = records

    def __repr__(self) -> str:
        count = self.records.deal_count
        return f"<{type(self).__name__} {self.login}@{self.server.name}, {count} deals>"

    @property
    def login(self) -> str:
        """Return the number that the broker gave to it."""
        return self.records.login

    @property
    def access(self) -> Access:
        """Return how to get in."""
        return self.records.access

    @property
    def balance(self) -> Decimal:
        """Return the sum of the deals that move it."""
        return self.records.balance

    @property
    def credit(self) -> Decimal:
        """Return the sum of the credit deals."""
        return self.records.credit

    @property
    def positions(self) -> Mapping[str, TruthPosition]:
        """Return the open positions by their id."""
        return self.records.positions

    @property
    def server(self) -> TradeServer:
        """Return the trade server that keeps the account."""
        return self.spec.server

    @property
    def platform(self) -> Platform:
        """Return the MetaTrader generation."""
        return self.spec.server.platform

    @property
    def floating_profit(self) -> Decimal:
        """Return what the open positions would bring now."""
        return sum((self.profit_of(position) for position in self._open()), ZERO)

    @property
    def equity(self) -> Decimal:
        """Return balance, credit and the floating profit together."""
        return self.balance + self.credit + self.floating_profit

    @property
    def margin(self) -> Decimal:
        """Return what the open positions bind."""
        specs = self.server.specs
        bound = (p.open_price * p.volume * specs[p.symbol].contract_size for p in self._open())
        return (sum(bound, ZERO) / self.spec.leverage).quantize(CENT)

    @property
    def deal_count(self) -> int:
        """Return how many deals the broker holds."""
        return self.records.deal_count

    def profit_of(self, position: TruthPosition) -> Decimal:
        """Return the unrealized profit of a position at the server's price."""
        symbol = position.symbol
        return position.profit_at(
            self.server.prices[symbol], contract_size=self.server.specs[symbol].contract_size
        )

    def deals(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> list[TruthDeal]:
        """Return the deals with start <= time < end, oldest first, and of these a page."""
        return self.records.deals(start=start, end=end, offset=offset, limit=limit)

    def orders(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> list[TruthOrder]:
        """Return the completed orders with start <= done_time < end, likewise."""
        return self.records.orders(start=start, end=end, offset=offset, limit=limit)

    def deal(self, deal_id: DealId) -> TruthDeal:
        """Return one deal; raises `NotFound`."""
        return self.records.deal(deal_id)

    def book(self, booking: Booking) -> None:
        """Write what happened in the market; MetaApi streams it."""
        self.records.write(booking)
        self.records.tell(ChangeKind.TRADED, booking)

    def book_quietly(self, booking: Booking) -> None:
        """Write what the broker adds behind the client's back; no stream shows it."""
        self.records.write(booking)
        self.records.tell(ChangeKind.BOOKED_QUIETLY, booking)

    def amend(self, deal_id: DealId, amendment: Amendment) -> TruthDeal:
        """Change a deal quietly; raises `NotFound`."""
        amended = amendment.apply(self.records.remove(deal_id))
        self.records.insert(amended)
        self.records.tell(ChangeKind.BOOKED_QUIETLY, Booking(deals=(amended,)))
        return amended

    def delete(self, deal_id: DealId) -> TruthDeal:
        """Remove a deal quietly; raises `NotFound`."""
        removed = self.records.remove(deal_id)
        self.records.tell(ChangeKind.BOOKED_QUIETLY, Booking())
        return removed

    def change_password(self, password: str) -> None:
        """Let the broker know another password; terminals with the old one are thrown out."""
        self.access.password = password
        self.records.tell(ChangeKind.ACCESS, Booking())

    def set_trouble(self, trouble: ValidationCode | None) -> None:
        """Put something in everyone's way, or take it away."""
        self.access.trouble = trouble
        self.records.tell(ChangeKind.ACCESS, Booking())

    def _open(self) -> list[TruthPosition]:
        return list(self.positions.values())
