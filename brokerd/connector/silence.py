"""How long a stream may be silent before something must be wrong with it.

Nobody says how often MetaApi's heartbeats come, only that they come within a minute. So the pace
is learnt: a stream that has beaten a few times is suspect when it is silent for clearly longer than
it ever was, and one whose pace is not known yet gets the whole minute.
"""

from collections import deque

from brokerd.config.settings import LinkSettings

KEPT_GAPS = 5
"""Gaps between heartbeats that are remembered; an old one must not decide for ever."""
USUAL_GAPS = 1.5
"""Silence of so many usual gaps is not usual; a second on top allows for a busy loop."""


class Rhythm:
    """What a link knows of its heartbeats, over all its sessions."""

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=KEPT_GAPS)
        self._beat_at: float | None = None

    def beat(self, at: float) -> None:
        """Note a heartbeat."""
        if self._beat_at is not None:
            self._gaps.append(at - self._beat_at)
        self._beat_at = at

    def rest(self) -> None:
        """Note that heartbeats may have been missed: the time to the next one says nothing."""
        self._beat_at = None

    @property
    def longest_gap_seconds(self) -> float | None:
        """Return the longest of the last gaps; None until there was one."""
        return max(self._gaps, default=None)


def limit_seconds(longest_gap_seconds: float | None, settings: LinkSettings) -> float:
    """Return how long a stream of this pace may be silent."""
    if longest_gap_seconds is None:
        return settings.silence_seconds
    usual = longest_gap_seconds * USUAL_GAPS + 1.0
    return min(settings.silence_seconds, max(settings.suspect_seconds, usual))
