"""What accounts are likely to do next, and what they have done before they are first seen."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from random import Random

from brokerd.sandbox import dealing
from brokerd.sandbox.dealing import At
from brokerd.sandbox.facts import CENT, Booking
from brokerd.sandbox.trading import TradingAccount

_MAX_POSITIONS = 8
_MIN_BALANCE = Decimal(2_000)
_MAX_ACT_DEALS = 3
_MAX_ACT_CLOSED = 2
_COIN = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What an account has lived through when it appears.

    `deals` over `days`, the first of them a deposit; the last `positions` are still open. An
    account that may hold no position has a past of cash alone.
    """

    deals: int = 50
    days: float = 30.0
    positions: int = 3
    deposit: Decimal = Decimal(50_000)


def next_act(account: TradingAccount, *, at: At, random: Random) -> Booking:
    """Choose what happens; what the account does not allow gives way to an entry or a fee."""
    if account.balance < _MIN_BALANCE:
        return _deposit(account, at, random)
    if len(account.positions) >= _MAX_POSITIONS:
        booking = dealing.close_position(account, at=at, random=random)
    else:
        act = random.choices(_ACTS, cum_weights=_CUMULATIVE_WEIGHTS)[0]
        booking = act(account, at, random) or _open(account, at, random)
    return booking or _fee(account, at, random)


def past_act(account: TradingAccount, *, at: At, random: Random, past: Past, left: int) -> Booking:
    """Choose what happened when `left` deals were still to come; keeps the promises of `Past`."""
    if left == past.deals:
        return dealing.cash(account, at=at, type="DEAL_TYPE_BALANCE", amount=past.deposit)
    missing = past.positions - len(account.positions)
    is_due = left <= missing
    if is_due or (missing > 0 and random.random() < _COIN):
        entry = dealing.open_position(account, at=at, random=random, max_fills=1)
        return entry or _fee(account, at, random)
    has_room = left - missing >= _MAX_ACT_DEALS + _MAX_ACT_CLOSED
    if not has_room or not account.positions:
        return _fee(account, at, random)
    act = random.choice((_close, _close, _close, _increase, _reverse, _close_by, _fee, _credit))
    return act(account, at, random) or _fee(account, at, random)


def _open(account: TradingAccount, at: At, random: Random) -> Booking | None:
    return dealing.open_position(account, at=at, random=random)


def _close(account: TradingAccount, at: At, random: Random) -> Booking | None:
    return dealing.close_position(account, at=at, random=random)


def _increase(account: TradingAccount, at: At, random: Random) -> Booking | None:
    return dealing.increase(account, at=at, random=random)


def _reverse(account: TradingAccount, at: At, random: Random) -> Booking | None:
    return dealing.reverse(account, at=at, random=random)


def _close_by(account: TradingAccount, at: At, random: Random) -> Booking | None:
    return dealing.close_by(account, at=at, random=random)


def _stop_out(account: TradingAccount, at: At, random: Random) -> Booking | None:
    return dealing.close_position(account, at=at, random=random, is_stop_out=True)


def _deposit(account: TradingAccount, at: At, random: Random) -> Booking:
    amount = _between(random, 5_000, 50_000)
    return dealing.cash(account, at=at, type="DEAL_TYPE_BALANCE", amount=amount)


def _withdraw(account: TradingAccount, at: At, random: Random) -> Booking:
    share = Decimal(random.randrange(1, 10)) / 100
    amount = -(account.balance * share).quantize(CENT)
    return dealing.cash(account, at=at, type="DEAL_TYPE_BALANCE", amount=amount)


def _credit(account: TradingAccount, at: At, random: Random) -> Booking:
    """Grant credit, or take all of it back."""
    is_back = account.credit > 0 and random.random() < _COIN
    amount = -account.credit if is_back else _between(random, 100, 1_000)
    return dealing.cash(account, at=at, type="DEAL_TYPE_CREDIT", amount=amount)


def _correct(account: TradingAccount, at: At, random: Random) -> Booking:
    amount = _between(random, -50, 50)
    return dealing.cash(account, at=at, type="DEAL_TYPE_CORRECTION", amount=amount)


def _fee(account: TradingAccount, at: At, random: Random) -> Booking:
    """Book what the broker takes or gives without a trade."""
    if dealing.pays_daily(account):
        lots = Decimal(random.randrange(10, 500)) / 100
        commission = dealing.commission_for(lots)
        return dealing.cash(account, at=at, type=dealing.DAILY_COMMISSION, amount=commission)
    kind = random.choice(("DEAL_TYPE_CHARGE", "DEAL_TYPE_INTEREST"))
    amount = _between(random, 0, 5)
    return dealing.cash(
        account, at=at, type=kind, amount=-amount if kind == "DEAL_TYPE_CHARGE" else amount
    )


def _between(random: Random, low: int, high: int) -> Decimal:
    return Decimal(random.randrange(low * 100, high * 100)) / 100


_Act = Callable[[TradingAccount, At, Random], Booking | None]

_WEIGHTED_ACTS: tuple[tuple[_Act, int], ...] = (
    (_open, 40),
    (_close, 34),
    (_increase, 5),
    (_reverse, 5),
    (_close_by, 2),
    (_stop_out, 2),
    (_deposit, 2),
    (_withdraw, 2),
    (_credit, 2),
    (_correct, 2),
    (_fee, 4),
)
_ACTS = tuple(act for act, _ in _WEIGHTED_ACTS)
_CUMULATIVE_WEIGHTS = tuple(accumulate(weight for _, weight in _WEIGHTED_ACTS))
