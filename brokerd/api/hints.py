"""Wake-up hints: tell every node that a spec changed, so that nobody waits for the next poll."""

import asyncio
from typing import Protocol


class Hints(Protocol):
    """How specs that changed are made known. Never raises; a lost hint costs one poll."""

    async def publish(self) -> None:
        """Wake every node that listens."""


class LocalHints:
    """Wakes this node alone; the others find out when they poll."""

    def __init__(self, wake: asyncio.Event) -> None:
        self._wake = wake

    async def publish(self) -> None:
        """Wake this node."""
        self._wake.set()
