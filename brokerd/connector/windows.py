"""Which closed windows to merge, and which to verify next: decided from the windows alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

from brokerd.domain import Window
from brokerd.operations import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span of history, `start` inclusive, `end` exclusive."""

    start: datetime
    end: datetime


def to_merge(windows: Sequence[Window], *, before: datetime, max_deals: int) -> tuple[Span, ...]:
    """Return the spans that should be one window each: months of what ended by `before`.

    A window belongs to the UTC month it began in. A month of more than `max_deals` stays in as
    many windows as it needs, so that reading one again never takes long.
    """
    old = [window for window in windows if window.end <= before]
    return tuple(
        span for _, month in groupby(old, key=_month) for span in _filled(tuple(month), max_deals)
    )


def next_to_verify(windows: Sequence[Window], *, before: datetime) -> Window | None:
    """Return the window that was not compared with the broker for longest.

    Only of those that ended by `before`: the rolling pull reads the younger ones again anyway.
    """
    return min((w for w in windows if w.end <= before), key=_last_verified, default=None)


def unread(windows: Sequence[Window], progress: Progress) -> Sequence[Window]:
    """Return what an audit that came so far has still to read.

    A window that grew or was merged with others since is read whole, maybe once more.
    """
    until, through = progress.until, progress.read_through
    return [
        window
        for window in windows
        if (until is None or window.start < until) and (through is None or window.end > through)
    ]


def _month(window: Window) -> tuple[int, int]:
    start = window.start.astimezone(UTC)
    return start.year, start.month


def _filled(month: Sequence[Window], max_deals: int) -> list[Span]:
    """Fill one window after the other; what would stay alone is no merge."""
    spans: list[Span] = []
    parts, deals = 0, 0
    for window in month:
        if parts and deals + window.receipt.count <= max_deals:
            spans[-1] = Span(start=spans[-1].start, end=window.end)
            parts, deals = parts + 1, deals + window.receipt.count
        else:
            if parts == 1:
                spans.pop()
            spans.append(Span(start=window.start, end=window.end))
            parts, deals = 1, window.receipt.count
    return spans[:-1] if parts == 1 else spans


def _last_verified(window: Window) -> tuple[bool, datetime, datetime]:
    at = window.verified_at
    return at is not None, at or window.start, window.start
