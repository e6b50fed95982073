"""Which windows are merged, and which is verified next."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from brokerd.connector.windows import Span, next_to_verify, to_merge
from brokerd.domain import Receipt, Window


def day(number: int) -> datetime:
    """Return a day counted from the first of March."""
    return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=number)


def window(start: int, end: int, count: int = 1, verified: int | None = None) -> Window:
    """Build a window of so many deals."""
    zero = Decimal(0)
    return Window(
        start=day(start),
        end=day(end),
        receipt=Receipt(count=count, content_hash=0, balance=zero, credit=zero),
        verified_at=None if verified is None else day(verified),
    )


def span(start: int, end: int) -> Span:
    """Build a span."""
    return Span(start=day(start), end=day(end))


DAYS = [window(number, number + 1) for number in range(40)]


@pytest.mark.parametrize(
    ("windows", "before", "max_deals", "spans"),
    [
        pytest.param([], 99, 9, [], id="nothing"),
        pytest.param(DAYS, 0, 99, [], id="all young"),
        pytest.param(DAYS[:3], 2, 99, [span(0, 2)], id="only what ended in time"),
        pytest.param(DAYS, 99, 99, [span(0, 31), span(31, 40)], id="months apart"),
        pytest.param(DAYS[:7], 99, 3, [span(0, 3), span(3, 6)], id="as many as a window holds"),
        pytest.param(
            [window(-9_000, 2), window(2, 3), window(3, 4)], 99, 9, [span(2, 4)], id="first sync"
        ),
        pytest.param(
            [window(0, 1, 9), window(1, 2), window(2, 3), window(3, 4, 9)],
            99,
            5,
            [span(1, 3)],
            id="full ones stay alone",
        ),
        pytest.param([window(0, 20, 3), window(20, 21)], 99, 9, [span(0, 21)], id="a month grows"),
    ],
)
def test_old_windows_become_months(windows, before, max_deals, spans):
    """What ended by then is joined within its month, up to so many deals a window."""
    assert list(to_merge(windows, before=day(before), max_deals=max_deals)) == spans


def test_what_is_merged_needs_no_merge():
    """A merged month is left alone until there is something to add."""
    assert to_merge([window(0, 31, 31), window(31, 40, 9)], before=day(99), max_deals=99) == ()


@pytest.mark.parametrize(
    ("windows", "start"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([window(0, 1, verified=5), window(1, 2, verified=3)], 1, id="longest ago"),
        pytest.param([window(0, 1, verified=5), window(1, 2)], 1, id="never"),
        pytest.param([window(0, 1, verified=5), window(1, 11)], 0, id="not the young one"),
        pytest.param([window(9, 11, verified=1)], None, id="only young ones"),
        pytest.param([window(1, 2, verified=5), window(2, 3, verified=5)], 1, id="oldest first"),
    ],
)
def test_the_longest_unverified_window_is_next(windows, start):
    """The one that was compared with the broker longest ago, unless it is still read anyway."""
    found = next_to_verify(windows, before=day(10))
    assert (found and found.start) == (None if start is None else day(start))
