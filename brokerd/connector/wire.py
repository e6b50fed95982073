"""The one place that turns MetaApi's records, from the stream or from REST, into our values.

Both ways lead through the same structs, so that one deal is equal whichever way it came. Fields
we do not know are ignored here and kept in `Deal.raw`.

**Money rule** (volume and price follow it too). MetaApi sends doubles, and a double carries 15
significant decimal digits; what stands behind them is an artefact of binary arithmetic, not
something the broker meant. So each number is taken as a double, rounded half-even to 15 significant
digits and then half-even to 8 decimals: -85.25999999999966 becomes -85.26. NaN, infinities and
anything of 10^15 and more, where no cents are left, are refused.

**Time rule.** Times must say their offset; they become UTC. `broker_time` stays text: it is the
broker's clock on the wall and has no zone.

**MT4.** An MT4 ticket is an order; the deals that MetaApi derives from it share its number. The
entry is therefore appended: `123456:IN`, `123456:OUT`. MT5's tickets are kept as they are.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Literal

import msgspec

from brokerd.connector.poison import bad_record, name_of, reason_of, shown
from brokerd.connector.ports import AccountInformation, DealsPage, RemoteAccount
from brokerd.connector.salvage import records_of
from brokerd.domain import MAX_ID_LENGTH, BadRecord, Deal, DealId, Platform
from brokerd.errors import BadDeal, MalformedAnswer

_ZERO = Decimal(0)
_DECIMALS = 8
_UNIT = Decimal(1).scaleb(-_DECIMALS)
_LIMIT = Decimal(10) ** 15
_ENTRY_PREFIX = "DEAL_ENTRY_"
_SHOWN_LENGTH = 64
_UNREADABLE = (ValueError, TypeError, OverflowError, RecursionError)  # msgspec's are ValueErrors

_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Ticket = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)] | int
_AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]


class _DealRecord(msgspec.Struct, rename="camel", gc=False):
    """MetatraderDeal (metaapi.md 6.1), as far as the ledger reads it."""

    id: _Ticket
    type: _Text
    time: _AwareTime
    profit: float
    platform: Platform | None = None
    entry_type: str | None = None
    symbol: str | None = None
    volume: float | None = None
    price: float | None = None
    broker_time: str | None = None
    commission: float | None = None
    swap: float | None = None
    order_id: str | int | None = None
    position_id: str | int | None = None


class _DealsAnswer(msgspec.Struct):
    """The second shape of a history answer, with the flag of the stream's API (metaapi.md 7)."""

    deals: list[msgspec.Raw]
    synchronizing: bool = False


class _AccountRecord(msgspec.Struct, rename="camel"):
    """A provisioned account (metaapi.md 2.4)."""

    id: _Text = msgspec.field(name="_id")
    state: _Text
    version: Literal[4, 5]
    region: _Text
    login: str | int = ""
    server: str = ""
    connection_status: str = "UNKNOWN"
    reliability: str = "regular"  # the smaller promise: one terminal
    type: str = "cloud-g2"


class _AccountsAnswer(msgspec.Struct):
    """The second shape of a list of accounts (metaapi.md 2.4)."""

    items: list[msgspec.Raw]


class _InformationRecord(msgspec.Struct, rename="camel"):
    """MetatraderAccountInformation (metaapi.md 6.4)."""

    platform: Platform
    login: _Text | int
    server: _Text
    currency: _Text
    balance: float
    credit: float | None = None
    margin_mode: str | None = None
    type: str | None = None
    currency_digits: int | None = None


_decode_deal = msgspec.json.Decoder(_DealRecord).decode
_decode_page = msgspec.json.Decoder(list[msgspec.Raw] | _DealsAnswer).decode
_decode_accounts = msgspec.json.Decoder(list[msgspec.Raw] | _AccountsAnswer).decode
_decode_account = msgspec.json.Decoder(_AccountRecord).decode
_decode_information = msgspec.json.Decoder(_InformationRecord).decode
_encode = msgspec.json.Encoder(enc_hook=str).encode


def deal_from_stream(record: Mapping[str, object], *, platform: Platform | None = None) -> Deal:
    """Read a deal as the SDK hands it over; raises `BadDeal` naming the deal and the field.

    `platform` serves records that name none themselves.
    """
    try:
        raw = _encode(record).decode()
        return _deal(msgspec.convert(record, _DealRecord), raw=raw, platform=platform)
    except _UNREADABLE as error:
        raise _bad_deal(record.get("id"), error) from None


def deals_from_json(body: bytes, *, platform: Platform | None = None) -> DealsPage:
    """Read a history answer: the documented array, or an object that says `synchronizing`.

    Records that are no deals stand apart in the page. Raises `MalformedAnswer` when the answer
    as a whole is none.
    """
    try:
        answer = _decode_page(body)
    except _UNREADABLE as error:
        records, is_synchronizing = _salvaged(body, error)
    else:
        is_object = isinstance(answer, _DealsAnswer)
        records = [bytes(each) for each in (answer.deals if is_object else answer)]
        is_synchronizing = is_object and answer.synchronizing
    deals: list[Deal] = []
    unreadable: dict[int, BadRecord] = {}
    for place, record in enumerate(records):
        try:
            deals.append(deal_from_record(record, platform=platform))
        except BadDeal as error:
            problem = str(error)
            reason = reason_of(record, problem)
            unreadable[place] = bad_record(record, reason=reason, problem=problem)
    return DealsPage(deals=tuple(deals), is_synchronizing=is_synchronizing, unreadable=unreadable)


