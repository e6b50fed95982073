"""Live time is read from transitions without losing or inventing a second."""

from datetime import UTC, datetime, timedelta

from brokerd.demo.spans import Transition, comebacks, live_spans, peak
from brokerd.demo.tally import LiveSpan

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds):
    """Return a moment."""
    return NOON + timedelta(seconds=seconds)


def told(link, *steps):
    """Return the transitions of a link."""
    return [Transition(link=link, at=at(seconds), phase=phase) for seconds, phase in steps]


def span(start, end):
    """Return a stretch of being live."""
    return LiveSpan(start=at(start), end=at(end))


def test_a_span_ends_with_whatever_follows_live():
    """Any other phase ends it; the next live begins another."""
    steps = told("a", (0, "syncing"), (1, "live"), (5, "backoff"), (7, "live"), (9, "draining"))
    assert live_spans(steps, until=at(60)) == {"a": [span(1, 5), span(7, 9)]}


def test_an_open_span_ends_at_the_limit():
    """What comes at the limit or later does not exist yet."""
    steps = told("a", (1, "live"), (70, "syncing"))
    assert live_spans(steps, until=at(60)) == {"a": [span(1, 60)]}
    assert live_spans(steps, until=at(1)) == {}


def test_live_said_again_is_still_the_same_span():
    """A report of the same phase breaks nothing."""
    steps = told("a", (1, "live"), (2, "live"), (3, "paused"))
    assert live_spans(steps, until=at(60)) == {"a": [span(1, 3)]}


def test_the_peak_counts_what_overlaps():
    """Two at once, though three were live; one that ends makes room for one that begins."""
    assert peak({"a": [span(0, 5)], "b": [span(3, 8)], "c": [span(5, 9)]}) == 2
    assert peak({"a": [span(0, 5)], "b": [span(4, 6)], "c": [span(4, 9)]}) == 3
    assert peak({}) == 0


def test_a_comeback_is_every_span_after_the_first():
    """Coming up is no comeback."""
    assert comebacks({"a": [span(0, 1)], "b": [span(0, 1), span(2, 3), span(4, 5)]}) == 2
