from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.connector.metaapi_rest.hints import (
    LONGEST_SECONDS,
    SHORTEST_SECONDS,
    hinted_seconds,
)

NOW = datetime(2024, 3, 1, 12, 0, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    """Return a time relative to now."""
    return NOW + timedelta(seconds=seconds)


def http(time: datetime) -> str:
    """Write a time as HTTP's headers do."""
    return format_datetime(time, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "recommended", "expected"),
    [
        pytest.param({"Retry-After": "7"}, None, 7.0, id="header_seconds"),
        pytest.param({"Retry-After": "1.5"}, None, 1.5, id="header_fraction"),
        pytest.param({"Retry-After": http(after(30))}, None, 30.0, id="header_date"),
        pytest.param({}, "2024-03-01T12:00:04.500Z", 4.5, id="body"),
        pytest.param({}, "2024-03-01T14:00:04.500+02:00", 4.5, id="body_offset"),
        pytest.param({"Retry-After": "7"}, "2024-03-01T12:01:00Z", 7.0, id="header_first"),
        pytest.param({"Retry-After": "soon"}, "2024-03-01T12:01:00Z", 60.0, id="header_nonsense"),
        pytest.param({"Retry-After": "nan"}, None, None, id="header_nan"),
        pytest.param({"Retry-After": "inf"}, None, None, id="header_inf"),
        pytest.param({"Retry-After": ""}, None, None, id="header_empty"),
        pytest.param({}, "2024-03-01T12:01:00", None, id="body_naive"),
        pytest.param({}, "5", None, id="body_seconds"),
        pytest.param({}, "", None, id="body_empty"),
        pytest.param({}, None, None, id="nothing"),
        pytest.param({"Retry-After": "0"}, None, SHORTEST_SECONDS, id="header_zero"),
        pytest.param({"Retry-After": "-5"}, None, SHORTEST_SECONDS, id="header_negative"),
        pytest.param({"Retry-After": http(after(-90))}, None, SHORTEST_SECONDS, id="header_past"),
        pytest.param({}, "2024-03-01T11:00:00Z", SHORTEST_SECONDS, id="body_past"),
        pytest.param({}, "2024-03-01T18:00:00Z", 21_600.0, id="six_hours_ahead"),
        pytest.param({}, "9999-12-31T23:59:59Z", LONGEST_SECONDS, id="never"),
        pytest.param({"Retry-After": "1e300"}, None, LONGEST_SECONDS, id="header_huge"),
    ],
)
def test_hints(headers: dict[str, str], recommended: str | None, expected: float | None) -> None:
    """The header decides, then the body; nonsense is no hint; bounds hold on both sides."""
    assert hinted_seconds(httpx.Headers(headers), recommended=recommended, now=NOW) == expected


@given(st.integers(-86_400, 86_400), st.integers(1, 3_600), st.booleans())
def test_our_own_clock_does_not_matter(
    wrong_by: int,
    wait: int,
    in_header: bool,  # noqa: FBT001
) -> None:
    """With a Date header an absolute hint means the same however wrong our clock is."""
    headers = {"Date": http(NOW)} | ({"Retry-After": http(after(wait))} if in_header else {})
    recommended = None if in_header else after(wait).isoformat()
    ours = after(wrong_by)
    assert hinted_seconds(httpx.Headers(headers), recommended=recommended, now=ours) == wait


def test_seconds_need_no_clock() -> None:
    """A Retry-After in seconds is relative already and is not corrected."""
    headers = httpx.Headers({"Date": http(after(-600)), "Retry-After": "9"})
    assert hinted_seconds(headers, recommended=None, now=NOW) == 9.0


def test_an_unreadable_date_is_done_without() -> None:
    """A Date header that is none leaves our own clock to compare with."""
    headers = httpx.Headers({"Date": "today", "Retry-After": http(after(30))})
    assert hinted_seconds(headers, recommended=None, now=NOW) == 30.0
