"""What the control of MetaApi itself is asked, and what it shows."""

from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from brokerd.domain import Platform
from brokerd.sandbox.bill import Bill, ChargeKind
from brokerd.sandbox.control_requests import Body
from brokerd.sandbox.facts import ProvisioningState
from brokerd.sandbox.trading import TradingAccount
from brokerd.sandbox.users import Quotas, TopUp, User
from brokerd.sandbox.validation import ValidationCode


class ChangeLogin(Body):
    """What is to be different at the broker; `trouble` null clears the way."""

    password: str | None = None
    trouble: ValidationCode | UnsetType | None = UNSET
    needed_slots: Annotated[int, msgspec.Meta(ge=1)] | None = None


class AddUser(Body):
    """The token of a user; the SDK refuses to provision with one that has no two dots."""

    token: str


class ChangeUser(Body):
    """What is to be different for a user; what is left out stays.

    `region_quotas` replaces all of them; a region that is not in it has the user's `quotas`.
    """

    is_revoked: bool | None = None
    is_forbidden: bool | None = None
    paid: Decimal | None = None
    top_up: TopUp | None = None
    quotas: Quotas | None = None
    region_quotas: dict[str, Quotas] | None = None


class MoveBillClock(Body):
    """Hours to let go by at once; how many each hour counts for from now on."""

    advance_hours: Decimal = Decimal(0)
    scale: Decimal | None = None


class Ordered(msgspec.Struct):
    """The account's state after the order."""

    state: ProvisioningState


class LoginView(msgspec.Struct):
    """A trading account at the broker, how to get in, and its accounts at MetaApi."""

    server: str
    login: str
    platform: Platform
    currency: str
    password: str
    investor_password: str
    trouble: ValidationCode | None
    needed_slots: int
    account_ids: list[str]


class UserView(msgspec.Struct):
    """A user of MetaApi."""

    name: str
    is_revoked: bool
    is_forbidden: bool
    top_up: TopUp
    paid: Decimal
    balance: Decimal
    quotas: Quotas
    region_quotas: dict[str, Quotas]


class ItemView(msgspec.Struct):
    """One line of the bill; without `account_id` it is an account that never came to be."""

    owner: str
    account_id: str | None
    server: str
    login: str
    kind: ChargeKind
    count: int
    hours: Decimal
    amount: Decimal


class BillView(msgspec.Struct):
    """The bill as of now; `counts` says how often each kind was charged."""

    hours: Decimal
    total: Decimal
    counts: dict[ChargeKind, int]
    items: list[ItemView]


def apply(wanted: ChangeUser, user: User) -> None:
    """Change the user."""
    for name in wanted.__struct_fields__:
        value = getattr(wanted, name)
        if value is not None:
            setattr(user, name, value)


def login_view(trading: TradingAccount, *, account_ids: list[str]) -> LoginView:
    """Show a trading account."""
    access = trading.access
    return LoginView(
        server=trading.server.name,
        login=trading.login,
        platform=trading.platform,
        currency=trading.spec.currency,
        password=access.password,
        investor_password=access.investor_password,
        trouble=access.trouble,
        needed_slots=access.needed_slots,
        account_ids=account_ids,
    )


def user_view(user: User, *, balance: Decimal) -> UserView:
    """Show a user, without the token."""
    return UserView(
        name=user.name,
        is_revoked=user.is_revoked,
        is_forbidden=user.is_forbidden,
        top_up=user.top_up,
        paid=user.paid,
        balance=balance,
        quotas=user.quotas,
        region_quotas=user.region_quotas,
    )


def bill_view(bill: Bill, *, owner: str | None) -> BillView:
    """Show the bill of one user, or of all."""
    items = bill.items(owner=owner)
    counts = dict.fromkeys(ChargeKind, 0)
    for item in items:
        counts[item.kind] += item.charge.count
    return BillView(
        hours=bill.clock.hours(),
        total=sum((item.charge.amount for item in items), Decimal(0)),
        counts=counts,
        items=[
            ItemView(
                owner=item.payer.owner,
                account_id=item.payer.account_id,
                server=item.payer.server,
                login=item.payer.login,
                kind=item.kind,
                count=item.charge.count,
                hours=item.charge.hours,
                amount=item.charge.amount,
            )
            for item in items
        ],
    )
