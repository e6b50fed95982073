"""Whether a stream that beats carries deals too: found out by what pulls have to bring instead.

One deal that only a pull brought is a lost packet. Several, all newer than the newest the stream
ever brought, are a stream that carries nothing any more, though its heartbeats go on. The pull may
have been the faster of the two just now, so the stream gets a few seconds to follow.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

DEAF_DEALS = 3
"""So many deals in a row that only pulls brought."""
FOLLOW_SECONDS = 5.0
"""A deal that REST shows is on the stream no later than this."""


class Hearing:
    """What stream and pulls brought of one session's live time; `due` is when to judge."""

    def __init__(self) -> None:
        self.due = float("inf")
        self._newest = datetime.min.replace(tzinfo=UTC)
        self._missed: list[datetime] = []

    def begin(self, now: datetime) -> None:
        """Begin to listen: what happened before is not the stream's to bring."""
        self.heard([now])

    def heard(self, times: Iterable[datetime]) -> None:
        """Note deals that the stream brought."""
        self._newest = max(self._newest, *times)
        self._missed = []
        self.due = float("inf")

    def found(self, times: Iterable[datetime], *, now: float) -> None:
        """Note deals that only a pull brought; `now` is monotonic."""
        self._missed += [time for time in times if time > self._newest]
        if len(self._missed) >= DEAF_DEALS:
            self.due = min(self.due, now + FOLLOW_SECONDS)

    def missed_seconds(self, now: datetime) -> float:
        """Return how old the oldest deal is that the stream should have brought."""
        return (now - min(self._missed, default=now)).total_seconds()
