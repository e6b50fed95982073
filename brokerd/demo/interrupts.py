"""What SIGINT and SIGTERM do to a demo."""

import asyncio
from collections.abc import Callable


class Interrupts:
    """SIGINT and SIGTERM: they end a run in order, and anything else (or a second time) at once.

    `cancel` ends it at once.
    """

    def __init__(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel
        self.stop = asyncio.Event()
        self.is_running = False

    def told(self) -> None:
        """Take a signal."""
        if self.is_running and not self.stop.is_set():
            self.stop.set()
        else:
            self._cancel()

    async def wait(self, seconds: float) -> None:
        """Sleep, less when told to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self.stop.wait()
        except TimeoutError:
            pass
