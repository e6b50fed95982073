"""Takes PostgreSQL away under a live fleet: stopped for a while, later restarted.

It is done in a calm, when no fault of MetaApi's is on, and only once the fleet has been steady for
some seconds. So a session that is lost meanwhile was lost because of it. Whether one was is asked
of the sandbox, which counts the streams that clients begin, and of the links themselves.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime

from brokerd.clock import Clock
from brokerd.demo.fleet import Fleet
from brokerd.demo.interrupts import Interrupts
from brokerd.demo.report import MemoryFigures, StoreOutages
from brokerd.demo.stage import Stage
from brokerd.demo.talk import PATIENCE_SECONDS, is_ready
from brokerd.demo.watch import Watcher
from brokerd.domain import Phase
from brokerd.errors import EngineFailed

CALM_SECONDS = 60.0
"""How long to wait for the links that still mend after the last round."""
STEADY_SECONDS = 3.0
AFTER_SECONDS = 3.0
"""What a loss that an outage caused has to show itself."""
_TICK_SECONDS = 0.25

Standing = tuple[datetime, int]
"""Since when a link is live, and how many streams were begun for it."""


class StoreDrill:
    """One drill; told to end, it shortens the absence of PostgreSQL and no more."""

    def __init__(
        self,
        stage: Stage,
        *,
        fleet: Fleet,
        watcher: Watcher,
        clock: Clock,
        interrupts: Interrupts,
    ) -> None:
        self._stage = stage
        self._fleet = fleet
        self._watcher = watcher
        self._clock = clock
        self._interrupts = interrupts
        self._peak_mb = 0.0
        self._not_ready_seen = 0

    async def run(self, *, links: int, stop_seconds: float) -> StoreOutages:
        """Stop PostgreSQL for so long, restart it later; return what was seen of it.

        `links` should be live before it begins.
        """
        steady = await self._calm(links)
        before_mb = self._memory_mb()
        stopped_seconds = await self._stop(stop_seconds)
        await self._come_back()
        await self._stage.engines.postgres.restart()
        await self._come_back()
        after = await self._standings()
        after_mb = self._memory_mb()
        return StoreOutages(
            asked_seconds=stop_seconds,
            stopped_seconds=stopped_seconds,
            restarts=1,
            not_ready_seen=self._not_ready_seen,
            links_watched=len(steady),
            sessions_lost=len(moved(steady, after)),
            daemon_memory_mb=MemoryFigures(before=before_mb, peak=self._peak_mb, after=after_mb),
        )

    async def _calm(self, links: int) -> dict[str, Standing]:
        """Wait until all are live and none moves any more; return those of which that is so."""
        deadline = self._clock.monotonic() + CALM_SECONDS
        standings = await self._standings()
        while True:
            await asyncio.sleep(STEADY_SECONDS)
            earlier, standings = standings, await self._standings()
            steady = standings.keys() - moved(standings, earlier)
            if len(steady) >= links or self._clock.monotonic() >= deadline:
                return {link: standings[link] for link in steady}

    async def _standings(self) -> dict[str, Standing]:
        links = await self._fleet.links()
        await self._watcher.look_at(links, "chaos")
        opened = await self._stage.control.sessions()
        return {
            link.id: (
                link.status.since,
                opened.get(self._fleet.members[link.id].account.account_id, 0),
            )
            for link in links
            if link.status.phase is Phase.LIVE
        }

    async def _stop(self, seconds: float) -> float:
        """Stop PostgreSQL and start it later; return for how long it was away."""
        postgres = self._stage.engines.postgres
        await postgres.stop()
        stopped_at = self._clock.monotonic()
        away_seconds = 0.0
        while away_seconds < seconds and not self._interrupts.stop.is_set():
            self._watcher.show_away("PostgreSQL stopped")
            self._not_ready_seen += not await is_ready(self._stage.api)
            self._memory_mb()
            await self._interrupts.wait(_TICK_SECONDS)
            away_seconds = self._clock.monotonic() - stopped_at
        await postgres.start()
        return round(away_seconds, 1)

    async def _come_back(self) -> None:
        """Wait until the daemon has its store again, and some seconds more."""
        deadline = self._clock.monotonic() + PATIENCE_SECONDS
        while not await is_ready(self._stage.api):
            if self._clock.monotonic() >= deadline:
                raise EngineFailed("the daemon does not find PostgreSQL again")
            await asyncio.sleep(_TICK_SECONDS)
        await asyncio.sleep(AFTER_SECONDS)

    def _memory_mb(self) -> float:
        """Read the daemon's memory and remember the most it ever held."""
        memory_mb = round(self._stage.daemon.resident_mb, 1)
        self._peak_mb = max(self._peak_mb, memory_mb)
        return memory_mb


def moved(standings: Mapping[str, Standing], others: Mapping[str, Standing]) -> set[str]:
    """Return those that do not stand as they stood at another time."""
    return {link for link, standing in standings.items() if others.get(link) != standing}
