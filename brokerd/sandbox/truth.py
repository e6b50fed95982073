"""The ground truth: a seeded broker with trade servers and accounts whose sums follow their deals.

Everything else in the sandbox shows this truth, distorts it on purpose, or changes it through the
few methods here. Every change reaches the listeners at once, in order, as a `Change`.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from uuid import UUID

from brokerd.clock import Clock
from brokerd.domain import DealId, Platform
from brokerd.errors import NotFound
from brokerd.sandbox.facts import (
    CENT,
    ZERO,
    Amendment,
    Booking,
    ChangeKind,
    ConnectionStatus,
    ProvisioningState,
    Reliability,
    SymbolSpec,
    TruthDeal,
    TruthOrder,
    TruthPosition,
    whole_ms,
)

_Place = tuple[datetime, int, str]
"""Where a record stands in history: time, number, id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What just became true of an account."""

    account: "TruthAccount"
    kind: ChangeKind
    deals: tuple[TruthDeal, ...] = ()
    orders: tuple[TruthOrder, ...] = ()
    positions: tuple[TruthPosition, ...] = ()
    removed_position_ids: tuple[str, ...] = ()


ChangeListener = Callable[[Change], None]


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
    """What an account is made with."""

    server: TradeServer
    name: str = "sandbox"
    currency: str = "USD"
    region: str = "new-york"
    reliability: Reliability = "regular"
    is_hedging: bool = True
    leverage: int = 100
    state: ProvisioningState = ProvisioningState.DEPLOYED


class TruthAccount:
    """One trading account. `balance` and `credit` are the sums of its deals, always."""

    def __init__(
        self,
        *,
        metaapi_id: str,
        login: str,
        spec: AccountSpec,
        created_at: datetime,
        tell: ChangeListener,
    ) -> None:
        self.metaapi_id = metaapi_id
        self.login = login
        self.spec = spec
        self.created_at = created_at
        self.balance = ZERO
        self.credit = ZERO
        self.positions: dict[str, TruthPosition] = {}
        self.state = spec.state
        is_deployed = spec.state is ProvisioningState.DEPLOYED
        self.connection_status = (
            ConnectionStatus.CONNECTED if is_deployed else ConnectionStatus.DISCONNECTED
        )
        self._tell = tell
        self._deals: dict[DealId, TruthDeal] = {}
        self._deal_places: list[_Place] = []
        self._orders: dict[str, TruthOrder] = {}
        self._order_places: list[_Place] = []

    def __repr__(self) -> str:
        return f"<TruthAccount {self.login}@{self.server.name}, {len(self._deals)} deals>"

    @property
    def server(self) -> TradeServer:
        """Return the trade server that keeps the account."""
        return self.spec.server

    @property
    def platform(self) -> Platform:
        """Return the MetaTrader generation."""
        return self.spec.server.platform

    @property
    def replicas(self) -> int:
        """Return how many terminals MetaApi runs for it."""
        return 2 if self.spec.reliability == "high" else 1

    @property
    def is_reachable(self) -> bool:
        """Say whether a terminal is up and logged in at the broker."""
        is_deployed = self.state is ProvisioningState.DEPLOYED
        return is_deployed and self.connection_status is ConnectionStatus.CONNECTED

    @property
    def floating_profit(self) -> Decimal:
        """Return what the open positions would bring now."""
        return sum((self.profit_of(position) for position in self.positions.values()), ZERO)

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
        return len(self._deals)

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
        places = _page(_between(self._deal_places, start, end), offset, limit)
        return [self._deals[DealId(self._deal_places[place][2])] for place in places]

    def orders(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> list[TruthOrder]:
        """Return the completed orders with start <= done_time < end, likewise."""
        places = _page(_between(self._order_places, start, end), offset, limit)
        return [self._orders[self._order_places[place][2]] for place in places]

    def deal(self, deal_id: DealId) -> TruthDeal:
        """Return one deal; raises `NotFound`."""
        if deal_id not in self._deals:
            raise NotFound(f"account {self.metaapi_id} has no deal {deal_id}")
        return self._deals[deal_id]

    def book(self, booking: Booking) -> None:
        """Write what happened in the market; MetaApi streams it."""
        self._write(booking)
        self._tell(
            Change(
                account=self,
                kind=ChangeKind.TRADED,
                deals=booking.deals,
                orders=booking.orders,
                positions=booking.positions,
                removed_position_ids=booking.removed_position_ids,
            )
        )

    def book_quietly(self, booking: Booking) -> None:
        """Write what the broker adds behind the client's back; no stream shows it."""
        self._write(booking)
        self._tell(Change(account=self, kind=ChangeKind.BOOKED_QUIETLY, deals=booking.deals))

    def amend(self, deal_id: DealId, amendment: Amendment) -> TruthDeal:
        """Change a deal quietly; raises `NotFound`."""
        amended = amendment.apply(self._remove(deal_id))
        self._insert(amended)
        self._tell(Change(account=self, kind=ChangeKind.BOOKED_QUIETLY, deals=(amended,)))
        return amended

    def delete(self, deal_id: DealId) -> TruthDeal:
        """Remove a deal quietly; raises `NotFound`."""
        removed = self._remove(deal_id)
        self._tell(Change(account=self, kind=ChangeKind.BOOKED_QUIETLY))
        return removed

    def set_state(self, state: ProvisioningState) -> None:
        """Move the deployment; the terminal goes up and down with it."""
        self.state = state
        is_up = state is ProvisioningState.DEPLOYED
        self.set_connection(ConnectionStatus.CONNECTED if is_up else ConnectionStatus.DISCONNECTED)

    def set_connection(self, status: ConnectionStatus) -> None:
        """Change whether the terminal runs and whether the broker let it in."""
        self.connection_status = status
        self._tell(Change(account=self, kind=ChangeKind.CONNECTION))

    def _open(self) -> list[TruthPosition]:
        return list(self.positions.values())

    def _write(self, booking: Booking) -> None:
        for deal in booking.deals:
            self._insert(deal)
        for order in booking.orders:
            self._orders[order.order_id] = order
            insort(self._order_places, (order.done_time, int(order.order_id), order.order_id))
        for position in booking.positions:
            self.positions[position.position_id] = position
        for position_id in booking.removed_position_ids:
            self.positions.pop(position_id, None)

    def _insert(self, deal: TruthDeal) -> None:
        assert deal.deal_id not in self._deals, f"deal {deal.deal_id} exists"
        self._deals[deal.deal_id] = deal
        insort(self._deal_places, _place(deal))
        self._add(deal, deal.amount)

    def _remove(self, deal_id: DealId) -> TruthDeal:
        deal = self.deal(deal_id)
        del self._deals[deal_id]
        del self._deal_places[bisect_left(self._deal_places, _place(deal))]
        self._add(deal, -deal.amount)
        return deal

    def _add(self, deal: TruthDeal, amount: Decimal) -> None:
        if deal.is_credit:
            self.credit += amount
        else:
            self.balance += amount


