"""The census over plain values, and a pot in one process: the same promises as their adapters."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from brokerd.clock import Clock
from brokerd.connector.governor.buckets import Limit, slice_of
from brokerd.connector.governor.ports import Demand, Drawn
from brokerd.connector.governor.share import pot_wait_seconds
from brokerd.store.memory import MemoryState
from brokerd.store.place import named_id


class MemoryCensus:
    """`Census` over a `MemoryState`."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def live_nodes(self) -> int:
        """Count the nodes that are not closed and run links."""
        nodes = self._state.nodes.values()
        return sum(node.closed_at is None and node.max_links > 0 for node in nodes)

    async def demands(self) -> Sequence[Demand]:
        """Count the accounts that are neither stopped nor deleted."""
        groups = defaultdict[tuple[str, str], list[str | None]](list)
        for row in self._state.accounts.values():
            if row.deleted_at is None and row.spec.desired != "stopped":
                place = row.spec.metaapi
                groups[place.token, place.region].append(named_id(place) or row.created_id)
        return [
            Demand(
                token=token,
                region=region,
                wanted=len(ids),
                accounts=len([known for known in ids if known is not None]),
                example_account_id=min((known for known in ids if known is not None), default=None),
            )
            for (token, region), ids in sorted(groups.items())
        ]


@dataclass(slots=True)
class _Pot:
    since: float
    spent: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))


class MemoryPot:
    """`Pot` that the governors of one process share. `is_away` is a Redis that does not answer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pots: dict[tuple[str, float], _Pot] = {}
        self._probes: dict[str, float] = {}
        self.is_away = False

    def forget(self) -> None:
        """Lose everything, as a Redis that is flushed."""
        self._pots.clear()
        self._probes.clear()

    async def draw(self, name: str, *, limits: Sequence[Limit], cost: int) -> Drawn | None:
        """Draw the cost under all limits or under none."""
        if self.is_away:
            return None
        now = self._clock.monotonic()
        pots = {limit: self._pot(name, limit) for limit in limits}
        wait = max(
            pot_wait_seconds(pot.spent, since=pot.since, limit=limit, cost=cost, now=now)
            for limit, pot in pots.items()
        )
        slices = {limit.period_seconds: slice_of(now, limit=limit) for limit in limits}
        if wait == 0:
            for limit, pot in pots.items():
                pot.spent[slices[limit.period_seconds]] += cost
        return Drawn(name=name, wait_seconds=wait, slices=slices)

    async def give_back(self, drawn: Drawn, *, units: int) -> None:
        """Put back what was drawn and not used."""
        for period, number in drawn.slices.items():
            pot = self._pots.get((drawn.name, period))
            if pot is not None and not self.is_away:
                pot.spent[number] -= units

    async def take_probe(self, name: str, *, every_seconds: float) -> float | None:
        """Take the one probe of an interval."""
        if self.is_away:
            return None
        now = self._clock.monotonic()
        free_at = self._probes.get(name, now)
        if now >= free_at:
            self._probes[name] = now + every_seconds
        return max(0.0, free_at - now)

    async def forget_probe(self, name: str) -> None:
        """Let others probe at once."""
        if not self.is_away:
            self._probes.pop(name, None)

    def _pot(self, name: str, limit: Limit) -> _Pot:
        now = self._clock.monotonic()
        return self._pots.setdefault((name, limit.period_seconds), _Pot(since=now))
