"""What a broker does to an account, act by act: each function decides one booking and writes none.

Hedging accounts open a position per order; netting accounts have one per symbol, which orders
increase, reduce or turn around. MT4 knows neither partial fills nor netting here, and its exits
carry the ticket of their entry (metaapi.md 6.1).
"""

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from random import Random

from brokerd.domain import Platform
from brokerd.sandbox.facts import CENT, ZERO, Booking, TruthDeal, TruthOrder, TruthPosition
from brokerd.sandbox.symbols import move_price
from brokerd.sandbox.trading import TradingAccount

COMMISSION_PER_LOT = Decimal("3.50")
DAILY_COMMISSION = "DEAL_TYPE_COMMISSION_DAILY"
_LOT_STEP = Decimal("0.01")
_PRICE_UNIT = Decimal("0.00000001")
_DAILY_COMMISSION_EVERY = 4
_FAVOURITES = 6
_CLIENT_REASONS = ("DEAL_REASON_CLIENT", "DEAL_REASON_MOBILE", "DEAL_REASON_EXPERT")
_EXIT_REASONS = (*_CLIENT_REASONS, "DEAL_REASON_SL", "DEAL_REASON_TP")
STOP_OUT = "DEAL_REASON_SO"


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """When an act happens for the market, and when the broker writes it down."""

    time: datetime
    booked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fill:
    """One execution of an order."""

    volume: Decimal
    price: Decimal
    profit: Decimal = ZERO
    swap: Decimal = ZERO


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """An order being executed."""

    account: TradingAccount
    at: At
    order_id: str
    position_id: str
    symbol: str
    is_buy: bool
    entry: str
    reason: str

    def deal(self, fill: _Fill) -> TruthDeal:
        """Return the deal of one fill, with its commission where deals carry it."""
        is_mt4 = self.account.platform is Platform.MT4
        return TruthDeal(
            ticket=self.position_id if is_mt4 else self.account.server.take_ticket(),
            platform=self.account.platform,
            type="DEAL_TYPE_BUY" if self.is_buy else "DEAL_TYPE_SELL",
            time=self.at.time,
            booked_at=self.at.booked_at,
            profit=fill.profit,
            commission=ZERO if pays_daily(self.account) else commission_for(fill.volume),
            swap=fill.swap,
            entry=self.entry,
            symbol=self.symbol,
            volume=fill.volume,
            price=fill.price,
            order_id=self.order_id,
            position_id=self.position_id,
            reason=self.reason,
        )

    def done(self, *, volume: Decimal, price: Decimal, is_close_by: bool = False) -> TruthOrder:
        """Return the order as history keeps it."""
        side = "BUY" if self.is_buy else "SELL"
        return TruthOrder(
            order_id=self.order_id,
            type="ORDER_TYPE_CLOSE_BY" if is_close_by else f"ORDER_TYPE_{side}",
            symbol=self.symbol,
            volume=volume,
            price=price,
            time=self.at.time,
            done_time=self.at.time,
            position_id=self.position_id,
            reason=self.reason.replace("DEAL_", "ORDER_", 1),
        )


def pays_daily(account: TradingAccount) -> bool:
    """Say whether the broker takes this account's commission once a day, as a deal of its own."""
    return int(account.login) % _DAILY_COMMISSION_EVERY == 0


def commission_for(volume: Decimal) -> Decimal:
    """Return what the broker books for a fill."""
    return -(COMMISSION_PER_LOT * volume).quantize(CENT)


def open_position(
    account: TradingAccount, *, at: At, random: Random, max_fills: int = 3
) -> Booking | None:
    """Enter the market; None when a netting account has a position in every symbol."""
    free = _symbols_to_enter(account)
    if not free:
        return None
    order_id = account.server.take_ticket()
    order = _Order(
        account=account,
        at=at,
        order_id=order_id,
        position_id=order_id,
        symbol=random.choice(free),
        is_buy=random.random() < 0.5,  # noqa: PLR2004  # a coin
        entry="DEAL_ENTRY_IN",
        reason=random.choice(_CLIENT_REASONS),
    )
    return _enter(order, position=None, random=random, max_fills=max_fills)


def increase(account: TradingAccount, *, at: At, random: Random) -> Booking | None:
    """Add to a position of a netting account; None when there is none."""
    position = _any_position(account, random)
    if position is None or account.spec.is_hedging:
        return None
    order = replace(
        _order_for(account, position, at=at, reason=random.choice(_CLIENT_REASONS)),
        is_buy=position.is_buy,
        entry="DEAL_ENTRY_IN",
    )
    return _enter(order, position=position, random=random, max_fills=3)


