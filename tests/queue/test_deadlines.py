"""The order of the queue: priority, ageing and fairness after failure out of one rule."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from brokerd.domain import AccountId, Priority
from brokerd.queue.deadlines import deadline_for, turn

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
PATIENCE = {Priority.HIGH: 5.0, Priority.NORMAL: 60.0, Priority.LOW: 600.0}


def _deadline(asked_at: datetime, priority: Priority) -> datetime:
    return deadline_for(asked_at, priority=priority, patience_seconds=PATIENCE)


def test_the_deadline_is_the_request_plus_the_patience_of_its_class() -> None:
    """A normal request is due a minute after it was made."""
    assert _deadline(NOW, Priority.NORMAL) == NOW + timedelta(seconds=60)


def test_a_higher_priority_that_asks_at_the_same_time_goes_first() -> None:
    """Less patience is an earlier deadline."""
    assert sorted(Priority, key=lambda priority: _deadline(NOW, priority)) == [
        Priority.HIGH,
        Priority.NORMAL,
        Priority.LOW,
    ]


@given(
    waited_seconds=st.floats(min_value=0.0, max_value=1e7),
    first=st.sampled_from(Priority),
    later=st.sampled_from(Priority),
)
def test_nobody_starves(waited_seconds: float, first: Priority, later: Priority) -> None:
    """A request is overtaken only by more urgent ones, and only until its patience has passed."""
    is_overtaken = _deadline(NOW + timedelta(seconds=waited_seconds), later) < _deadline(NOW, first)
    assert not is_overtaken or PATIENCE[later] + waited_seconds < PATIENCE[first]


def test_equal_deadlines_are_decided_by_the_account() -> None:
    """The order is total, so that a position is one number."""
    assert turn(NOW, AccountId(1)) < turn(NOW, AccountId(2))
    assert turn(NOW, AccountId(2)) < turn(NOW + timedelta(microseconds=1), AccountId(1))
