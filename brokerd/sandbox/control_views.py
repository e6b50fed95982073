"""What the control API shows."""

from datetime import datetime
from decimal import Decimal

import msgspec

from brokerd.domain import Platform
from brokerd.sandbox.facts import ConnectionStatus, ProvisioningState, Reliability, TruthDeal
from brokerd.sandbox.faults import Fault, FaultKind, Faults, StagedFault
from brokerd.sandbox.truth import TruthAccount


class Problem(msgspec.Struct):
    """Why a request was refused."""

    error: str


class Traded(msgspec.Struct):
    """How many deals happened."""

    deals: int


class Dropped(msgspec.Struct):
    """How many sockets were cut."""

    sockets: int


class MarketView(msgspec.Struct):
    """The market's settings."""

    deals_per_account_minute: float
    is_frozen: bool


class FaultView(msgspec.Struct, omit_defaults=True):
    """A fault that is on; `kind` is one of either list of them."""

    kind: str
    account_ids: list[str] | None
    probability: float
    limit: int | None
    seconds: float
    count: int
    status: int
    is_html: bool
    per_minute: float
    max_age_seconds: float


class FaultsView(msgspec.Struct):
    """The switchboard; `staged` counts those that the demo's storm leaves out."""

    active: list[FaultView]
    injected: dict[FaultKind, int]
    staged: dict[StagedFault, int]


class SessionsView(msgspec.Struct):
    """How many streams the clients of each account began since the start."""

    opened: dict[str, int]


class AccountView(msgspec.Struct):
    """An account and its sums."""

    account_id: str
    login: str
    server: str
    platform: Platform
    currency: str
    region: str
    owner: str
    reliability: Reliability
    is_hedging: bool
    state: ProvisioningState
    connection_status: ConnectionStatus
    balance: Decimal
    credit: Decimal
    equity: Decimal
    deals: int
    positions: int


class DealView(msgspec.Struct):
    """A deal as the broker knows it; `deal_id` is unique in the account, `ticket` need not be."""

    deal_id: str
    ticket: str
    type: str
    entry: str | None
    symbol: str | None
    volume: Decimal | None
    price: Decimal | None
    profit: Decimal
    commission: Decimal
    swap: Decimal
    time: datetime
    booked_at: datetime
    order_id: str | None
    position_id: str | None


class TruthView(msgspec.Struct):
    """All that a ledger must be equal to."""

    account: AccountView
    deals: list[DealView]


def account_view(account: TruthAccount) -> AccountView:
    """Show an account."""
    spec = account.spec
    return AccountView(
        account_id=account.metaapi_id,
        login=account.login,
        server=account.server.name,
        platform=account.platform,
        currency=spec.currency,
        region=spec.region,
        owner=spec.owner,
        reliability=spec.reliability,
        is_hedging=spec.is_hedging,
        state=account.state,
        connection_status=account.connection_status,
        balance=account.balance,
        credit=account.credit,
        equity=account.equity,
        deals=account.deal_count,
        positions=len(account.positions),
    )


def deal_view(deal: TruthDeal) -> DealView:
    """Show a deal."""
    return DealView(
        deal_id=deal.deal_id,
        ticket=deal.ticket,
        type=deal.type,
        entry=deal.entry,
        symbol=deal.symbol,
        volume=deal.volume,
        price=deal.price,
        profit=deal.profit,
        commission=deal.commission,
        swap=deal.swap,
        time=deal.time,
        booked_at=deal.booked_at,
        order_id=deal.order_id,
        position_id=deal.position_id,
    )


def truth_view(account: TruthAccount) -> TruthView:
    """Show an account and all its deals, oldest first."""
    return TruthView(
        account=account_view(account), deals=[deal_view(deal) for deal in account.deals()]
    )


def faults_view(faults: Faults) -> FaultsView:
    """Show the switchboard."""
    active = [_fault_view(fault) for fault in faults.active]
    return FaultsView(active=active, injected=faults.injected, staged=faults.staged)


def _fault_view(fault: Fault) -> FaultView:
    return FaultView(
        kind=fault.kind,
        account_ids=None if fault.account_ids is None else sorted(fault.account_ids),
        probability=fault.probability,
        limit=fault.limit,
        seconds=fault.seconds,
        count=fault.count,
        status=fault.status,
        is_html=fault.is_html,
        per_minute=fault.per_minute,
        max_age_seconds=fault.max_age.total_seconds(),
    )
