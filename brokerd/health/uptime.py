"""How much of the time a link was live when it should have been: in session, and wanted.

A link is wanted unless it is paused, stopped or deleted; in session while its broker's market is
open, which it always is where nobody wrote hours down.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from brokerd.config.hours import Hours
from brokerd.domain import Phase

SPANS: Mapping[str, timedelta] = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
_RESTING = frozenset({Phase.PAUSED, Phase.STOPPED, Phase.DELETING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """When a link entered a phase, and why."""

    phase: Phase
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Uptime:
    """Seconds that were expected of a link, and those of them that it was live."""

    expected_seconds: float
    live_seconds: float

    @property
    def ratio(self) -> float | None:
        """Return the part of the expected time that the link was live; None when none was."""
        return self.live_seconds / self.expected_seconds if self.expected_seconds else None


def uptimes(
    history: Sequence[Entered], *, now: datetime, hours: Hours | None
) -> Mapping[str, Uptime]:
    """Return the uptime over each of `SPANS` before `now`.

    `history` is in the order of time; what lies before its first entry is not counted.
    """
    return {name: _uptime(history, now - span, now, hours) for name, span in SPANS.items()}


def _uptime(
    history: Sequence[Entered], since: datetime, now: datetime, hours: Hours | None
) -> Uptime:
    expected = live = 0.0
    ends = [*(entered.at for entered in history), now]
    for entered, (begun, ended) in zip(history, pairwise(ends), strict=True):
        start, end = max(begun, since), min(ended, now)
        if start >= end or entered.phase in _RESTING:
            continue
        seconds = (end - start).total_seconds() if hours is None else hours.open_seconds(start, end)
        expected += seconds
        live += seconds if entered.phase is Phase.LIVE else 0.0
    return Uptime(expected_seconds=expected, live_seconds=live)
