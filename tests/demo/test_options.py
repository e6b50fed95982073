"""What follows from the command line's words."""

import pytest

from brokerd.demo.options import DemoOptions


@pytest.mark.parametrize(
    ("seconds", "away_seconds"), [(None, 20.0), (600.0, 20.0), (60.0, 20.0), (30.0, 10.0)]
)
def test_postgres_is_away_for_twenty_seconds_and_less_in_short_runs(seconds, away_seconds):
    """A run of a minute or more gets the whole absence, a shorter one a third of its time."""
    options = DemoOptions(
        accounts=1, max_links=None, seed=1, seconds=seconds, is_chaos=True, is_json=False
    )
    assert options.store_away_seconds == away_seconds
