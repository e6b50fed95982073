"""When a broker's market is open, by the hours an operator wrote down.

Theory. Brokers trade in weekly sessions of their own wall clock, close on holidays, and restart
their servers at night. All of that is silence that nobody should be woken for. Hours are written
in the broker's time zone and looked up on its wall clock, so that a change to summer time moves
them as it moves the broker. An hour that the clock skips or repeats then is open or closed as
its wall time says.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from brokerd.config.settings import MarketHours

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60
_WEEK_MINUTES = 7 * _DAY_MINUTES
_MINUTE = timedelta(minutes=1)
_MOMENT = r"(\w{3}) ([01]\d|2[0-4]):([0-5]\d)"
_SPAN = re.compile(f"{_MOMENT}-{_MOMENT}")
_LOOK_AHEAD_DAYS = 30
"""A market that is closed for longer has no next opening we would plan for."""


class BadHours(ValueError):
    """Hours that cannot be read; its text says which and how they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeeklySpan:
    """From one minute of the week to another, counted from Monday 00:00; it may wrap around.

    One that ends where it starts is the whole week.
    """

    start_minute: int
    end_minute: int

    def covers(self, minute: int) -> bool:
        """Say whether the minute of the week lies in the span."""
        if self.start_minute < self.end_minute:
            return self.start_minute <= minute < self.end_minute
        return minute >= self.start_minute or minute < self.end_minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """When a broker server trades: weekly spans, less pauses and whole holidays."""

    zone: tzinfo
    open: tuple[WeeklySpan, ...]
    pauses: tuple[WeeklySpan, ...] = ()
    holidays: frozenset[date] = frozenset()

    def is_open(self, at: datetime) -> bool:
        """Say whether the market is open at an aware moment."""
        local = at.astimezone(self.zone)
        minute = local.weekday() * _DAY_MINUTES + local.hour * 60 + local.minute
        return (
            local.date() not in self.holidays
            and any(span.covers(minute) for span in self.open)
            and not any(span.covers(minute) for span in self.pauses)
        )

    def opens_at(self, after: datetime) -> datetime | None:
        """Return when a closed market opens next, `after` when it is open, None beyond a month."""
        if self.is_open(after):
            return after
        edges = self._edges(after, after + timedelta(days=_LOOK_AHEAD_DAYS))
        return next((edge for edge in edges if self.is_open(edge)), None)

    def open_seconds(self, start: datetime, end: datetime) -> float:
        """Return for how many seconds between two moments the market was open."""
        seconds, begun = 0.0, start
        for edge in (*self._edges(start, end), end):
            if self.is_open(begun):
                seconds += (edge - begun).total_seconds()
            begun = edge
        return seconds

    def _edges(self, start: datetime, end: datetime) -> Sequence[datetime]:
        """Return, in UTC and in order, every moment in between at which the market may change."""
        spans = (*self.open, *self.pauses)
        minutes = {0, *(m for span in spans for m in (span.start_minute, span.end_minute))}
        first, last = start.astimezone(self.zone).date(), end.astimezone(self.zone).date()
        edges = set[datetime]()
        for ahead in range((last - first).days + 1):
            day = first + timedelta(days=ahead)
            edges |= self._moments(day, 0)  # where a holiday may begin or end
            edges |= self._clock_changes(day)
            for weekday, minute in (divmod(m, _DAY_MINUTES) for m in minutes):
                if weekday == day.weekday():
                    edges |= self._moments(day, minute)
        return sorted(edge for edge in edges if start < edge < end)

    def _moments(self, day: date, minute: int) -> set[datetime]:
        """Return when the wall shows that minute of a day: twice in an hour that is repeated."""
        wall = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=self.zone)
        return {wall.replace(fold=fold).astimezone(UTC) for fold in (0, 1)}

    def _clock_changes(self, day: date) -> set[datetime]:
        """Return when, in a day, the clock on the wall jumps to summer time or back."""
        before = min(self._moments(day, 0))
        after = min(self._moments(day + timedelta(days=1), 0))
        if self._offset(before) == self._offset(after):
            return set()
        while after - before > _MINUTE:
            middle = before + (after - before) // _MINUTE // 2 * _MINUTE
            is_earlier = self._offset(middle) == self._offset(before)
            before, after = (middle, after) if is_earlier else (before, middle)
        return {after}

    def _offset(self, at: datetime) -> timedelta | None:
        return at.astimezone(self.zone).utcoffset()


def read_hours(written: MarketHours) -> Hours:
    """Read hours as an operator wrote them. Raises `BadHours`."""
    try:
        zone = ZoneInfo(written.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        problem = f"no time zone {written.time_zone!r}; write it as Europe/Athens or UTC"
        raise BadHours(problem) from None
    if not written.open:
        raise BadHours("no opening hours; write them as Mon 00:05-Fri 23:55")
    return Hours(
        zone=zone,
        open=tuple(_span(text) for text in written.open),
        pauses=tuple(_span(text) for text in written.pauses),
        holidays=frozenset(_holiday(text) for text in written.holidays),
    )


def _span(text: str) -> WeeklySpan:
    parts = _SPAN.fullmatch(text.strip())
    if parts is None:
        raise BadHours(f"{text!r} is no span; write it as Mon 00:05-Fri 23:55")
    return WeeklySpan(
        start_minute=_minute(*parts.group(1, 2, 3)), end_minute=_minute(*parts.group(4, 5, 6))
    )


def _minute(day: str, hour: str, minute: str) -> int:
    if day.lower() not in _DAYS:
        raise BadHours(f"{day} is no day of the week; write it as Mon 00:05")
    minutes = _DAYS.index(day.lower()) * _DAY_MINUTES + int(hour) * 60 + int(minute)
    return minutes % _WEEK_MINUTES  # Sun 24:00 is Mon 00:00


def _holiday(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadHours(f"{text!r} is no day; write it as 2026-12-25") from None
