"""Lets one through at a time, at a rate."""

import asyncio

from asyncio_throttle import Throttler


class Pace:
    """Turns at an even rate, first come, first served.

    A throttler polls every 10 ms for each who waits on it, so only the head of the line does. Its
    window is one turn wide: a window of a second would let a second's worth through at once.
    """

    def __init__(self, *, per_second: float) -> None:
        self._throttler = Throttler(rate_limit=1, period=1.0 / per_second)
        self._head = asyncio.Lock()

    async def turn(self) -> None:
        """Wait for the next turn; cancelling leaves the line."""
        async with self._head:
            await self._throttler.acquire()
