"""Hours are found by the name of the broker's server."""

from datetime import UTC, datetime

from brokerd.config.settings import MarketHours
from brokerd.health.calendar import calendar_of


def test_a_server_is_found_by_name_or_pattern_in_order():
    """The first that fits counts; who fits none is unknown."""
    calendar = calendar_of(
        {
            "Crypto-Live": MarketHours(time_zone="UTC", open=("Sat 00:00-Fri 24:00",)),
            "Crypto-*": MarketHours(time_zone="UTC", open=("Mon 00:00-Fri 24:00",)),
        }
    )
    saturday = datetime(2026, 11, 28, 12, tzinfo=UTC)
    assert calendar.is_open("Crypto-Live", saturday) is True
    assert calendar.is_open("Crypto-Demo", saturday) is False
    assert calendar.is_open("Broker-Demo", saturday) is None
