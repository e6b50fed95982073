"""Lets one through at a time, at a rate."""

import asyncio

from asyncio_throttle import Throttler


class Pace:
    """Turns at a rate, first come, first served, at most `burst` of them at once.

    A throttler polls every 10 ms for each who waits on it, so only the head of the line does. It
    reads the real clock: nothing on virtual time may wait for it.
    """

    def __init__(self, *, per_second: float, burst: int = 1) -> None:
        self._throttler = Throttler(rate_limit=burst, period=burst / per_second)
        self._head = asyncio.Lock()

    async def turn(self) -> None:
        """Wait for the next turn; cancelling leaves the line."""
        async with self._head:
            await self._throttler.acquire()
