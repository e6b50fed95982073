"""Keeps this node's incidents: hears of its links, says whose turn it is, and tells what changes.

An incident out of hours is expected: brokers restart their servers at weekends and at night. It
paces the return all the same, but nobody is warned.
"""

import asyncio

import structlog

from brokerd.clock import Clock
from brokerd.config.settings import HealthSettings
from brokerd.domain import Claim, LinkId
from brokerd.health.calendar import Calendar
from brokerd.health.incidents import Change, Incidents, Place, Reach, Scope, Stage
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_TICK_SECONDS = 1.0


class IncidentDesk:
    """The connector's `Incidents`, and a service that tells of them."""

    name = "incidents"

    def __init__(
        self, settings: HealthSettings, *, calendar: Calendar, clock: Clock, metrics: Metrics
    ) -> None:
        self._incidents = Incidents(settings)
        self._calendar = calendar
        self._clock = clock
        self._metrics = metrics

    async def run(self) -> None:
        """Look every second at what must be forgotten, until cancelled."""
        while True:
            self._incidents.tick(self._clock.monotonic())
            self._tell()
            await asyncio.sleep(_TICK_SECONDS)

    def joined(self, claim: Claim) -> None:
        """Note that a link runs here."""
        place = Place(server=claim.spec.identity.server, region=claim.spec.metaapi.region)
        self._incidents.joined(claim.link_id, place, self._clock.monotonic())

    def left(self, link_id: LinkId) -> None:
        """Note that a link is not wanted here any more."""
        self._incidents.left(link_id, self._clock.monotonic())
        self._tell()

    def lost(self, link_id: LinkId) -> None:
        """Note that a link is live no more."""
        self._incidents.lost(link_id, self._clock.monotonic())
        self._tell()

    def live(self, link_id: LinkId) -> None:
        """Note that a link is live."""
        self._incidents.live(link_id, self._clock.monotonic())
        self._tell()

    def turn(self, link_id: LinkId, *, is_up: bool) -> float:
        """Return 0 when the link may come back, which uses a turn up, else the seconds to wait."""
        seconds = self._incidents.turn(link_id, self._clock.monotonic(), is_up=is_up)
        self._tell()
        return seconds

    def is_expected(self, claim: Claim) -> bool:
        """Say whether the link's broker is closed, or the link is part of an incident."""
        is_open = self._calendar.is_open(claim.spec.identity.server, self._clock.now())
        return is_open is False or self._incidents.includes(claim.link_id)

    def _tell(self) -> None:
        for change in self._incidents.take_changes():
            self._metrics.incidents.labels(reach=change.scope.reach).set(self._open(change.scope))
            self._metrics.incident_changes.labels(
                reach=change.scope.reach, stage=change.stage
            ).inc()
            level = log.info if self._is_expected(change) else log.warning
            level(
                "incident.changed",
                stage=change.stage,
                reach=change.scope.reach,
                scope=change.scope.name,
                links_down=change.links_down,
                links=change.links,
                lasted_seconds=round(change.lasted_seconds, 3),
            )

    def _open(self, scope: Scope) -> int:
        return sum(each.reach is scope.reach for each in self._incidents.open_scopes)

    def _is_expected(self, change: Change) -> bool:
        """Say whether nobody needs to look: it ends, or the broker's market is closed."""
        if change.stage in {Stage.RETURNING, Stage.CLOSED}:
            return True
        is_server = change.scope.reach is Reach.SERVER
        return is_server and self._calendar.is_open(change.scope.name, self._clock.now()) is False