class Broker:
    """All trade servers and accounts behind one sandbox."""

    def __init__(self, *, clock: Clock, random: Random) -> None:
        self.clock = clock
        self.random = random
        self.servers: dict[str, TradeServer] = {}
        self.accounts: dict[str, TruthAccount] = {}
        self._listeners: list[ChangeListener] = []
        self._next_login = random.randrange(10_000_000, 20_000_000)

    def now(self) -> datetime:
        """Return the wall clock, cut to the wire's milliseconds."""
        return whole_ms(self.clock.now())

    def listen(self, listener: ChangeListener) -> None:
        """Call the listener at every change, after it became true; it must not wait or raise."""
        self._listeners.append(listener)

    def add_server(self, server: TradeServer) -> TradeServer:
        """Open a trade server."""
        self.servers[server.name] = server
        return server

    def add_account(self, spec: AccountSpec) -> TruthAccount:
        """Open an account without deals."""
        account = TruthAccount(
            metaapi_id=str(UUID(int=self.random.getrandbits(128), version=4)),
            login=str(self._next_login),
            spec=spec,
            created_at=self.now(),
            tell=self._tell,
        )
        self._next_login += 1
        self.accounts[account.metaapi_id] = account
        return account

    def account(self, metaapi_id: str) -> TruthAccount:
        """Return an account by its MetaApi id; raises `NotFound`."""
        if metaapi_id not in self.accounts:
            raise NotFound(f"no account {metaapi_id}")
        return self.accounts[metaapi_id]

    def _tell(self, change: Change) -> None:
        for listener in self._listeners:
            listener(change)


def _place(deal: TruthDeal) -> _Place:
    return (deal.time, int(deal.ticket), deal.deal_id)


def _between(places: list[_Place], start: datetime | None, end: datetime | None) -> range:
    low = 0 if start is None else bisect_left(places, (start, -1, ""))
    high = len(places) if end is None else bisect_left(places, (end, -1, ""))
    return range(low, max(low, high))


def _page(places: range, offset: int, limit: int | None) -> range:
    return places[offset:] if limit is None else places[offset : offset + limit]