def _salvaged(body: bytes, error: Exception) -> tuple[Sequence[bytes], bool]:
    """Take a page apart that one of its records spoils; else it is no page."""
    try:
        records, is_synchronizing = records_of(body)
    except MalformedAnswer:
        raise MalformedAnswer(f"not a list of deals: {shown(str(error))}") from None
    if not any(record.startswith(b"{") for record in records):
        raise MalformedAnswer(f"not a list of deals: {shown(str(error))}") from None
    return records, is_synchronizing


def account_from_json(body: bytes | msgspec.Raw) -> RemoteAccount:
    """Read a provisioned account; raises `MalformedAnswer`."""
    try:
        record = _decode_account(body)
    except _UNREADABLE as error:
        raise MalformedAnswer(f"not a MetaApi account: {error}") from None
    return RemoteAccount(
        account_id=record.id,
        state=record.state,
        connection_status=record.connection_status,
        platform=Platform.MT4 if record.version == 4 else Platform.MT5,  # noqa: PLR2004
        login=str(record.login),
        server=record.server,
        region=record.region,
        reliability=record.reliability,
        generation=record.type,
    )


def accounts_from_json(body: bytes) -> Sequence[RemoteAccount]:
    """Read a page of accounts; raises `MalformedAnswer` when it, or one of them, is none.

    An account that we could not read might be the very one that is looked for.
    """
    try:
        answer = _decode_accounts(body)
    except _UNREADABLE as error:
        raise MalformedAnswer(f"not a list of MetaApi accounts: {error}") from None
    records = answer if isinstance(answer, list) else answer.items
    return tuple(account_from_json(record) for record in records)


def account_information_from_json(body: bytes) -> AccountInformation:
    """Read the terminal's account information; raises `MalformedAnswer`."""
    try:
        record = _decode_information(body)
        balance = _number(record.balance, "balance")
        credit = _number_or_zero(record.credit, "credit")
    except _UNREADABLE as error:
        raise MalformedAnswer(f"not an account information: {error}") from None
    return AccountInformation(
        platform=record.platform,
        login=str(record.login),
        server=record.server,
        currency=record.currency,
        balance=balance,
        credit=credit,
        margin_mode=record.margin_mode,
        trade_mode=record.type,
        currency_digits=record.currency_digits,
    )


def deal_from_record(record: bytes, *, platform: Platform | None = None) -> Deal:
    """Read one record of a history answer; raises `BadDeal` naming the deal and the field.

    Raises `MalformedAnswer` for what is no record at all: then the list is not one of deals.
    """
    if not record.startswith(b"{"):
        raise MalformedAnswer(f"not a list of deals: one of them is {record[:_SHOWN_LENGTH]!r}")
    try:
        raw = msgspec.json.format(record, indent=-1).decode()
        return _deal(_decode_deal(record), raw=raw, platform=platform)
    except _UNREADABLE as error:
        raise _bad_deal(name_of(record), error) from None


def _deal(record: _DealRecord, *, raw: str, platform: Platform | None) -> Deal:
    return Deal(
        deal_id=_deal_id(record, record.platform or platform),
        type=record.type,
        entry=record.entry_type or None,
        symbol=record.symbol or None,
        volume=_number_or_none(record.volume, "volume"),
        price=_number_or_none(record.price, "price"),
        time=record.time.astimezone(UTC),
        broker_time=record.broker_time or "",
        profit=_number(record.profit, "profit"),
        commission=_number_or_zero(record.commission, "commission"),
        swap=_number_or_zero(record.swap, "swap"),
        order_id=_text_or_none(record.order_id),
        position_id=_text_or_none(record.position_id),
        raw=raw,
    )


def _deal_id(record: _DealRecord, platform: Platform | None) -> DealId:
    ticket = str(record.id)
    if platform is None:  # guessing MT5 could fold an MT4 entry and exit into one row
        raise ValueError("no `platform`, and none is known for the account")
    if platform is Platform.MT5 or not record.entry_type:
        return DealId(ticket)
    return DealId(f"{ticket}:{record.entry_type.removeprefix(_ENTRY_PREFIX)}")


def _number(value: float, field: str) -> Decimal:
    """Apply the money rule of the module's docstring."""
    if not value:  # most deals' swap and commission
        return _ZERO
    text = f"{value:.15g}"
    _, _, fraction = text.partition(".")
    if len(fraction) <= _DECIMALS and "e" not in text and "n" not in text:
        return Decimal(text)
    exact = Decimal(text)
    if not exact.is_finite() or abs(exact) >= _LIMIT:
        raise ValueError(f"`{field}` is {text}, not an amount below 10^15")
    short = f"{exact.quantize(_UNIT, ROUND_HALF_EVEN):f}".rstrip("0").rstrip(".")
    return Decimal(short) or _ZERO


def _number_or_zero(value: float | None, field: str) -> Decimal:
    return _number(value, field) if value else _ZERO


def _number_or_none(value: float | None, field: str) -> Decimal | None:
    return None if value is None else _number(value, field)


def _text_or_none(value: str | int | None) -> str | None:
    return None if value is None or value == "" else str(value)


def _bad_deal(deal_id: object, error: Exception) -> BadDeal:
    name = "without an id" if deal_id is None else repr(deal_id)[:_SHOWN_LENGTH]
    return BadDeal(shown(f"deal {name}: {error}"))
