"""What the control API is asked, checked, and turned into what the truth understands."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from brokerd.domain import Platform
from brokerd.errors import InvalidRequest
from brokerd.sandbox.accounts import Mix
from brokerd.sandbox.facts import (
    DEFAULT_OWNER,
    ZERO,
    Amendment,
    ConnectionStatus,
    ProvisioningState,
    TruthDeal,
    whole_ms,
)
from brokerd.sandbox.faults import AnyFault, Fault
from brokerd.sandbox.habits import Past
from brokerd.sandbox.truth import TruthAccount

_MAX_DIGITS = 15
_MAX_DECIMALS = 8

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """A request body: a misspelt field is an error, not a default."""


class MakeAccounts(Body):
    """How many accounts, of which kinds, with which past, of which MetaApi user.

    Of `count`, the share `high_share` has two terminals, `netting_share` nets (MT5 only).
    """

    count: Annotated[int, msgspec.Meta(ge=1, le=5_000)] = 1
    server: str | None = None
    platform: Platform = Platform.MT5
    currency: str = "USD"
    region: str = "new-york"
    state: ProvisioningState = ProvisioningState.DEPLOYED
    owner: str = DEFAULT_OWNER
    high_share: _Share = 0.0
    netting_share: _Share = 0.0
    deals: _Count = 50
    days: _Positive = 30.0
    positions: _Count = 3
    deposit: Decimal = Decimal(50_000)

    def mix(self) -> Mix:
        """Return the accounts to make."""
        _check_amount(self.deposit)
        return Mix(
            count=self.count,
            server=self.server,
            platform=self.platform,
            currency=self.currency,
            region=self.region,
            state=self.state,
            owner=self.owner,
            high_share=self.high_share,
            netting_share=self.netting_share,
            past=Past(
                deals=self.deals, days=self.days, positions=self.positions, deposit=self.deposit
            ),
        )


class PlaceDeal(Body):
    """One deal to book; without `time` it happens now. A quiet one is never streamed.

    `warp` spoils its record wherever it is shown (`facts.TruthDeal`): {"profit": "NaN", "id": ""}.
    """

    type: str = "DEAL_TYPE_BALANCE"
    profit: Decimal = ZERO
    commission: Decimal = ZERO
    swap: Decimal = ZERO
    time: _Moment | None = None
    age_seconds: _NotNegative | None = None
    entry: Literal["DEAL_ENTRY_IN", "DEAL_ENTRY_OUT", "DEAL_ENTRY_INOUT"] | None = None
    symbol: str | None = None
    volume: Decimal | None = None
    price: Decimal | None = None
    position_id: str | None = None
    order_id: str | None = None
    is_quiet: bool = False
    warp: dict[str, str] = {}


class AmendDeal(Body):
    """New values of a deal; what is left out stays. An empty `warp` mends its record."""

    profit: Decimal | None = None
    commission: Decimal | None = None
    swap: Decimal | None = None
    time: _Moment | None = None
    warp: dict[str, str] | None = None

    def amendment(self) -> Amendment:
        """Return the change to make."""
        values = (self.profit, self.commission, self.swap)
        for value in values:
            _check_amount(value)
        time = None if self.time is None else self.time.astimezone(UTC)
        return Amendment(
            profit=self.profit,
            commission=self.commission,
            swap=self.swap,
            time=time,
            warp=None if self.warp is None else tuple(self.warp.items()),
        )


class Trade(Body):
    """At least how many deals are to happen."""

    deals: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1


class SetState(Body):
    """A deployment state."""

    state: ProvisioningState


class SetConnection(Body):
    """A connection status."""

    status: ConnectionStatus


class SetMarket(Body):
    """The market's settings; what is left out stays."""

    deals_per_account_minute: Annotated[float, msgspec.Meta(ge=0, le=60_000)] | None = None
    is_frozen: bool | None = None


class SwitchOn(Body):
    """A fault's parameters; the switchboard says what each kind makes of them."""

    account_ids: list[str] | None = None
    probability: _Share = 1.0
    limit: _Count | None = None
    seconds: _NotNegative = 1.0
    count: _Count = 10
    status: Literal[500, 502, 503, 504] = 500
    is_html: bool = False
    per_minute: _Positive = 6.0
    max_age_seconds: Annotated[float, msgspec.Meta(gt=60)] = 252_000.0

    def fault(self, kind: AnyFault) -> Fault:
        """Return the fault to switch on."""
        return Fault(
            kind=kind,
            account_ids=None if self.account_ids is None else frozenset(self.account_ids),
            probability=self.probability,
            limit=self.limit,
            seconds=self.seconds,
            count=self.count,
            status=self.status,
            is_html=self.is_html,
            per_minute=self.per_minute,
            max_age=timedelta(seconds=self.max_age_seconds),
        )


class DropSockets(Body):
    """Which sockets to cut: of one instance, of some accounts, or all."""

    instance_index: Literal[0, 1] | None = None
    account_ids: list[str] | None = None


def placed_deal(wanted: PlaceDeal, *, account: TruthAccount, now: datetime) -> TruthDeal:
    """Make the deal that is asked for; raises `InvalidRequest`."""
    for amount in (wanted.profit, wanted.commission, wanted.swap, wanted.volume, wanted.price):
        _check_amount(amount)
    if wanted.time is not None and wanted.age_seconds is not None:
        raise InvalidRequest("give `time` or `age_seconds`, not both")
    if wanted.symbol is not None and wanted.symbol not in account.server.specs:
        raise InvalidRequest(f"`symbol`: {account.server.name} has no {wanted.symbol!r}")
    happened = wanted.time or now - timedelta(seconds=wanted.age_seconds or 0.0)
    return TruthDeal(
        ticket=account.server.take_ticket(),
        platform=account.platform,
        type=wanted.type,
        time=whole_ms(happened.astimezone(UTC)),
        booked_at=now,
        profit=wanted.profit,
        commission=wanted.commission,
        swap=wanted.swap,
        entry=wanted.entry,
        symbol=wanted.symbol,
        volume=wanted.volume,
        price=wanted.price,
        order_id=wanted.order_id,
        position_id=wanted.position_id,
        warp=tuple(wanted.warp.items()),
    )


def _check_amount(amount: Decimal | None) -> None:
    """Refuse what the wire's double could not carry exactly."""
    if amount is None:
        return
    _, digits, exponent = amount.as_tuple()
    if not isinstance(exponent, int) or exponent < -_MAX_DECIMALS or len(digits) > _MAX_DIGITS:
        raise InvalidRequest(f"{amount} is not an amount of at most 15 digits and 8 decimals")
