"""Decides how long a server's hint asks us to wait, measured on the server's own clock."""

from collections.abc import Mapping
from datetime import datetime
from math import isfinite

from brokerd.connector.governor.offset import http_date

SHORTEST_SECONDS = 1.0
"""A hint in the past still waits so long: our clock, or theirs, is wrong, and they are tired."""
LONGEST_SECONDS = 86_400.0
"""Whatever is asked for, we look again after a day."""


def hinted_seconds(
    headers: Mapping[str, str], *, recommended: str | None, now: datetime
) -> float | None:
    """Return the wait: Retry-After first, the body's recommendedRetryTime second, else None.

    `headers` must not care for case. Absolute times are compared with the Date header of the same
    answer, so that an error of our clock cancels out; without one, with `now`, which is the
    server's clock as its earlier answers told.
    """
    server_now = http_date(headers.get("date")) or now
    retry_after = headers.get("retry-after")
    seconds = _seconds(retry_after)
    if seconds is None:
        until = http_date(retry_after) or _iso_time(recommended)
        if until is None:
            return None
        seconds = (until - server_now).total_seconds()
    return min(max(seconds, SHORTEST_SECONDS), LONGEST_SECONDS)


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if isfinite(seconds) else None


def _iso_time(text: str | None) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return parsed if parsed.tzinfo is not None else None
