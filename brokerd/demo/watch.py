"""Looks at the running demo: daemon, metrics and sandbox, put together for the view."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from brokerd.api.bodies import LinkBody
from brokerd.clock import Clock
from brokerd.demo.fleet import Fleet, Gauges
from brokerd.demo.stage import Stage
from brokerd.demo.view import Look, View
from brokerd.domain import Phase
from brokerd.sandbox.faults import FaultKind

_LOOK_SECONDS = 1.0
_LINKS_A_SECOND = 200
"""A large fleet is looked at less often: reading it costs the daemon that is being shown."""


class Watcher:
    """Looks no more often than it may; what it saw last stays readable."""

    def __init__(self, stage: Stage, *, fleet: Fleet, view: View, clock: Clock) -> None:
        self._stage = stage
        self._fleet = fleet
        self._view = view
        self._clock = clock
        self._pause_seconds = max(_LOOK_SECONDS, len(fleet.members) / _LINKS_A_SECOND)
        self._gauges: Gauges | None = None
        self._shown: Look | None = None
        self._looked_at = float("-inf")
        self.began_at = clock.monotonic()
        self.links: Collection[LinkBody] = ()
        self.injected: dict[FaultKind, int] = dict.fromkeys(FaultKind, 0)

    @property
    def elapsed_seconds(self) -> float:
        """Return the time since the watch began."""
        return self._clock.monotonic() - self.began_at

    @property
    def never_struck(self) -> frozenset[FaultKind]:
        """Return the kinds of faults that have not struck yet."""
        return frozenset(kind for kind, times in self.injected.items() if not times)

    def accounts_in(self, phase: Phase) -> list[str]:
        """Return the accounts whose links were in this phase."""
        return [
            link.spec.metaapi.account_id or link.id
            for link in self.links
            if link.status.phase is phase
        ]

    def count(self, phase: Phase) -> int:
        """Return how many links were in this phase."""
        return len(self.accounts_in(phase))

    @property
    def queue_positions(self) -> list[int]:
        """Return the positions that the waiting links were told."""
        return sorted(link.status.queue.position for link in self.links if link.status.queue)

    async def look(self, stage: str) -> None:
        """Look again if it is time; raises `EngineFailed` when a program has ended."""
        self._stage.check()
        if self._clock.monotonic() - self._looked_at >= self._pause_seconds:
            await self.look_at(await self._fleet.links(), stage)

    async def look_at(self, links: Collection[LinkBody], stage: str) -> None:
        """Show these links and all that goes with them."""
        self._stage.check()
        self.links = links
        self.injected = await self._stage.control.injected()
        earlier, self._gauges = self._gauges, await self._fleet.gauges()
        before, self._looked_at = self._looked_at, self._clock.monotonic()
        passed = self._looked_at - before
        self._shown = self._make_look(stage, earlier or self._gauges, self._gauges, passed)
        self._view.show(self._shown)

    def show_away(self, stage: str) -> None:
        """Show the links as last seen while they cannot be read, and that nothing is committed."""
        self._stage.check()
        if self._shown is not None:
            seconds = self.elapsed_seconds
            self._view.show(
                replace(
                    self._shown,
                    stage=stage,
                    elapsed_seconds=seconds,
                    deals_per_second=0.0,
                    latency_ms=None,
                )
            )

    def _make_look(self, stage: str, earlier: Gauges, now: Gauges, passed_seconds: float) -> Look:
        commits = now.commits - earlier.commits
        spent = now.commit_seconds - earlier.commit_seconds
        phases = Counter(link.status.phase for link in self.links)
        return Look(
            stage=stage,
            elapsed_seconds=self.elapsed_seconds,
            phases={phase: phases[phase] for phase in Phase if phases[phase]},
            deals=int(now.deals_inserted),
            deals_per_second=(now.deals_inserted - earlier.deals_inserted) / passed_seconds,
            latency_ms=1_000 * spent / commits if commits else None,
            by_stream=int(now.deals_by_stream),
            by_pull=int(now.deals_by_pull),
            faults=self.injected,
        )
