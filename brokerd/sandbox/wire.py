"""How the truth looks in MetaApi's JSON, field by field (metaapi.md 6); each function one record.

Money is exact inside and a double on the wire. MetaApi's doubles often come out of sums and carry
their rounding errors (-85.25999999999966); every third record here has gone through such a sum.
Which ones depends on the record alone, so that stream and REST show the same.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec

from brokerd.domain import Platform
from brokerd.sandbox.facts import SymbolSpec, TruthDeal, TruthOrder, TruthPosition
from brokerd.sandbox.trading import TradeServer
from brokerd.sandbox.truth import TruthAccount

_ARTEFACT_EVERY = 3
_ARTEFACT_TERM = 100_000.0
_MAGIC = 0


class _Record(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """A MetaApi record: fields that are None are left out."""


class _Deal(_Record):
    id: str
    platform: str
    type: str
    time: str
    broker_time: str
    profit: float
    commission: float
    swap: float
    account_currency_exchange_rate: float
    entry_type: str | None = None
    symbol: str | None = None
    magic: int | None = None
    volume: float | None = None
    price: float | None = None
    position_id: str | None = None
    order_id: str | None = None
    reason: str | None = None
    broker_comment: str | None = None


class _Order(_Record):
    id: str
    platform: str
    type: str
    state: str
    magic: int
    time: str
    broker_time: str
    done_time: str
    done_broker_time: str
    symbol: str
    volume: float
    current_volume: float
    open_price: float
    position_id: str
    reason: str
    filling_mode: str
    expiration_type: str
    account_currency_exchange_rate: float


class _Position(_Record):
    id: str
    platform: str
    type: str
    symbol: str
    magic: int
    time: str
    broker_time: str
    update_time: str
    open_price: float
    current_price: float
    current_tick_value: float
    volume: float
    profit: float
    unrealized_profit: float
    realized_profit: float
    swap: float
    unrealized_swap: float
    realized_swap: float
    commission: float
    unrealized_commission: float
    realized_commission: float
    reason: str
    account_currency_exchange_rate: float


class _Information(_Record):
    platform: str
    broker: str
    currency: str
    server: str
    balance: float
    equity: float
    margin: float
    free_margin: float
    leverage: int
    name: str
    login: int
    credit: float
    trade_allowed: bool
    investor_mode: bool
    type: str
    account_currency_exchange_rate: float
    currency_digits: int
    margin_level: float | None = None
    margin_mode: str | None = None


class _Session(msgspec.Struct, rename={"start": "from", "end": "to"}):
    start: str
    end: str


class _Specification(_Record):
    symbol: str
    tick_size: float
    min_volume: float
    max_volume: float
    volume_step: float
    filling_modes: list[str]
    execution_mode: str
    contract_size: float
    quote_sessions: dict[str, list[_Session]]
    trade_sessions: dict[str, list[_Session]]
    trade_mode: str
    margin_currency: str
    base_currency: str
    price_calculation_mode: str
    description: str
    digits: int
    point: float
    pip_size: float
    stops_level: int
    freeze_level: int
    swap_mode: str
    swap_long: float
    swap_short: float
    swap_rollover3_days: str
    allowed_expiration_modes: list[str]
    allowed_order_types: list[str]
    order_gtc_mode: str
    hedged_margin: float
    initial_margin: float
    maintenance_margin: float


class _Price(_Record):
    symbol: str
    bid: float
    ask: float
    profit_tick_value: float
    loss_tick_value: float
    account_currency_exchange_rate: float
    time: str
    broker_time: str


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_WEEKDAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY")
_SESSIONS = {day: [_Session(start="00:05:00.000", end="23:55:00.000")] for day in _WEEKDAYS}


def iso_time(moment: datetime) -> str:
    """Write a time as MetaApi does: UTC, milliseconds, Z."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def broker_time(moment: datetime, *, utc_offset: timedelta) -> str:
    """Write a time as the broker's clock on the wall shows it, without a zone."""
    local = (moment.astimezone(UTC) + utc_offset).replace(tzinfo=None)
    return local.isoformat(sep=" ", timespec="milliseconds")


