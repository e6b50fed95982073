"""Uptime counts what was expected of a link: in session, and wanted."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.config.hours import read_hours
from brokerd.config.settings import MarketHours
from brokerd.domain import Phase
from brokerd.health.uptime import SPANS, Entered, uptimes

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)  # a Monday
WEEKDAYS = read_hours(
    MarketHours(time_zone="UTC", open=("Mon 00:00-Fri 24:00",), holidays=("2026-11-26",))
)


def entered(phase, ago):
    """Say that a phase began so long ago."""
    return Entered(phase=phase, reason=phase.capitalize(), at=NOW - ago)


def test_a_link_that_was_always_live_is_fully_up():
    """Over every span, although it is only two hours old."""
    seen = uptimes([entered(Phase.LIVE, timedelta(hours=2))], now=NOW, hours=None)
    assert {name: each.ratio for name, each in seen.items()} == dict.fromkeys(SPANS, 1.0)
    assert seen["30d"].expected_seconds == 7_200


def test_backoff_counts_against_it_and_a_pause_does_not():
    """A quarter of an hour lost within an hour wanted."""
    history = [
        entered(Phase.LIVE, timedelta(hours=3)),
        entered(Phase.PAUSED, timedelta(hours=2)),
        entered(Phase.LIVE, timedelta(minutes=60)),
        entered(Phase.BACKOFF, timedelta(minutes=30)),
        entered(Phase.LIVE, timedelta(minutes=15)),
    ]
    seen = uptimes(history, now=NOW, hours=None)
    assert seen["1h"].ratio == pytest.approx(0.75)
    assert seen["24h"].ratio == pytest.approx(1 - 15 / 120)


def test_a_weekend_and_a_holiday_are_nobodys_failure():
    """Lost from Friday's close to Monday's opening, the link was up all the time that counts."""
    history = [
        entered(Phase.LIVE, timedelta(days=29)),
        Entered(phase=Phase.BACKOFF, reason="LinkLost", at=datetime(2026, 11, 28, tzinfo=UTC)),
        Entered(phase=Phase.LIVE, reason="Live", at=datetime(2026, 11, 30, tzinfo=UTC)),
    ]
    assert uptimes(history, now=NOW, hours=WEEKDAYS)["7d"].ratio == 1.0
    assert uptimes(history, now=NOW, hours=WEEKDAYS)["7d"].expected_seconds == 4 * 86_400
    assert uptimes(history, now=NOW, hours=None)["7d"].ratio == pytest.approx(5 / 7)


def test_nothing_expected_is_no_uptime():
    """A link that was paused all the time has none, neither zero nor one."""
    seen = uptimes([entered(Phase.PAUSED, timedelta(days=3))], now=NOW, hours=None)
    assert seen["24h"].ratio is None
    assert uptimes([], now=NOW, hours=None)["30d"].ratio is None


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Phase)), st.floats(0.0, 40 * 86_400.0)), max_size=20
    ).map(lambda rows: sorted(rows, key=lambda row: -row[1])),
    st.sampled_from([None, WEEKDAYS]),
)
def test_live_time_is_part_of_the_expected_which_is_part_of_the_span(rows, hours):
    """Whatever happened, the numbers nest."""
    history = [entered(phase, timedelta(seconds=ago)) for phase, ago in rows]
    for name, seen in uptimes(history, now=NOW, hours=hours).items():
        assert 0 <= seen.live_seconds <= seen.expected_seconds + 1e-6
        assert seen.expected_seconds <= SPANS[name].total_seconds() + 1e-6
