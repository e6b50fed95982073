"""What a broker knows, as frozen values: deals, orders, positions, symbols, and what changed."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Literal

from brokerd.domain import Book, DealId, Platform, book_of

Reliability = Literal["regular", "high"]
ZERO = Decimal(0)
CENT = Decimal("0.01")

DEFAULT_OWNER = "sandbox"
"""The MetaApi user to whom accounts belong when nobody else is named."""

_ENTRY_PREFIX = "DEAL_ENTRY_"


class ProvisioningState(StrEnum):
    """The states of a MetaApi account that the sandbox passes through (metaapi.md 2.5)."""

    CREATED = "CREATED"
    DEPLOYING = "DEPLOYING"
    DEPLOYED = "DEPLOYED"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    UNDEPLOYING = "UNDEPLOYING"
    UNDEPLOYED = "UNDEPLOYED"
    UNDEPLOY_FAILED = "UNDEPLOY_FAILED"
    DELETING = "DELETING"
    REDEPLOY_FAILED = "REDEPLOY_FAILED"
    DRAFT = "DRAFT"


class ConnectionStatus(StrEnum):
    """Whether the account's terminal runs, and whether its broker let it in."""

    CONNECTED = "CONNECTED"
    DISCONNECTED = "DISCONNECTED"
    DISCONNECTED_FROM_BROKER = "DISCONNECTED_FROM_BROKER"


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolSpec:
    """What a trade server says of one symbol. All are quoted in the account's own currency."""

    symbol: str
    description: str
    digits: int
    contract_size: Decimal
    min_volume: Decimal = Decimal("0.01")
    max_volume: Decimal = Decimal(500)
    volume_step: Decimal = Decimal("0.01")

    @property
    def tick_size(self) -> Decimal:
        """Return the smallest step of the price."""
        return Decimal(1).scaleb(-self.digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthDeal:
    """A deal as the broker keeps it.

    `ticket` is the id on the wire; the entry and the exit of an MT4 order share it. `booked_at` is
    when the broker made the record: a back-dated deal has `time` before it. `warp` spoils the
    record on its way out: pairs of a field and the text that stands for its value, "" for none.
    """

    ticket: str
    platform: Platform
    type: str
    time: datetime
    booked_at: datetime
    profit: Decimal = ZERO
    commission: Decimal = ZERO
    swap: Decimal = ZERO
    entry: str | None = None
    symbol: str | None = None
    volume: Decimal | None = None
    price: Decimal | None = None
    order_id: str | None = None
    position_id: str | None = None
    reason: str | None = None
    comment: str | None = None
    warp: tuple[tuple[str, str], ...] = ()

    @property
    def deal_id(self) -> DealId:
        """Return the id that is unique within the account."""
        if self.platform is Platform.MT5 or self.entry is None:
            return DealId(self.ticket)
        return DealId(f"{self.ticket}:{self.entry.removeprefix(_ENTRY_PREFIX)}")

    @property
    def amount(self) -> Decimal:
        """Return what the deal adds to its sum."""
        return self.profit + self.commission + self.swap

    @property
    def is_credit(self) -> bool:
        """Say which sum it moves. A bonus is booked as credit here; other brokers differ."""
        return book_of(self.type) is not Book.BALANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthOrder:
    """A completed order, as it stands in the order history."""

    order_id: str
    type: str
    symbol: str
    volume: Decimal
    price: Decimal
    time: datetime
    done_time: datetime
    position_id: str
    state: str = "ORDER_STATE_FILLED"
    reason: str = "ORDER_REASON_CLIENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthPosition:
    """An open position; `commission` and `swap` are what its deals have booked so far."""

    position_id: str
    symbol: str
    is_buy: bool
    volume: Decimal
    open_price: Decimal
    time: datetime
    update_time: datetime
    realized_profit: Decimal = ZERO
    commission: Decimal = ZERO
    swap: Decimal = ZERO

    def profit_at(self, price: Decimal, *, contract_size: Decimal) -> Decimal:
        """Return the unrealized profit at a price, to the cent."""
        step = price - self.open_price if self.is_buy else self.open_price - price
        return (step * self.volume * contract_size).quantize(CENT)


class ChangeKind(StrEnum):
    """Why the truth of an account changed."""

    TRADED = "traded"  # MetaApi streams it
    BOOKED_QUIETLY = "booked_quietly"  # late, amended or deleted: MetaApi streams nothing
    CONNECTION = "connection"  # deployed, undeployed, broker lost or found
    SYMBOLS = "symbols"  # the specification of some symbols
    ADDED = "added"  # MetaApi has one account more
    REMOVED = "removed"  # MetaApi has forgotten the account
    ACCESS = "access"  # the broker asks for something else: its terminals try again


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """What one act of the broker writes into an account, all of it at once."""

    deals: tuple[TruthDeal, ...] = ()
    orders: tuple[TruthOrder, ...] = ()
    positions: tuple[TruthPosition, ...] = ()
    removed_position_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment:
    """New values for a deal; None leaves a field as it is."""

    profit: Decimal | None = None
    commission: Decimal | None = None
    swap: Decimal | None = None
    time: datetime | None = None
    warp: tuple[tuple[str, str], ...] | None = None

    def apply(self, deal: TruthDeal) -> TruthDeal:
        """Return the amended deal."""
        return replace(
            deal,
            profit=deal.profit if self.profit is None else self.profit,
            commission=deal.commission if self.commission is None else self.commission,
            swap=deal.swap if self.swap is None else self.swap,
            time=deal.time if self.time is None else whole_ms(self.time),
            warp=deal.warp if self.warp is None else self.warp,
        )


def whole_ms(moment: datetime) -> datetime:
    """Cut a time to the milliseconds that the wire carries."""
    return moment - timedelta(microseconds=moment.microsecond % 1000)
