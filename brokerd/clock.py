"""The only module that asks for the time."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the rest of brokerd knows of time."""

    def now(self) -> datetime:
        """Return the wall clock, aware and in UTC; for storing, never for measuring."""

    def monotonic(self) -> float:
        """Return the event loop's clock in seconds; for measuring and for deadlines."""

    def boottime(self) -> float:
        """Return seconds on a clock that also runs while the machine is suspended."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Return the wall clock, aware and in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the running event loop's clock in seconds."""
        return asyncio.get_running_loop().time()

    def boottime(self) -> float:
        """Return CLOCK_BOOTTIME in seconds: unlike the loop's clock it counts suspended time."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