def deal(record: TruthDeal, *, server: TradeServer) -> bytes:
    """Write a deal (metaapi.md 6.1), or what its warp makes of it."""
    worn = _is_worn(record.ticket)
    written = msgspec.json.encode(
        _Deal(
            id=record.ticket,
            platform=record.platform,
            type=record.type,
            time=iso_time(record.time),
            broker_time=broker_time(record.time, utc_offset=server.utc_offset),
            profit=_money(record.profit, is_worn=worn),
            commission=_money(record.commission, is_worn=worn),
            swap=_money(record.swap, is_worn=worn),
            entry_type=record.entry,
            symbol=record.symbol,
            magic=None if record.symbol is None else _MAGIC,
            volume=None if record.volume is None else float(record.volume),
            price=None if record.price is None else float(record.price),
            position_id=record.position_id,
            order_id=record.order_id,
            reason=record.reason,
            broker_comment=record.comment,
            account_currency_exchange_rate=1.0,
        )
    )
    return _warped(written, record.warp) if record.warp else written


def order(record: TruthOrder, *, server: TradeServer) -> bytes:
    """Write a completed order (metaapi.md 6.2)."""
    return msgspec.json.encode(
        _Order(
            id=record.order_id,
            platform=server.platform,
            type=record.type,
            state=record.state,
            magic=_MAGIC,
            time=iso_time(record.time),
            broker_time=broker_time(record.time, utc_offset=server.utc_offset),
            done_time=iso_time(record.done_time),
            done_broker_time=broker_time(record.done_time, utc_offset=server.utc_offset),
            symbol=record.symbol,
            volume=float(record.volume),
            current_volume=0.0,
            open_price=float(record.price),
            position_id=record.position_id,
            reason=record.reason,
            filling_mode="ORDER_FILLING_IOC",
            expiration_type="ORDER_TIME_GTC",
            account_currency_exchange_rate=1.0,
        )
    )


def position(record: TruthPosition, *, account: TruthAccount) -> bytes:
    """Write an open position at the server's present price (metaapi.md 6.3)."""
    server = account.server
    spec = server.specs[record.symbol]
    unrealized = account.profit_of(record)
    return msgspec.json.encode(
        _Position(
            id=record.position_id,
            platform=server.platform,
            type="POSITION_TYPE_BUY" if record.is_buy else "POSITION_TYPE_SELL",
            symbol=record.symbol,
            magic=_MAGIC,
            time=iso_time(record.time),
            broker_time=broker_time(record.time, utc_offset=server.utc_offset),
            update_time=iso_time(record.update_time),
            open_price=float(record.open_price),
            current_price=float(server.prices[record.symbol]),
            current_tick_value=float(spec.tick_size * spec.contract_size),
            volume=float(record.volume),
            profit=float(unrealized + record.realized_profit),
            unrealized_profit=float(unrealized),
            realized_profit=float(record.realized_profit),
            swap=float(record.swap),
            unrealized_swap=0.0,
            realized_swap=float(record.swap),
            commission=float(record.commission),
            unrealized_commission=0.0,
            realized_commission=float(record.commission),
            reason="POSITION_REASON_CLIENT",
            account_currency_exchange_rate=1.0,
        )
    )


