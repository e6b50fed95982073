"""Tells systemd that work progresses, and measures how late the event loop runs."""

import asyncio
from collections.abc import Callable

import structlog

from brokerd.clock import Clock
from brokerd.health.notify import Notifier
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

BEAT_SECONDS = 1.0
STALL_LIMIT_SECONDS = 30.0
"""A pool loop that stands still for longer is not alive; then we fall silent."""


class Watchdog:
    """A service; `stalled_seconds` says since when the pool's loop has not come round."""

    name = "watchdog"

    def __init__(
        self,
        notifier: Notifier,
        *,
        stalled_seconds: Callable[[], float],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._notifier = notifier
        self._stalled_seconds = stalled_seconds
        self._clock = clock
        self._metrics = metrics
        self._is_stalled = False

    async def run(self) -> None:
        """Beat until cancelled."""
        period = min(BEAT_SECONDS, self._notifier.ping_seconds or BEAT_SECONDS)
        while True:
            due = self._clock.monotonic() + period
            await asyncio.sleep(period)
            self._metrics.loop_lag.observe(max(0.0, self._clock.monotonic() - due))
            self._judge(self._stalled_seconds())

    def _judge(self, stalled_seconds: float) -> None:
        is_stalled = stalled_seconds > STALL_LIMIT_SECONDS
        if is_stalled and not self._is_stalled:
            log.error("watchdog.stalled", stalled_seconds=round(stalled_seconds, 1))
        self._is_stalled = is_stalled
        if not is_stalled:
            self._notifier.alive()
