"""Wake-up hints: tell every node that a spec changed, so that nobody waits for the next poll."""

from collections.abc import Callable
from typing import Protocol


class Hints(Protocol):
    """How what clients ask for is made known. Never raises; a lost hint costs one poll."""

    async def publish(self) -> None:
        """Wake every node that listens."""


class LocalHints:
    """Wakes this node alone; the others find out when they poll."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    async def publish(self) -> None:
        """Wake this node."""
        self._wake()
