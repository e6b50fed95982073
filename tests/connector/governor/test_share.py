"""However budgets are divided, the parts are never more than the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.connector.governor.buckets import Limit
from brokerd.connector.governor.share import divide, pot_wait_seconds

LIMITS = (Limit(period_seconds=1.0, units=100.0), Limit(period_seconds=60.0, units=600.0))


@given(
    live_nodes=st.integers(min_value=1, max_value=500),
    ratio=st.floats(min_value=0.01, max_value=1.0),
    has_pot=st.booleans(),
)
def test_the_shares_and_the_pot_are_the_budget(live_nodes, ratio, has_pot):
    """All even shares and the pot together are each limit, and not a unit more."""
    division = divide(LIMITS, live_nodes=live_nodes, even_share_ratio=ratio, has_pot=has_pot)
    for number, limit in enumerate(LIMITS):
        common = division.common[number].units if division.common else 0.0
        total = division.own[number].units * live_nodes + common
        assert total == pytest.approx(limit.units)


def test_a_lone_node_has_everything():
    """Nobody to share with: no pot, no round trip."""
    division = divide(LIMITS, live_nodes=1, even_share_ratio=0.5, has_pot=True)
    assert (division.own, division.common) == (LIMITS, ())


def test_without_a_pot_the_share_is_of_the_whole():
    """No Redis is configured: nothing is kept for a pot that does not exist."""
    division = divide(LIMITS, live_nodes=4, even_share_ratio=0.5, has_pot=False)
    assert [limit.units for limit in division.own] == [25.0, 150.0]
    assert division.common == ()


def test_a_pot_that_lost_its_count_is_closed_for_a_period():
    """What was drawn before it was flushed cannot be drawn again."""
    limit = LIMITS[1]
    assert pot_wait_seconds({}, since=100.0, limit=limit, cost=1, now=100.0) == 60.0
    assert pot_wait_seconds({}, since=100.0, limit=limit, cost=1, now=159.0) == 1.0
    assert pot_wait_seconds({}, since=100.0, limit=limit, cost=1, now=160.0) == 0
