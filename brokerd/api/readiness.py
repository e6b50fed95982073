"""Whether this node may be sent work: the stage of its start, and a store that answers."""

import asyncio
from typing import Protocol

from brokerd.clock import Clock
from brokerd.errors import StoreUnavailable

_PING_AGE_SECONDS = 1.0
_PING_SECONDS = 1.0

READY = "ready"


class Store(Protocol):
    """What readiness asks of the store."""

    async def ping(self) -> None:
        """Give a sign of life; raises `StoreUnavailable`."""


class Readiness:
    """The stage of this process, told by the composition root: starting, ready or draining."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._stage = "starting"
        self._pinged_at: float | None = None
        self._is_reachable = False

    def enter(self, stage: str) -> None:
        """Note the stage; `READY` once the first plan was made."""
        self._stage = stage

    async def stage(self) -> str:
        """Return the present stage; `READY` only while the store answers."""
        if self._stage != READY:
            return self._stage
        return READY if await self._has_store() else "store_unavailable"

    async def _has_store(self) -> bool:
        """Ask at most once a second: probes need no key."""
        now = self._clock.monotonic()
        if self._pinged_at is None or now - self._pinged_at >= _PING_AGE_SECONDS:
            self._pinged_at = now
            try:
                async with asyncio.timeout(_PING_SECONDS):
                    await self._store.ping()
            except (StoreUnavailable, TimeoutError):
                self._is_reachable = False
            else:
                self._is_reachable = True
        return self._is_reachable
