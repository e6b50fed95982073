"""A broker's hours: weekends, holidays and pauses on the broker's own wall clock."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.config.hours import BadHours, read_hours
from brokerd.config.settings import MarketHours

ATHENS = read_hours(
    MarketHours(
        time_zone="Europe/Athens",
        open=("Mon 00:05-Fri 23:55",),
        pauses=("Mon 23:58-Tue 00:03", "Tue 23:58-Wed 00:03"),
        holidays=("2026-12-25",),
    )
)
MOMENTS = st.datetimes(
    min_value=datetime(2026, 1, 1),  # noqa: DTZ001  # hypothesis adds the zone
    max_value=datetime(2027, 12, 31),  # noqa: DTZ001  # likewise
    timezones=st.just(UTC),
)


@pytest.mark.parametrize(
    ("at", "is_open"),
    [
        pytest.param("2026-11-25T12:00:00Z", True, id="a working day"),
        pytest.param("2026-11-27T21:54:00Z", True, id="Friday before the close, winter time"),
        pytest.param("2026-11-27T21:55:00Z", False, id="Friday at the close"),
        pytest.param("2026-11-29T22:04:00Z", False, id="Sunday night before the opening"),
        pytest.param("2026-11-29T22:05:00Z", True, id="Monday 00:05 in Athens"),
        pytest.param("2026-06-26T20:55:00Z", False, id="the close in summer comes an hour earlier"),
        pytest.param("2026-06-26T20:54:00Z", True, id="and not before"),
        pytest.param("2026-12-25T12:00:00Z", False, id="a holiday"),
        pytest.param("2026-12-24T22:01:00Z", False, id="a holiday begins at the broker's midnight"),
        pytest.param("2026-11-24T22:00:00Z", False, id="the nightly pause"),
        pytest.param("2026-11-24T22:03:00Z", True, id="after the nightly pause"),
    ],
)
def test_the_market_follows_the_brokers_wall_clock(at, is_open):
    """Hours are the broker's, whatever the time of the year."""
    assert ATHENS.is_open(datetime.fromisoformat(at)) is is_open


@pytest.mark.parametrize(
    ("after", "opens_at"),
    [
        pytest.param("2026-11-28T10:00:00Z", "2026-11-29T22:05:00Z", id="over the weekend"),
        pytest.param("2026-10-24T10:00:00Z", "2026-10-25T22:05:00Z", id="the clocks change"),
        pytest.param("2026-11-24T22:00:00Z", "2026-11-24T22:03:00Z", id="out of the pause"),
        pytest.param("2026-12-25T05:00:00Z", "2026-12-27T22:05:00Z", id="holiday, then weekend"),
        pytest.param("2026-11-25T12:00:00Z", "2026-11-25T12:00:00Z", id="open already"),
    ],
)
def test_the_next_opening_is_known(after, opens_at):
    """What is closed says when it opens."""
    assert ATHENS.opens_at(datetime.fromisoformat(after)) == datetime.fromisoformat(opens_at)


@given(MOMENTS)
def test_nothing_opens_before_the_next_opening(at):
    """Between a closed moment and its next opening the market stays closed; then it is open."""
    opens_at = ATHENS.opens_at(at)
    assert opens_at is not None
    assert ATHENS.is_open(opens_at)
    step = at
    while step < opens_at:
        assert not ATHENS.is_open(step)
        step += timedelta(minutes=7)


CHANGES = ["2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z"]
"""When Athens' clocks skip the hour from 03:00, and repeat it."""
MINUTES = st.integers(6 * 24 * 60, 6 * 24 * 60 + 6 * 60)
"""Of the Sunday night."""


def moment_of_week(minute):
    """Write a minute of the week as an operator does."""
    day, rest = divmod(minute, 24 * 60)
    return (
        f"{['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'][day]} {rest // 60:02}:{rest % 60:02}"
    )


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "span", ["Sun 03:30-Sun 03:45", "Sun 02:30-Sun 03:30", "Sun 03:15-Sun 05:00"]
)
def test_f36_an_hour_skipped_or_repeated_is_counted_as_the_wall_says(change, span):
    """What is open minute by minute is what is counted, and what is told as the next opening."""
    check_around(datetime.fromisoformat(change), (span,))


@pytest.mark.parametrize("change", CHANGES)
@given(minutes=st.lists(st.tuples(MINUTES, MINUTES), min_size=1, max_size=2))
def test_f36_any_hours_hold_across_a_change_to_summer_time(change, minutes):
    """Whatever the spans."""
    spans = tuple(f"{moment_of_week(one)}-{moment_of_week(two)}" for one, two in minutes)
    check_around(datetime.fromisoformat(change), spans)


def check_around(change, spans):
    """Compare seconds and openings with the minutes of five hours around a change."""
    hours = read_hours(MarketHours(time_zone="Europe/Athens", open=spans))
    start, end = change - timedelta(hours=3), change + timedelta(hours=2)
    minutes = [start + timedelta(minutes=n) for n in range(5 * 60)]
    is_open = [hours.is_open(minute) for minute in minutes]
    assert hours.open_seconds(start, end) == 60 * sum(is_open)
    if not is_open[0] and any(is_open):
        assert hours.opens_at(start) == minutes[is_open.index(True)]


def test_a_market_that_stays_closed_has_no_opening():
    """Whole months of holidays are beyond what anybody waits for."""
    days = tuple((date(2026, 12, 1) + timedelta(days=n)).isoformat() for n in range(60))
    hours = read_hours(MarketHours(time_zone="UTC", open=("Mon 00:00-Sun 24:00",), holidays=days))
    assert hours.opens_at(datetime(2026, 12, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param({"time_zone": "Mars/Olympus"}, "no time zone 'Mars/Olympus'", id="zone"),
        pytest.param({"time_zone": "../passwd"}, "no time zone", id="no way out of the folder"),
        pytest.param({"open": []}, "no opening hours", id="never open"),
        pytest.param({"open": ["Monday-Friday"]}, "is no span", id="span"),
        pytest.param({"pauses": ["Xyz 00:00-Mon 01:00"]}, "Xyz is no day of the week", id="day"),
        pytest.param({"pauses": ["Mon 25:00-Tue 01:00"]}, "is no span", id="hour"),
        pytest.param({"holidays": ["25.12.2026"]}, "is no day", id="holiday"),
    ],
)
def test_bad_hours_are_told(change, problem):
    """Each names what is wrong and how it is written."""
    right = MarketHours(time_zone="UTC", open=("Mon 00:00-Fri 24:00",))
    with pytest.raises(BadHours, match=problem):
        read_hours(replace(right, **change))
