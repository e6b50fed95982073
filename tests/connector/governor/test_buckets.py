"""Whatever is asked when: in no span of a period is more spent than the limit."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.connector.governor.buckets import Budget, Limit, Window, wait_seconds

LIMIT = Limit(period_seconds=10.0, units=100.0)


def play(steps, limit):
    """Spend what may be spent, as early as it may; return the times and the costs."""
    window, now, done = Window(), 0.0, []
    for pause, cost in steps:
        now += pause
        for _ in range(3):  # a wait that is over needs no second one
            wait = window.wait_seconds(cost, limit=limit, now=now)
            if wait == 0:
                break
            now += wait + 1e-6
        assert wait == 0
        window.take(cost, limit=limit, now=now)
        done.append((now, cost))
    return done


def most_in_a_span(done, seconds):
    """Return the most that was spent in any span of so many seconds."""
    return max(sum(cost for at, cost in done if begin <= at < begin + seconds) for begin, _ in done)


STEPS = st.lists(
    st.tuples(
        st.floats(min_value=0, max_value=30, allow_nan=False),
        st.integers(min_value=1, max_value=100),
    ),
    min_size=1,
    max_size=60,
)


@given(steps=STEPS)
def test_no_span_of_a_period_holds_more_than_the_limit(steps):
    """Bursts, pauses, costs up to the limit itself: any ten seconds hold at most a hundred."""
    assert most_in_a_span(play(steps, LIMIT), LIMIT.period_seconds) <= LIMIT.units


@given(steps=STEPS)
def test_what_costs_more_than_the_limit_passes_as_rarely_as_it_should(steps):
    """Against a limit of a tenth of a unit a second, each waits as long as it takes to earn it."""
    limit = Limit(period_seconds=10.0, units=1.0)
    done = play([(pause, 3) for pause, _ in steps], limit)
    assert all(later - earlier >= 30.0 for (earlier, _), (later, _) in pairwise(done))


def test_a_full_window_opens_when_its_oldest_slice_has_aged():
    """Spent at once at 0 s, it may be spent again at 11 s: a period and a slice."""
    window = Window()
    window.take(100, limit=LIMIT, now=0.5)
    assert window.wait_seconds(1, limit=LIMIT, now=0.5) == 10.5
    assert window.wait_seconds(1, limit=LIMIT, now=10.9) == pytest.approx(0.1)
    assert window.wait_seconds(1, limit=LIMIT, now=11.0) == 0


def test_a_cost_waits_for_no_more_than_it_needs():
    """Of two slices, the first one's end is enough for a small cost."""
    spent = {0: 40.0, 5: 60.0}
    assert wait_seconds(spent, limit=LIMIT, cost=40, now=5.0) == 6.0
    assert wait_seconds(spent, limit=LIMIT, cost=41, now=5.0) == 11.0


def test_what_was_given_back_may_be_spent_again():
    """A call that cost less than was set aside leaves room; twice is not more than all."""
    budget, limits = Budget(), [LIMIT, Limit(period_seconds=60.0, units=150.0)]
    charge = budget.take(100, limits=limits, now=0.0)
    assert budget.wait_seconds(1, limits=limits, now=0.0) > 0
    budget.give_back(charge, units=60)
    assert budget.wait_seconds(60, limits=limits, now=0.0) == 0
    assert budget.left_ratio(limits[0], now=0.0) == pytest.approx(0.6)
    budget.give_back(charge, units=600)
    assert budget.left_ratio(limits[0], now=0.0) == 1.0


def test_the_tightest_window_decides():
    """Room in the seconds does not help when the minute is spent."""
    limits = [Limit(period_seconds=1.0, units=100.0), Limit(period_seconds=60.0, units=150.0)]
    budget = Budget()
    budget.take(100, limits=limits, now=0.0)
    assert budget.wait_seconds(50, limits=limits, now=1.2) == 0
    assert budget.wait_seconds(51, limits=limits, now=1.2) == pytest.approx(64.8)
    assert not budget.is_idle(limits=limits, now=1.2)
    assert budget.is_idle(limits=limits, now=70.0)


def test_without_limits_everything_passes():
    """A limit that is not kept keeps nobody waiting."""
    budget = Budget()
    budget.take(10**9, limits=(), now=0.0)
    assert budget.wait_seconds(10**9, limits=(), now=0.0) == 0


def test_a_window_keeps_few_slices():
    """However long it lives, it remembers no more than it looks at."""
    window = Window()
    for second in range(10_000):
        window.take(1, limit=LIMIT, now=float(second))
    assert len(window._spent) <= 12
