"""Whether a call may be paid for: what was spent within a window against what may be.

Theory. Every chargeable attempt is counted twice, as an attempt and in dollars, in four budgets:
of its link, of its user, of the day (the whole fleet), and of the fleet over thirty days. An open
intent counts with the worst it may cost. Windows slide, so a budget frees itself attempt by
attempt and there is no midnight at which a fleet may spend twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from brokerd.config.settings import BudgetSettings
from brokerd.errors import BudgetExhausted

DAY_SECONDS = 86_400.0
FLEET_SECONDS = 30 * DAY_SECONDS


class BudgetName(StrEnum):
    """Whose spending a budget bounds."""

    LINK = "link"  # each link, in a day
    USER = "user"  # all links of each user, in a day
    DAY = "day"  # everybody, in a day
    FLEET = "fleet"  # everybody, in thirty days


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What may be spent within a sliding window."""

    name: BudgetName
    window_seconds: float
    max_attempts: int
    max_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What was spent within a window; in `frees_seconds` its oldest attempt leaves it."""

    attempts: int = 0
    usd: Decimal = Decimal(0)
    frees_seconds: float | None = None


def limits_of(settings: BudgetSettings) -> Sequence[Limit]:
    """Return the four budgets that the operator set."""
    return [
        _limit(BudgetName.LINK, DAY_SECONDS, settings.link_attempts, settings.link_usd),
        _limit(BudgetName.USER, DAY_SECONDS, settings.user_attempts, settings.user_usd),
        _limit(BudgetName.DAY, DAY_SECONDS, settings.day_attempts, settings.day_usd),
        _limit(BudgetName.FLEET, FLEET_SECONDS, settings.fleet_attempts, settings.fleet_usd),
    ]


def refusal_of(
    limits: Sequence[Limit], spent: Mapping[BudgetName, Spent], *, cost_usd: Decimal
) -> BudgetExhausted | None:
    """Return the refusal of the budget that one more attempt would break; None if none is.

    Of several it is the one that frees last: before that, asking again is in vain.
    """
    broken = {
        limit.name: _frees_in(limit, spent[limit.name])
        for limit in limits
        if not allows(limit, spent[limit.name], cost_usd=cost_usd)
    }
    if not broken:
        return None
    name = max(broken, key=lambda each: broken[each])
    return BudgetExhausted(
        f"the budget {name} leaves less than the ${cost_usd} that this may cost",
        retry_after_seconds=broken[name],
    )


def allows(limit: Limit, spent: Spent, *, cost_usd: Decimal) -> bool:
    """Say whether a budget has room for one more attempt of that cost."""
    return spent.attempts < limit.max_attempts and spent.usd + cost_usd <= limit.max_usd


def _frees_in(limit: Limit, spent: Spent) -> float:
    """Return when it is worth asking again; a budget that can never pay is asked daily."""
    return (
        DAY_SECONDS
        if spent.frees_seconds is None
        else min(limit.window_seconds, max(1.0, spent.frees_seconds))
    )


def _limit(name: BudgetName, window_seconds: float, attempts: int, usd: float) -> Limit:
    return Limit(
        name=name,
        window_seconds=window_seconds,
        max_attempts=attempts,
        max_usd=Decimal(str(usd)),
    )
