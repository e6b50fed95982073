from random import Random

import pytest

from brokerd.connector.metaapi_rest.retries import LONGEST_WAIT_SECONDS, is_blip, wait_seconds
from brokerd.errors import (
    BadDeal,
    MalformedAnswer,
    NotConnected,
    NotFound,
    RemoteUnavailable,
    Synchronizing,
    Throttled,
    Transient,
    Unauthorized,
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Transient("409"), True),
        (MalformedAnswer(""), True),
        (RemoteUnavailable(""), True),
        (RemoteUnavailable("", retry_after_seconds=LONGEST_WAIT_SECONDS), True),
        (RemoteUnavailable("", retry_after_seconds=LONGEST_WAIT_SECONDS + 0.1), False),
        (Throttled("", retry_after_seconds=LONGEST_WAIT_SECONDS), True),
        (Throttled("", retry_after_seconds=LONGEST_WAIT_SECONDS + 0.1), False),
        (NotConnected(""), False),
        (Synchronizing(""), False),
        (Unauthorized(""), False),
        (NotFound(""), False),
        (BadDeal(""), False),
        (ValueError(""), False),
    ],
    ids=repr,
)
def test_only_blips_are_retried(error: Exception, expected: bool) -> None:  # noqa: FBT001
    """Refusals, lasting states and long hints go to the link; so do our own bugs."""
    assert is_blip(error) is expected


def test_waits_are_jittered_within_a_bound_that_doubles() -> None:
    """Full jitter: anything from nothing to the bound, and the bound stops growing."""
    random = Random(1)
    for attempt, bound in [(1, 0.25), (2, 0.5), (3, 1.0), (10, LONGEST_WAIT_SECONDS)]:
        waits = [wait_seconds(Transient(""), attempt=attempt, random=random) for _ in range(500)]
        assert 0 <= min(waits) < 0.1 * bound
        assert 0.9 * bound < max(waits) <= bound


def test_a_hint_is_the_least_wait() -> None:
    """Jitter comes on top of what the server asked for, so that not all return at once."""
    hinted = Throttled("", retry_after_seconds=2.0)
    waits = {wait_seconds(hinted, attempt=1, random=Random(seed)) for seed in range(50)}
    assert min(waits) >= 2.0
    assert max(waits) <= 2.25
    assert len(waits) == 50
