"""Where reads go that may be a moment old: to a replica while it answers, else to the primary."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from brokerd.clock import Clock
from brokerd.errors import StoreUnavailable
from brokerd.telemetry import Metrics

LAG_HEADER = "X-Replica-Lag-Seconds"
REST_SECONDS = 5.0
"""How long a replica that failed is left alone: one read in so long pays for finding out."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Generic[T]):
    """What was read, and how old it may be; `lag_seconds` is None when the primary answered."""

    value: T
    lag_seconds: float | None

    @property
    def headers(self) -> dict[str, str]:
        """Return the header that tells a client of the age."""
        return {} if self.lag_seconds is None else {LAG_HEADER: f"{self.lag_seconds:.3f}"}


class Replica:
    """One replica as the reads of this process find it; `lag` asks it how far behind it is."""

    def __init__(
        self, lag: Callable[[], Awaitable[float]], *, clock: Clock, metrics: Metrics
    ) -> None:
        self._lag = lag
        self._clock = clock
        self._metrics = metrics
        self._is_lost = False
        self._rests_until = -math.inf

    async def attempt(self, read: Callable[[], Awaitable[T]]) -> Answered[T] | None:
        """Read from the replica, or return None when that must be done elsewhere."""
        if self._clock.monotonic() >= self._rests_until:
            try:
                lag_seconds = await self._measure()  # first: what is read then is no older
                return Answered(value=await read(), lag_seconds=lag_seconds)
            except StoreUnavailable as error:
                self._lose(error)
        self._metrics.replica_fallbacks.inc()
        return None

    async def refresh(self) -> None:
        """Measure the lag for the metric, also while nobody reads."""
        if self._clock.monotonic() >= self._rests_until:
            try:
                await self._measure()
            except StoreUnavailable as error:
                self._lose(error)

    async def _measure(self) -> float:
        lag_seconds = await self._lag()
        self._metrics.replica_lag.set(lag_seconds)
        if self._is_lost:
            self._is_lost = False
            log.info("replica.recovered", lag_seconds=lag_seconds)
        return lag_seconds

    def _lose(self, error: StoreUnavailable) -> None:
        self._rests_until = self._clock.monotonic() + REST_SECONDS
        self._metrics.replica_lag.set(math.nan)
        level = log.debug if self._is_lost else log.warning
        level("replica.lost", problem=str(error))
        self._is_lost = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Generic[R]):
    """A reader of a replica."""

    reader: R
    replica: Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads(Generic[R]):
    """One kind of reader, of the primary and perhaps of a replica."""

    primary: R
    copy: Copy[R] | None = None

    async def read(self, ask: Callable[[R], Awaitable[T]]) -> Answered[T]:
        """Ask the replica, and the primary if need be; raises what the primary raises."""
        copy = self.copy
        if copy is not None:
            answered = await copy.replica.attempt(lambda: ask(copy.reader))
            if answered is not None:
                return answered
        return Answered(value=await ask(self.primary), lag_seconds=None)
