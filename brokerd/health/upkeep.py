"""Forgets what links went through a month ago; any number of nodes may do so at once."""

import asyncio

import structlog

from brokerd.errors import StoreUnavailable
from brokerd.health.ports import Past

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

KEPT_DAYS = 31
"""A day more than the longest span of uptime."""
_PERIOD_SECONDS = 3_600.0
_BATCH = 5_000


class PastUpkeep:
    """A service that forgets in small batches, so that no statement of its own is long."""

    name = "past.upkeep"

    def __init__(self, past: Past) -> None:
        self._past = past

    async def run(self) -> None:
        """Forget what is old, hour by hour, until cancelled."""
        while True:
            try:
                forgotten = await self._past.forget(older_than_days=KEPT_DAYS, limit=_BATCH)
            except StoreUnavailable as failure:
                log.debug("past.upkeep_delayed", problem=str(failure))
                forgotten = 0
            if forgotten:
                log.info("past.forgotten", changes=forgotten)
            await asyncio.sleep(1.0 if forgotten == _BATCH else _PERIOD_SECONDS)
