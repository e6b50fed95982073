"""Whether a budget has room for one more attempt."""

from decimal import Decimal

import pytest

from brokerd.config.settings import BudgetSettings
from brokerd.connector.provisioning.budgets import (
    DAY_SECONDS,
    FLEET_SECONDS,
    BudgetName,
    Limit,
    Spent,
    allows,
    limits_of,
    refusal_of,
)

LIMIT = Limit(name=BudgetName.LINK, window_seconds=100, max_attempts=3, max_usd=Decimal("1.00"))


@pytest.mark.parametrize(
    ("attempts", "usd", "cost", "expected"),
    [
        (0, "0", "1.00", True),
        (2, "0.90", "0.10", True),
        (2, "0.90", "0.11", False),
        (3, "0", "0.01", False),
        (0, "0", "1.01", False),
    ],
)
def test_both_attempts_and_dollars_must_fit(attempts, usd, cost, expected):
    """To the last cent, and not one attempt more."""
    spent = Spent(attempts=attempts, usd=Decimal(usd))
    assert allows(LIMIT, spent, cost_usd=Decimal(cost)) is expected


def test_the_four_budgets_are_those_of_the_configuration():
    """Three of a day, one of thirty days."""
    limits = limits_of(BudgetSettings(link_attempts=1, user_usd=2.5, day_attempts=3, fleet_usd=4))
    assert [limit.name for limit in limits] == list(BudgetName)
    link, user, day, fleet = limits
    assert (link.max_attempts, user.max_usd) == (1, Decimal("2.5"))
    assert (day.max_attempts, fleet.max_usd) == (3, Decimal(4))
    assert link.window_seconds == user.window_seconds == day.window_seconds == DAY_SECONDS
    assert fleet.window_seconds == FLEET_SECONDS


def spent(**names: Spent) -> dict[BudgetName, Spent]:
    """Build sums; what is not named was not spent."""
    return {name: names.get(name.value, Spent()) for name in BudgetName}


def test_within_all_budgets_nothing_is_refused():
    """As long as each has room."""
    limits = limits_of(BudgetSettings())
    assert refusal_of(limits, spent(), cost_usd=Decimal("2.172")) is None


def test_of_several_the_one_that_frees_last_is_named():
    """Before that, asking again would be in vain."""
    limits = limits_of(BudgetSettings(link_attempts=1, day_attempts=1))
    both = spent(
        link=Spent(attempts=1, frees_seconds=50.0), day=Spent(attempts=9, frees_seconds=60.0)
    )
    refusal = refusal_of(limits, both, cost_usd=Decimal("0.105"))
    assert refusal is not None
    assert (refusal.code, refusal.retry_after_seconds) == ("budget_exhausted", 60.0)
    assert "budget day leaves less than the $0.105" in str(refusal)


@pytest.mark.parametrize(("frees", "wait"), [(0.2, 1.0), (-5.0, 1.0), (1e9, DAY_SECONDS)])
def test_the_wait_is_bounded(frees, wait):
    """Never nothing, and never longer than the window."""
    limits = limits_of(BudgetSettings(link_attempts=1))
    used = spent(link=Spent(attempts=1, frees_seconds=frees))
    refusal = refusal_of(limits, used, cost_usd=Decimal(0))
    assert refusal is not None
    assert refusal.retry_after_seconds == wait


def test_a_budget_that_can_never_pay_is_asked_once_a_day():
    """An operator may raise it."""
    limits = limits_of(BudgetSettings(link_usd=1))
    refusal = refusal_of(limits, spent(), cost_usd=Decimal("2.172"))
    assert refusal is not None
    assert refusal.retry_after_seconds == DAY_SECONDS
