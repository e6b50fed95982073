"""Has the node start afresh once it is past its budget, and tends the stream until then.

What the SDK keeps of each connection, and other leaks by nature, cannot be freed from outside; a
process that has made enough of them ends in order, and systemd starts the next one.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from random import Random

import structlog

from brokerd.clock import Clock
from brokerd.config.settings import HealthSettings
from brokerd.telemetry import RECYCLE_REASONS, Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the process uses now, or has used up."""

    connections_made: int
    tasks: int
    resident_bytes: int


def why_spent(usage: Usage, *, settings: HealthSettings) -> str | None:
    """Return which budget is spent; None while none is."""
    if usage.connections_made > settings.max_connections_made:
        return "connections"
    if usage.tasks > settings.max_tasks:
        return "tasks"
    if usage.resident_bytes > settings.max_resident_mb * _MEBIBYTE:
        return "memory"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecyclerPorts:
    """What the recycler needs from the rest of the node."""

    clock: Clock
    random: Random
    metrics: Metrics


class Recycler:
    """A service; it tends the stream, and calls `recycle` once a budget has stayed spent."""

    name = "recycler"

    def __init__(
        self,
        *,
        tend: Callable[[], Awaitable[None]],
        connections_made: Callable[[], int],
        recycle: Callable[[], None],
        ports: RecyclerPorts,
        settings: HealthSettings,
    ) -> None:
        self._tend = tend
        self._connections_made = connections_made
        self._recycle = recycle
        self._ports = ports
        self._settings = settings
        self._reason: str | None = None
        self._due_at = inf

    async def run(self) -> None:
        """Look every few seconds, until cancelled or the node is told to start afresh."""
        while self._ports.clock.monotonic() < self._due_at:
            await self._tend()
            await asyncio.sleep(LOOK_SECONDS)
            self._judge(self._usage())
        self._recycle()

    def _judge(self, usage: Usage) -> None:
        """Set, keep or take back the time at which the node ends."""
        reason, metrics = why_spent(usage, settings=self._settings), self._ports.metrics
        if reason == self._reason:
            return
        for each in RECYCLE_REASONS:
            metrics.recycle_wanted.labels(reason=each).set(each == reason)
        if reason is None:
            self._due_at = inf
        elif self._reason is None:
            spread_seconds = self._settings.recycle_spread_seconds
            delay_seconds = self._ports.random.uniform(0.0, spread_seconds)
            self._due_at = self._ports.clock.monotonic() + delay_seconds
            log.warning("app.recycle_wanted", reason=reason, delay_seconds=round(delay_seconds, 1))
        self._reason = reason

    def _usage(self) -> Usage:
        usage = Usage(
            connections_made=self._connections_made(),
            tasks=len(asyncio.all_tasks()),
            resident_bytes=_resident_bytes(),
        )
        self._ports.metrics.tasks.set(usage.tasks)
        self._ports.metrics.resident_bytes.set(usage.resident_bytes)
        return usage


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
