"""How far MetaApi's clock is from ours, from headers that are cut to the second."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random

import pytest

from brokerd.connector.governor.offset import ClockOffset, observed

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def answered(offset, *, ours, server_ahead, took=0.2):
    """Observe one answer: our clock when it came, and how far the server's is ahead."""
    received_at = NOON + timedelta(seconds=ours)
    sent_at = received_at - timedelta(seconds=took)
    server = received_at - timedelta(seconds=took / 2) + timedelta(seconds=server_ahead)
    date = format_datetime(server, usegmt=True)
    return observed(offset, date=date, sent_at=sent_at, received_at=received_at)


@pytest.mark.parametrize("ahead", [0.0, 600.0, -600.0, 3.4])
def test_many_answers_tell_the_offset_within_a_fifth_of_a_second(ahead):
    """Though each header alone is up to a second wrong."""
    random, offset = Random(1), ClockOffset()
    for number in range(60):
        offset = answered(offset, ours=number * 7 + random.random(), server_ahead=ahead)
    assert offset.seconds == pytest.approx(ahead, abs=0.2)
    assert offset.server_time(NOON) == NOON + timedelta(seconds=offset.seconds)


def test_the_first_answer_is_believed():
    """One answer is much better than none."""
    assert answered(ClockOffset(), ours=0, server_ahead=600).seconds == pytest.approx(600, abs=0.6)


def test_a_clock_that_was_set_is_followed_at_once():
    """Ours or theirs: a step is no noise."""
    offset = ClockOffset()
    for number in range(20):
        offset = answered(offset, ours=number, server_ahead=0)
    assert answered(offset, ours=21, server_ahead=-3_600).seconds == pytest.approx(-3_600, abs=0.6)


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 99 Foo 2026 99:99:99 GMT"])
def test_an_unreadable_date_tells_nothing(date):
    """What was known stays known."""
    known = ClockOffset(4.0)
    assert observed(known, date=date, sent_at=NOON, received_at=NOON) == known
    assert ClockOffset().server_time(NOON) == NOON