def close_position(
    account: TradingAccount, *, at: At, random: Random, is_stop_out: bool = False
) -> Booking | None:
    """Close a position, sometimes in parts and sometimes only a part; None when none is open."""
    position = _worst_position(account) if is_stop_out else _any_position(account, random)
    if position is None:
        return None
    reason = STOP_OUT if is_stop_out else random.choice(_EXIT_REASONS)
    order = _order_for(account, position, at=at, reason=reason)
    is_whole = is_stop_out or account.platform is Platform.MT4 or random.random() < 0.7  # noqa: PLR2004
    volume = position.volume if is_whole else _part(position.volume, random)
    max_fills = 1 if account.platform is Platform.MT4 else 2
    fills = [
        _exit_fill(order, position, volume=part, random=random)
        for part in _split(volume, random, max_fills=max_fills)
    ]
    return _exit_booking(order, position, fills)


def reverse(account: TradingAccount, *, at: At, random: Random) -> Booking | None:
    """Turn a position of a netting account around with one INOUT deal; None when there is none."""
    position = _any_position(account, random)
    if position is None or account.spec.is_hedging:
        return None
    order = replace(
        _order_for(account, position, at=at, reason=random.choice(_CLIENT_REASONS)),
        entry="DEAL_ENTRY_INOUT",
    )
    closing = _exit_fill(order, position, volume=position.volume, random=random)
    opened = _lots(random)
    fill = replace(closing, volume=position.volume + opened)
    deal = order.deal(fill)
    turned = TruthPosition(
        position_id=position.position_id,
        symbol=position.symbol,
        is_buy=order.is_buy,
        volume=opened,
        open_price=fill.price,
        time=position.time,
        update_time=at.time,
    )
    done = order.done(volume=fill.volume, price=fill.price)
    return Booking(deals=(deal,), orders=(done,), positions=(turned,))


def close_by(account: TradingAccount, *, at: At, random: Random) -> Booking | None:
    """Close two opposite positions of one symbol with each other; None when there is no pair."""
    pair = _opposite_pair(account)
    if pair is None or account.platform is Platform.MT4:
        return None
    first, second = pair
    volume = min(first.volume, second.volume)
    order = _order_for(account, first, at=at, reason=random.choice(_CLIENT_REASONS))
    order = replace(order, entry="DEAL_ENTRY_OUT_BY")
    other = replace(order, position_id=second.position_id, is_buy=not order.is_buy)
    price = second.open_price
    size = account.server.specs[first.symbol].contract_size
    profit = replace(first, volume=volume).profit_at(price, contract_size=size)
    deals = (
        order.deal(_Fill(volume=volume, price=price, profit=profit)),
        other.deal(_Fill(volume=volume, price=first.open_price)),
    )
    kept = [replace(p, volume=p.volume - volume, update_time=at.time) for p in pair]
    return Booking(
        deals=deals,
        orders=(order.done(volume=volume, price=price, is_close_by=True),),
        positions=tuple(p for p in kept if p.volume),
        removed_position_ids=tuple(p.position_id for p in kept if not p.volume),
    )


def cash(account: TradingAccount, *, at: At, type: str, amount: Decimal) -> Booking:  # noqa: A002
    """Book money that no trade brings: a deposit, a fee, credit, a correction."""
    return Booking(
        deals=(
            TruthDeal(
                ticket=account.server.take_ticket(),
                platform=account.platform,
                type=type,
                time=at.time,
                booked_at=at.booked_at,
                profit=amount,
                comment=type.removeprefix("DEAL_TYPE_").replace("_", " ").lower(),
            ),
        )
    )


def _enter(
    order: _Order, *, position: TruthPosition | None, random: Random, max_fills: int
) -> Booking:
    is_mt4 = order.account.platform is Platform.MT4
    volume = _lots(random)
    fills = [
        _Fill(volume=part, price=move_price(order.account.server, order.symbol, random))
        for part in _split(volume, random, max_fills=1 if is_mt4 else max_fills)
    ]
    deals = tuple(order.deal(fill) for fill in fills)
    paid = sum((fill.volume * fill.price for fill in fills), ZERO)
    held = ZERO if position is None else position.volume
    cost = paid if position is None else paid + position.volume * position.open_price
    entered = TruthPosition(
        position_id=order.position_id,
        symbol=order.symbol,
        is_buy=order.is_buy,
        volume=held + volume,
        open_price=(cost / (held + volume)).quantize(_PRICE_UNIT),
        time=order.at.time if position is None else position.time,
        update_time=order.at.time,
        realized_profit=ZERO if position is None else position.realized_profit,
        commission=_commission(deals) + (ZERO if position is None else position.commission),
        swap=ZERO if position is None else position.swap,
    )
    # MT4 shows an order in its history only once it is closed
    done = () if is_mt4 else (order.done(volume=volume, price=fills[-1].price),)
    return Booking(deals=deals, orders=done, positions=(entered,))


