"""The bounded buffer between the SDK's event path, which may not wait, and the link."""

import asyncio
from collections import deque
from collections.abc import Sequence

from brokerd.connector.ports import BrokerStatus, DealSeen, Gap, StreamEvent
from brokerd.errors import BrokerdError


class EventBuffer:
    """Events in order; what does not fit is dropped and admitted with a `Gap`.

    Deals yield to what tells the session's state: a deal that finds the buffer full is dropped,
    a state event takes the place of the oldest event. Heartbeats that say the same are folded.
    """

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._events: deque[StreamEvent] = deque()
        self._gaps: dict[str, Gap] = {}
        self._failure: BrokerdError | None = None
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: StreamEvent) -> None:
        """Add an event; never waits, never fails."""
        if isinstance(event, BrokerStatus) and self._events and self._events[-1] == event:
            return
        if len(self._events) >= self._limit:
            self.put_gap("overflow")
            if isinstance(event, DealSeen):
                return
            self._events.popleft()
        self._events.append(event)
        self._news.set()

    def put_gap(self, reason: str) -> None:
        """Note a loss; equal reasons are told once per `take`, after the events."""
        self._gaps[reason] = Gap(reason=reason)
        self._news.set()

    def end(self, failure: BrokerdError) -> None:
        """Make every later `take` raise; what waits is still returned before. The first counts."""
        self._failure = self._failure or failure
        self._news.set()

    async def take(self) -> Sequence[StreamEvent]:
        """Wait for at least one event and return all. Safe to cancel: taking does not wait."""
        await self._news.wait()
        taken = (*self._events, *self._gaps.values())
        if not taken and self._failure is not None:
            raise self._failure
        self._events.clear()
        self._gaps.clear()
        if self._failure is None:
            self._news.clear()
        return taken
