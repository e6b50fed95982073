"""How long to wait before dialling again: full jitter under a doubling bound that is kept."""

from dataclasses import dataclass
from random import Random

from brokerd.domain import Backoff
from brokerd.errors import BrokerdError, Held, RemoteUnavailable, Throttled


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """The backoff after a failure, and the seconds to wait now."""

    backoff: Backoff
    delay_seconds: float


def after_failure(
    backoff: Backoff,
    *,
    base_seconds: float,
    ceiling_seconds: float,
    hint_seconds: float | None,
    random: Random,
) -> Wait:
    """Say how long to wait: at once the first time, then full jitter, never less than the hint.

    The bound is kept, not recomputed from the attempt count, which would overflow; the jitter
    stays alive at the ceiling, where a fleet would otherwise march in step.
    """
    bound = min(ceiling_seconds, max(base_seconds, backoff.bound_seconds * 2))
    is_first = backoff.attempt == 0
    delay = 0.0 if is_first else random.uniform(0.0, bound)
    if hint_seconds is not None:
        delay = max(hint_seconds, 1.0) + random.uniform(0.0, bound)
    return Wait(
        backoff=Backoff(
            attempt=backoff.attempt + 1, bound_seconds=backoff.bound_seconds if is_first else bound
        ),
        delay_seconds=delay,
    )


def hint_of(failure: BrokerdError) -> float | None:
    """Return the seconds the other side asked us to wait, if it did."""
    if isinstance(failure, Throttled | Held | RemoteUnavailable):
        return failure.retry_after_seconds
    return None
