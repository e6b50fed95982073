"""Which broker server keeps which hours; without any written down it is always open."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase

from brokerd.config.hours import Hours, read_hours
from brokerd.config.settings import MarketHours


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """The hours of broker servers, by name or pattern (`Broker-*`); the first that fits counts."""

    hours: Mapping[str, Hours] = field(default_factory=dict)

    def of(self, server: str) -> Hours | None:
        """Return a server's hours; None when nobody wrote any down."""
        return next(
            (hours for name, hours in self.hours.items() if fnmatchcase(server, name)), None
        )

    def is_open(self, server: str, at: datetime) -> bool | None:
        """Say whether the server's market is open; None when nobody knows."""
        hours = self.of(server)
        return None if hours is None else hours.is_open(at)


def calendar_of(settings: Mapping[str, MarketHours]) -> Calendar:
    """Read the configured hours, which `config.rules` has found readable."""
    return Calendar(hours={name: read_hours(each) for name, each in settings.items()})
