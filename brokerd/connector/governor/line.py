"""The line in front of one scope: first come, first served, out of the node's share or the pot."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf

from brokerd.clock import Clock
from brokerd.connector.governor.buckets import Budget, Charge, Limit
from brokerd.connector.governor.ports import Drawn, Pot, Sleep
from brokerd.connector.governor.scopes import Scope, ScopeKind
from brokerd.connector.governor.share import Division
from brokerd.errors import Held

SHORTEST_WAIT_SECONDS = 0.01
"""What is due this soon is as good as due; a shorter sleep may not move the clock at all."""
_IN_CREDITS = frozenset({ScopeKind.ACCOUNT, ScopeKind.USER, ScopeKind.SERVER})


@dataclass(frozen=True, slots=True, kw_only=True)
class LinePorts:
    """What every line needs: the clock, a way to wait, and the pot, if there is one."""

    clock: Clock
    sleep: Sleep
    pot: Pot | None


class Line:
    """Lets calls of one scope through as its budget allows, and none while it is held.

    After a 429 it lets one call through at a time until one succeeds: whatever the hint was worth,
    those who wait must not all find out at once.
    """

    def __init__(self, scope: Scope, *, divide: Callable[[], Division], ports: LinePorts) -> None:
        self.scope = scope
        self._divide = divide
        self._ports = ports
        self._head = asyncio.Lock()
        self._budget = Budget()
        self._held_until = -inf
        self._is_suspect = False
        self._under_way = 0
        self._left = asyncio.Event()
        self._cause = "credits" if scope.kind in _IN_CREDITS else "rate"

    def __repr__(self) -> str:
        held = self._held_until - self._ports.clock.monotonic()
        return f"<Line {self.scope}{f' held for {held:.0f} s' if held > 0 else ''}>"

    @property
    def is_idle(self) -> bool:
        """Say whether nothing would be lost if the line were made anew."""
        now = self._ports.clock.monotonic()
        is_free = not (self._head.locked() or self._under_way) and now >= self._held_until
        return is_free and self._budget.is_idle(limits=self._divide().own, now=now)

    def hold(self, seconds: float) -> None:
        """Let nobody through for so long: MetaApi asked for it."""
        self._held_until = max(self._held_until, self._ports.clock.monotonic() + seconds)
        self._is_suspect = True

    def relieve(self) -> None:
        """Note that a call was not throttled."""
        self._is_suspect = False

    def left_ratio(self, limit: Limit) -> float:
        """Return what is left of the node's share of a limit."""
        return self._budget.left_ratio(limit, now=self._ports.clock.monotonic())

    async def pass_(self, cost: int, *, deadline: float) -> "Taken":
        """Wait for the cost; raises `Held` when it is to be had only after the deadline."""
        patience = deadline - self._ports.clock.monotonic()
        try:
            async with asyncio.timeout(None if patience == inf else max(0.0, patience)):
                async with self._head:
                    return await self._wait(cost, deadline=deadline)
        except TimeoutError:
            raise self._refusal(max(1.0, patience), "the line is long", cause=self._cause) from None

    async def _wait(self, cost: int, *, deadline: float) -> "Taken":
        while True:
            if self._is_suspect and self._under_way:
                await self._left.wait()
                continue
            held = self._held_until - self._ports.clock.monotonic()
            taken = await self._try(cost) if held <= 0 else None
            if isinstance(taken, Taken):
                self._under_way += 1
                return taken
            seconds = held if taken is None else taken
            if self._ports.clock.monotonic() + seconds > deadline:
                if taken is None:
                    raise self._refusal(seconds, "MetaApi asked us to wait", cause="throttled")
                raise self._refusal(seconds, "its budget is spent", cause=self._cause)
            await self._ports.sleep(max(seconds, SHORTEST_WAIT_SECONDS))

    async def _try(self, cost: int) -> "Taken | float":
        """Take the cost, of our own share or of the pot; else return the seconds to wait."""
        division, pot = self._divide(), self._ports.pot
        fits = all(cost <= limit.units for limit in division.own)
        own = self._try_own(cost, division.own) if fits else inf
        if isinstance(own, Taken):
            return own
        drawn = None
        if pot is not None and division.common:
            drawn = await pot.draw(str(self.scope), limits=division.common, cost=cost)
        if drawn is None:
            return self._try_own(cost, division.own)
        if drawn.wait_seconds > 0:
            return min(own, drawn.wait_seconds)
        return Taken(line=self, units=cost, drawn=drawn)

    def _try_own(self, cost: int, limits: Sequence[Limit]) -> "Taken | float":
        now = self._ports.clock.monotonic()
        seconds = self._budget.wait_seconds(cost, limits=limits, now=now)
        if seconds > 0:
            return seconds
        return Taken(line=self, units=cost, charge=self._budget.take(cost, limits=limits, now=now))

    def _refusal(self, seconds: float, why: str, *, cause: str) -> Held:
        return Held(
            f"not sent: {self.scope} is held for {ceil(seconds)} s, {why}",
            retry_after_seconds=seconds,
            scope=str(self.scope),
            cause=cause,
        )

    async def settle(self, taken: "Taken", *, spent: int) -> None:
        """Note that a call is over, and take back what it did not use."""
        self._under_way -= 1
        self._left.set()
        self._left = asyncio.Event()
        units = taken.units - spent
        if units <= 0:
            return
        if taken.charge is not None:
            self._budget.give_back(taken.charge, units=units)
        elif taken.drawn is not None and self._ports.pot is not None:
            await self._ports.pot.give_back(taken.drawn, units=units)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a call took from a line: out of our own share or out of the pot."""

    line: Line
    units: int
    charge: Charge | None = None
    drawn: Drawn | None = None

    async def settle(self, spent: int) -> None:
        """Leave the line, and give back what was not spent."""
        await self.line.settle(self, spent=spent)