def _exit_fill(order: _Order, position: TruthPosition, *, volume: Decimal, random: Random) -> _Fill:
    server = order.account.server
    price = move_price(server, position.symbol, random)
    part = replace(position, volume=volume)
    swap = (Decimal(random.randrange(-600, 200)) * volume / 100).quantize(CENT)
    return _Fill(
        volume=volume,
        price=price,
        profit=part.profit_at(price, contract_size=server.specs[position.symbol].contract_size),
        swap=swap,
    )


def _exit_booking(order: _Order, position: TruthPosition, fills: list[_Fill]) -> Booking:
    deals = tuple(order.deal(fill) for fill in fills)
    volume = sum((fill.volume for fill in fills), ZERO)
    done = (order.done(volume=volume, price=fills[-1].price),)
    if volume == position.volume:
        gone = (position.position_id,)
        return Booking(deals=deals, orders=done, removed_position_ids=gone)
    left = replace(
        position,
        volume=position.volume - volume,
        update_time=order.at.time,
        realized_profit=position.realized_profit + sum((f.profit for f in fills), ZERO),
        commission=position.commission + _commission(deals),
        swap=position.swap + sum((f.swap for f in fills), ZERO),
    )
    return Booking(deals=deals, orders=done, positions=(left,))


def _order_for(account: TradingAccount, position: TruthPosition, *, at: At, reason: str) -> _Order:
    """Return the order that works against a position; an MT4 exit is the entry's own order."""
    is_mt4 = account.platform is Platform.MT4
    return _Order(
        account=account,
        at=at,
        order_id=position.position_id if is_mt4 else account.server.take_ticket(),
        position_id=position.position_id,
        symbol=position.symbol,
        is_buy=not position.is_buy,
        entry="DEAL_ENTRY_OUT",
        reason=reason,
    )


def _symbols_to_enter(account: TradingAccount) -> list[str]:
    """Return a few favourites of a hedging account: opposite positions must meet now and then."""
    symbols = list(account.server.specs)
    if account.spec.is_hedging:
        first = int(account.login) % len(symbols)
        return (symbols[first:] + symbols[:first])[:_FAVOURITES]
    taken = {position.symbol for position in account.positions.values()}
    return [symbol for symbol in symbols if symbol not in taken]


def _any_position(account: TradingAccount, random: Random) -> TruthPosition | None:
    return random.choice(list(account.positions.values())) if account.positions else None


def _worst_position(account: TradingAccount) -> TruthPosition | None:
    return min(account.positions.values(), key=account.profit_of, default=None)


def _opposite_pair(account: TradingAccount) -> tuple[TruthPosition, TruthPosition] | None:
    bought: dict[str, TruthPosition] = {}
    sold: dict[str, TruthPosition] = {}
    for position in account.positions.values():
        (bought if position.is_buy else sold)[position.symbol] = position
    shared = next((symbol for symbol in bought if symbol in sold), None)
    return None if shared is None else (bought[shared], sold[shared])


def _lots(random: Random) -> Decimal:
    return random.randrange(1, 150) * _LOT_STEP


def _part(volume: Decimal, random: Random) -> Decimal:
    steps = int(volume / _LOT_STEP)
    return volume if steps == 1 else random.randrange(1, steps) * _LOT_STEP


def _split(volume: Decimal, random: Random, *, max_fills: int) -> list[Decimal]:
    """Cut a volume into fills; most orders are filled whole."""
    parts: list[Decimal] = []
    while len(parts) + 1 < max_fills and volume > _LOT_STEP and random.random() < 0.25:  # noqa: PLR2004
        parts.append(_part(volume, random))
        volume -= parts[-1]
    return [*parts, volume]


def _commission(deals: tuple[TruthDeal, ...]) -> Decimal:
    return sum((deal.commission for deal in deals), ZERO)
