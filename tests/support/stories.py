"""Stories of what happens to a few links at once, told on virtual time from one seed.

A story runs in an event loop of its own, from the same moment, and leaves a trace: every phase of
every link, every request, every session that was opened, and what the ledgers hold in the end. The
same seed leaves the same trace, byte for byte.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import looptime
from link_world import START, World

from brokerd.domain import Phase


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a story left behind; `lines` are in the order of their happening."""

    lines: Sequence[str]

    @property
    def text(self) -> bytes:
        """Return the trace as it is compared."""
        return "\n".join(self.lines).encode()

    def times(self, *words: str) -> list[float]:
        """Return when the lines were written that have all these words."""
        parts = [line.split() for line in self.lines]
        return [float(time) for time, *rest in parts if set(words) <= set(rest)]


@dataclass
class Town:
    """Some links, each to an account and a service of its own, and the trace of them all."""

    worlds: Sequence[World]
    lines: list[tuple[float, str]] = field(default_factory=list)

    def now(self) -> float:
        """Return the seconds since the story began."""
        return asyncio.get_running_loop().time()

    def listen(self) -> None:
        """Write down what each service is asked from now on."""
        for number, world in enumerate(self.worlds, 1):
            world.service.told = lambda what, number=number: self.write(number, what)

    def write(self, number: int, what: str) -> None:
        """Write a line of one link."""
        self.lines.append((self.now(), f"link-{number} {what}"))

    def everyone(self, act: Callable[[World], object]) -> None:
        """Do the same to every link's world."""
        for world in self.worlds:
            act(world)

    async def until_all(self, phase: Phase, *, within: float) -> float:
        """Wait until all links are in a phase; return the seconds."""
        began_at = self.now()
        while not all(world.phase is phase for world in self.worlds):
            waited = self.now() - began_at
            assert waited <= within, [world.status for world in self.worlds]
            await asyncio.sleep(0.5)
        return self.now() - began_at

    def trace(self) -> Trace:
        """Return all that happened, phases and ledgers included."""
        lines = list(self.lines)
        for number, world in enumerate(self.worlds, 1):
            for row in world.state.transitions:
                at = (row.at - START).total_seconds()
                lines.append((at, f"link-{number} phase {row.phase} {row.reason}"))
            held = sorted(world.ledger)
            lines.append((self.now(), f"link-{number} ledger {len(held)} {' '.join(held)}"))
        # stable: what happened at one moment stays in the order of links and of writing
        lines.sort(key=lambda line: round(line[0], 6))
        return Trace(lines=[f"{at:.6f} {what}" for at, what in lines])


Story = Callable[[Town], Awaitable[None]]


def tell(story: Story, *, seed: int, links: int, **options: object) -> Trace:
    """Run a story from its seed; its links must leave nothing open and nothing wrong."""

    async def run() -> Trace:
        worlds = [World(seed=seed * 1_000 + n * 10, **options) for n in range(links)]
        town = Town(worlds=worlds)
        town.listen()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(world.writer.run()) for world in worlds]
            tasks += [group.create_task(world.run()) for world in worlds]
            await story(town)
            trace = town.trace()
            for task in reversed(tasks):
                task.cancel()
        for world in worlds:
            world.assert_exact()
            assert world.service.open_sessions == 0
        return trace

    with asyncio.Runner(
        loop_factory=lambda: looptime.new_event_loop(start=0.0, noop_cycles=0)
    ) as runner:
        return runner.run(run())
