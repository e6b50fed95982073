"""What waits for one subscriber: events it wants, in order, up to a number of bytes."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from enum import StrEnum

from brokerd.api.told import Told
from brokerd.ledger.feed import FeedCursor, FeedFilter


class End(StrEnum):
    """Why nothing more will come."""

    BEHIND = "behind"  # more came at once than may wait here: it must catch up
    SLOW = "slow"  # the same, while its client did not read
    LOST = "lost"  # the feed itself lost its place: list again
    STOPPED = "stopped"  # the node ends


class Subscription:
    """One subscriber's events behind `after`; filled by the feed, emptied by `take`."""

    def __init__(
        self, wanted: FeedFilter, *, after: FeedCursor, max_bytes: int, cut: Callable[[], None]
    ) -> None:
        """Know what is wanted; `cut` is called when its client turns out too slow."""
        self.wanted = wanted
        self.is_blocked = False  # its client does not read what was sent last
        self.end: End | None = None
        self._after = after
        self._max_bytes = max_bytes
        self._cut = cut
        self._waiting: deque[Told] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()

    def offer(self, told: Told) -> None:
        """Take what the feed tells, if it is wanted and new here."""
        if self.end or told.cursor <= self._after or not self.wanted.admits(told):
            return
        self._waiting.append(told)
        self._bytes += len(told.frame)
        self._changed.set()
        if self._bytes > self._max_bytes:
            self.finish(End.SLOW if self.is_blocked else End.BEHIND)
            self._waiting.clear()
            if self.is_blocked:
                self._cut()

    def finish(self, end: End) -> None:
        """Say that nothing more will come; what waits can still be taken."""
        self.end = self.end or end
        self._changed.set()

    async def wait(self, seconds: float) -> None:
        """Wait until something is to be taken, or has ended, or the time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def take(self, limit: int) -> Sequence[Told]:
        """Return what waits, oldest first."""
        taken = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        self._bytes -= sum(len(told.frame) for told in taken)
        if not self._waiting and self.end is None:
            self._changed.clear()
        return taken
