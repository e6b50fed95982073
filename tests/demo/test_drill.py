"""Which links did not stay up while PostgreSQL was away."""

from datetime import UTC, datetime

from brokerd.demo.drill import moved

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 1, 1, 13, tzinfo=UTC)


def test_a_link_stands_only_with_its_moment_and_its_streams():
    """Live since another moment, on another stream, or not live at all: each one moved."""
    before = {"kept": (NOON, 1), "again": (NOON, 1), "redialled": (NOON, 1), "gone": (NOON, 1)}
    after = {"kept": (NOON, 1), "again": (LATER, 1), "redialled": (NOON, 2), "new": (NOON, 1)}
    assert moved(before, after) == {"again", "redialled", "gone"}
