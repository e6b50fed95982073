"""Decides whether one request to MetaApi is sent again, and when; tenacity does it.

Only blips are ridden out here. A refusal, or a state that lasts (not connected, synchronizing, a
long hint), goes to the link at once: its backoff is durable and shown, a wait in here is neither.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from brokerd.errors import (
    Held,
    NotConnected,
    RemoteUnavailable,
    Synchronizing,
    Throttled,
    Transient,
)

LONGEST_WAIT_SECONDS = 5.0
"""A hint beyond this is not waited for inside a request."""
_FIRST_BOUND_SECONDS = 0.25

Sleep = Callable[[float], Awaitable[None]]


def retrying(attempts: int, *, random: Random, sleep: Sleep = asyncio.sleep) -> AsyncRetrying:
    """Return what runs one request up to `attempts` times and then raises its last error."""

    def wait(state: RetryCallState) -> float:
        return wait_seconds(_error(state), attempt=state.attempt_number, random=random)

    return AsyncRetrying(
        sleep=sleep,
        stop=stop_after_attempt(attempts),
        wait=wait,
        retry=retry_if_exception(is_blip),
        reraise=True,
    )


def is_blip(error: BaseException) -> bool:
    """Say whether sending the request again within seconds may help."""
    if not isinstance(error, Transient) or isinstance(error, Held | NotConnected | Synchronizing):
        return False  # who is held has waited already
    return (hint_of(error) or 0.0) <= LONGEST_WAIT_SECONDS


def wait_seconds(error: BaseException | None, *, attempt: int, random: Random) -> float:
    """Return the wait after the given failed attempt: the hint, or full jitter that doubles."""
    bound = min(_FIRST_BOUND_SECONDS * 2 ** (attempt - 1), LONGEST_WAIT_SECONDS)
    return (hint_of(error) or 0.0) + random.uniform(0.0, bound)


def hint_of(error: BaseException | None) -> float | None:
    """Return the wait the server asked for, if it did."""
    if isinstance(error, Throttled | RemoteUnavailable):
        return error.retry_after_seconds
    return None


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
