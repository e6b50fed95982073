"""How far a service's clock is from ours, as the Date headers of its answers tell."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_WEIGHT = 0.1
"""Of each new observation: the header is cut to the second, so ten of them smooth it."""
_STEP_SECONDS = 5.0
"""What differs by more is not noise but a clock that was set: it is followed at once."""
_HALF_SECOND = timedelta(seconds=0.5)


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """The service's clock less ours, in seconds; None before its first answer."""

    seconds: float | None = None

    def server_time(self, now: datetime) -> datetime:
        """Return what the service's clock shows when ours shows `now`."""
        return now + timedelta(seconds=self.seconds or 0.0)


def observed(
    offset: ClockOffset, *, date: str | None, sent_at: datetime, received_at: datetime
) -> ClockOffset:
    """Return the offset after an answer; one without a readable Date tells nothing."""
    server_time = http_date(date)
    if server_time is None:
        return offset
    ours = sent_at + (received_at - sent_at) / 2
    seen = (server_time + _HALF_SECOND - ours).total_seconds()
    if offset.seconds is None or abs(seen - offset.seconds) > _STEP_SECONDS:
        return ClockOffset(seen)
    return ClockOffset(offset.seconds + _WEIGHT * (seen - offset.seconds))


def http_date(text: str | None) -> datetime | None:
    """Read a date of an HTTP header; None when it is none."""
    try:
        parsed = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed
