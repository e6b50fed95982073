"""A steady pace for many streams: one queue in order of time, not a task for each."""

from collections import deque
from collections.abc import Callable

from brokerd.sandbox.terminal import Stream


class Beats:
    """Calls `beat` for every stream once per period, beginning one period after it came."""

    def __init__(self, *, period_seconds: float, beat: Callable[[Stream], None]) -> None:
        self._period_seconds = period_seconds
        self._beat = beat
        self._due: deque[tuple[float, Stream]] = deque()

    def add(self, stream: Stream, *, now: float) -> None:
        """Begin; a stream that is over drops out by itself."""
        self._due.append((now + self._period_seconds, stream))

    def tick(self, now: float) -> None:
        """Beat for those that are due at the monotonic time `now`."""
        # the period is one for all, so appending keeps the queue in order of time
        while self._due and self._due[0][0] <= now:
            _, stream = self._due.popleft()
            if not stream.is_over:
                self._beat(stream)
                self.add(stream, now=now)
