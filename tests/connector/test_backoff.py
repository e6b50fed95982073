"""How long a link waits before it dials again."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.connector.backoff import after_failure, hint_of
from brokerd.domain import Backoff
from brokerd.errors import Held, LinkLost, RemoteUnavailable, Throttled


def wait_after(backoff, *, hint_seconds=None, seed=1, ceiling_seconds=300.0):
    """Build one wait with the defaults of the field."""
    return after_failure(
        backoff,
        base_seconds=1.0,
        ceiling_seconds=ceiling_seconds,
        hint_seconds=hint_seconds,
        random=Random(seed),
    )


def test_the_first_failure_dials_again_at_once():
    """One lost session is retried without a wait."""
    assert wait_after(Backoff()).delay_seconds == 0.0


def test_the_bound_doubles_up_to_the_ceiling_and_stays_there():
    """Repeated failures wait under a bound of 1, 2, 4 … seconds, never above the ceiling."""
    backoff, bounds = Backoff(), []
    for _ in range(2_000):
        backoff = wait_after(backoff).backoff
        bounds.append(backoff.bound_seconds)
    assert bounds[:5] == [0.0, 1.0, 2.0, 4.0, 8.0]
    assert bounds[-1] == 300.0


@given(seed=st.integers(), bound=st.floats(0, 1e9), attempt=st.integers(1, 10**9))
def test_a_delay_stays_within_its_bound(seed, bound, attempt):
    """No stored backoff, however odd, makes a wait longer than the ceiling."""
    wait = wait_after(Backoff(attempt=attempt, bound_seconds=bound), seed=seed)
    assert 0.0 <= wait.delay_seconds <= wait.backoff.bound_seconds <= 300.0


def test_jitter_stays_alive_at_the_ceiling():
    """A fleet at the ceiling does not march in step."""
    at_ceiling = Backoff(attempt=20, bound_seconds=300.0)
    delays = [wait_after(at_ceiling, seed=seed).delay_seconds for seed in range(200)]
    assert max(delays) - min(delays) > 200


def test_a_hint_is_the_least_wait_and_never_below_a_second():
    """A server's hint is honoured; one in the past still waits a second."""
    assert wait_after(Backoff(), hint_seconds=40.0).delay_seconds >= 40.0
    assert wait_after(Backoff(), hint_seconds=-600.0).delay_seconds >= 1.0


@pytest.mark.parametrize(
    ("failure", "hint"),
    [
        (Throttled("429", retry_after_seconds=7.0), 7.0),
        (Held("no", retry_after_seconds=9.0, scope="user:main", cause="throttled"), 9.0),
        (RemoteUnavailable("503", retry_after_seconds=3.0), 3.0),
        (RemoteUnavailable("reset"), None),
        (LinkLost("silent"), None),
    ],
    ids=["throttled", "held", "unavailable", "reset", "lost"],
)
def test_only_failures_that_carry_a_hint_give_one(failure, hint):
    """The wait a failure asks for is read from the failure alone."""
    assert hint_of(failure) == hint
