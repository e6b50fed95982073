"""The pot that all nodes draw from, in Redis: one hash for each window of each scope.

A hash holds what was drawn by slice, and the moment since which it counts. A draw adds to the slice
of now and reads the hash in one transaction; what Redis counts one after the other is what decides
who came too late, and who did takes its part back. Time is Redis's own: nodes whose clocks differ
must not count in different slices. No script is needed, and the rule itself stays in share.py.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import TypeVar

import redis.asyncio as redis
import structlog
from redis.exceptions import DataError

from brokerd.clock import Clock
from brokerd.connector.governor.buckets import Limit, slice_of
from brokerd.connector.governor.ports import Drawn
from brokerd.connector.governor.share import pot_wait_seconds
from brokerd.store.redis import BestEffort

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

KEPT_SLICES = 64
"""As many as a cost may look back over that is six times as large as its limit."""
KEPT_MS = 2 * 86_400_000
"""A pot nobody draws from for so long belongs to a token or region that is gone."""
_SINCE = b"since"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Hash:
    """What one window's hash held right after we added to it."""

    since: float
    spent: Mapping[int, float]


class RedisPot:
    """`Pot` over one Redis; `namespace` keeps fleets apart that share it."""

    def __init__(self, effort: BestEffort, *, namespace: str, clock: Clock) -> None:
        self._effort = effort
        self._prefix = f"brokerd:{namespace}:"
        self._clock = clock
        self._ahead: float | None = None  # Redis's time less our monotonic clock's
        self._is_away = False

    async def draw(self, name: str, *, limits: Sequence[Limit], cost: int) -> Drawn | None:
        """Draw the cost under all limits or under none; None when Redis is away."""
        return await self._call(lambda client: self._draw(client, name, limits, cost))

    async def give_back(self, drawn: Drawn, *, units: int) -> None:
        """Put back what was drawn and not used; lost when Redis is away."""
        await self._call(lambda client: self._add(client, drawn, -units))

    async def take_probe(self, name: str, *, every_seconds: float) -> float | None:
        """Take the fleet's one probe of an interval; None when Redis is away."""
        return await self._call(lambda client: self._take(client, name, every_seconds))

    async def forget_probe(self, name: str) -> None:
        """Let others probe at once."""
        await self._call(lambda client: client.delete(self._probe_key(name)))

    async def _draw(
        self, client: "redis.Redis", name: str, limits: Sequence[Limit], cost: int
    ) -> Drawn:
        if self._ahead is None:
            self._note_time(await client.time())
        assumed = self._now()
        slices = {limit.period_seconds: slice_of(assumed, limit=limit) for limit in limits}
        drawn = Drawn(name=name, wait_seconds=0.0, slices=slices)
        hashes = await self._add(client, drawn, cost)
        waits = [
            pot_wait_seconds(
                _without(found.spent, slices[limit.period_seconds], cost),
                since=found.since,
                limit=limit,
                cost=cost,
                now=self._now(),
            )
            for limit, found in zip(limits, hashes, strict=True)
        ]
        if max(waits) > 0:
            await self._add(client, drawn, -cost)
            return Drawn(name=name, wait_seconds=max(waits), slices={})
        return drawn

    async def _add(self, client: "redis.Redis", drawn: Drawn, units: int) -> Sequence[_Hash]:
        """Add to every window's slice and return what is in them then, in one transaction."""
        async with client.pipeline(transaction=True) as pipe:
            for period, number in drawn.slices.items():
                key = self._key(drawn.name, period)
                pipe.hsetnx(key, _SINCE.decode(), str(self._now()))
                pipe.hincrby(key, str(number), units)
                pipe.hgetall(key)
                pipe.pexpire(key, KEPT_MS)
            pipe.time()
            *answers, time = await pipe.execute()
        self._note_time(time)
        hashes = [_read(raw) for raw in answers[2::4]]
        for (period, number), found in zip(drawn.slices.items(), hashes, strict=True):
            stale = [str(slice_) for slice_ in found.spent if slice_ < number - KEPT_SLICES]
            if len(stale) >= KEPT_SLICES:
                await client.hdel(self._key(drawn.name, period), *stale)
        return hashes

    async def _take(self, client: "redis.Redis", name: str, every_seconds: float) -> float:
        key = self._probe_key(name)
        if await client.set(key, b"", nx=True, px=max(1, floor(every_seconds * 1000))):
            return 0.0
        return max(0.001, await client.pttl(key) / 1000)

    async def _call(self, command: Callable[["redis.Redis"], Awaitable[_T]]) -> _T | None:
        answer = await self._effort.call(command)
        is_away = answer is None
        if is_away and not self._is_away:
            log.warning("governor.pot_lost")
        elif self._is_away and not is_away:
            log.info("governor.pot_recovered")
        self._is_away = is_away
        return answer

    def _note_time(self, time: tuple[int, int]) -> None:
        seconds, micros = time
        self._ahead = seconds + micros / 1e6 - self._clock.monotonic()

    def _now(self) -> float:
        return self._clock.monotonic() + (self._ahead or 0.0)

    def _key(self, name: str, period_seconds: float) -> str:
        return f"{self._prefix}pot:{name}:{period_seconds:g}"

    def _probe_key(self, name: str) -> str:
        return f"{self._prefix}probe:{name}"


def _read(raw: Mapping[bytes, bytes]) -> _Hash:
    """Read a hash; one that was not written by us counts as a Redis that is away."""
    try:
        since = float(raw.get(_SINCE, b"inf"))
        spent = {int(n): float(units) for n, units in raw.items() if n != _SINCE}
    except ValueError:
        raise DataError("a pot holds what is no number") from None
    return _Hash(since=since, spent=spent)


def _without(spent: Mapping[int, float], number: int, cost: int) -> Mapping[int, float]:
    """Return what was drawn but for a cost; what was given back after a flush is not below 0."""
    return {n: max(0.0, units - (cost if n == number else 0)) for n, units in spent.items()}
