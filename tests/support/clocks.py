"""A clock that the test moves; `link_world` has the one that follows the loop."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@dataclass
class StillClock:
    """Noon, and as many seconds later as the test says."""

    seconds: float = 0.0

    def now(self) -> datetime:
        """Return the wall clock."""
        return NOON + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """Return the seconds."""
        return self.seconds

    def boottime(self) -> float:
        """Return the same."""
        return self.seconds