def account_information(account: TruthAccount) -> bytes:
    """Write the trading account as its terminal shows it (metaapi.md 6.4)."""
    equity, margin = account.equity, account.margin
    is_mt5 = account.platform is Platform.MT5
    mode = "HEDGING" if account.spec.is_hedging else "NETTING"
    return msgspec.json.encode(
        _Information(
            platform=account.platform,
            broker=f"{account.server.name.partition('-')[0]} Ltd",
            currency=account.spec.currency,
            server=account.server.name,
            balance=_money(account.balance, is_worn=_is_worn(account.login)),
            equity=float(equity),
            margin=float(margin),
            free_margin=float(equity - margin),
            leverage=account.spec.leverage,
            name=account.spec.name,
            login=int(account.login),
            credit=float(account.credit),
            trade_allowed=True,
            investor_mode=True,
            type="ACCOUNT_TRADE_MODE_DEMO",
            account_currency_exchange_rate=1.0,
            currency_digits=2,
            margin_level=float(equity / margin * 100) if margin else None,
            margin_mode=f"ACCOUNT_MARGIN_MODE_RETAIL_{mode}" if is_mt5 else None,
        )
    )


def specification(spec: SymbolSpec, *, currency: str = "USD") -> bytes:
    """Write a symbol's specification (metaapi.md 6.5), as fat as a real one."""
    tick_size = float(spec.tick_size)
    return msgspec.json.encode(
        _Specification(
            symbol=spec.symbol,
            tick_size=tick_size,
            min_volume=float(spec.min_volume),
            max_volume=float(spec.max_volume),
            volume_step=float(spec.volume_step),
            filling_modes=["SYMBOL_FILLING_FOK", "SYMBOL_FILLING_IOC"],
            execution_mode="SYMBOL_TRADE_EXECUTION_MARKET",
            contract_size=float(spec.contract_size),
            quote_sessions=_SESSIONS,
            trade_sessions=_SESSIONS,
            trade_mode="SYMBOL_TRADE_MODE_FULL",
            margin_currency=currency,
            base_currency=spec.symbol[:3],
            price_calculation_mode="SYMBOL_CALC_MODE_FOREX",
            description=spec.description,
            digits=spec.digits,
            point=tick_size,
            pip_size=tick_size * 10,
            stops_level=0,
            freeze_level=0,
            swap_mode="SYMBOL_SWAP_MODE_POINTS",
            swap_long=-6.5,
            swap_short=1.25,
            swap_rollover3_days="WEDNESDAY",
            allowed_expiration_modes=["SYMBOL_EXPIRATION_GTC", "SYMBOL_EXPIRATION_DAY"],
            allowed_order_types=["SYMBOL_ORDER_MARKET", "SYMBOL_ORDER_LIMIT", "SYMBOL_ORDER_STOP"],
            order_gtc_mode="SYMBOL_ORDERS_GTC",
            hedged_margin=0.0,
            initial_margin=0.0,
            maintenance_margin=0.0,
        )
    )


def price(symbol: str, *, server: TradeServer, now: datetime) -> bytes:
    """Write a symbol's quote; the spread is two ticks."""
    spec = server.specs[symbol]
    tick_value = float(spec.tick_size * spec.contract_size)
    return msgspec.json.encode(
        _Price(
            symbol=symbol,
            bid=float(server.prices[symbol]),
            ask=float(server.prices[symbol] + 2 * spec.tick_size),
            profit_tick_value=tick_value,
            loss_tick_value=tick_value,
            account_currency_exchange_rate=1.0,
            time=iso_time(now),
            broker_time=broker_time(now, utc_offset=server.utc_offset),
        )
    )


def _warped(written: bytes, warp: tuple[tuple[str, str], ...]) -> bytes:
    """Put texts in the place of values; what comes out need not be JSON."""
    values = {name: bytes(raw) for name, raw in _decode_fields(written).items()}
    values.update((name, text.encode()) for name, text in warp)
    members = [msgspec.json.encode(name) + b":" + value for name, value in values.items() if value]
    return b"{" + b",".join(members) + b"}"


def _is_worn(number: str) -> bool:
    return int(number) % _ARTEFACT_EVERY == 0


def _money(amount: Decimal, *, is_worn: bool) -> float:
    """Return the amount as a double, worn by a sum where asked; off by less than 1e-10."""
    exact = float(amount)
    return (exact + _ARTEFACT_TERM) - _ARTEFACT_TERM if is_worn and amount else exact
