"""The feed as this process reads it: one reader of the store, and all subscribers behind it.

The newest events are kept here. A subscriber whose cursor lies among them is served from memory
alone; an older one first catches up page by page, few at a time, so that a thousand subscribers
who come back at once cost the store little.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from brokerd.api.ports import FeedReader
from brokerd.api.subscription import End, Subscription
from brokerd.api.told import Told, told
from brokerd.errors import CursorLost, StoreUnavailable, TooManyStreams
from brokerd.ledger.feed import BEGINNING, EVERYTHING, FeedCursor, FeedFilter
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_PAGE = 500
_RECENT_BYTES = 8_388_608
_PAUSE_SECONDS = 0.01  # between two looks, however often we are woken
_RETRY_SECONDS = 0.5
_CATCHING_UP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the feed may cost: streams at once, bytes behind each, seconds between looks."""

    max_streams: int
    buffer_bytes: int
    poll_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldPage:
    """Events in order; `through` is where to go on, not whole means that more is there already."""

    items: tuple[Told, ...]
    through: FeedCursor
    is_whole: bool


_Scope = tuple[str, str | None]


class Feed:
    """Reads the feed once for all subscribers; a service. `wake` says that something was told."""

    name = "feed"

    def __init__(
        self, reader: FeedReader, *, wake: asyncio.Event, limits: Limits, metrics: Metrics
    ) -> None:
        self._reader = reader
        self.wake = wake
        self._limits = limits
        self._metrics = metrics
        self._recent: list[Told] = []
        self._recent_bytes = 0
        self._floor = self._position = BEGINNING
        self._subscribers: dict[_Scope, set[Subscription]] = {}
        self._catching_up = asyncio.Semaphore(_CATCHING_UP)
        self._streams = 0
        self._is_store_lost = False
        self.is_stopped = False

    async def run(self) -> None:
        """Follow the feed for ever."""
        while True:
            self.wake.clear()
            try:
                is_whole = await self._look()
            except StoreUnavailable as failure:
                self._note_store(failure)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._note_store(None)
            await asyncio.sleep(_PAUSE_SECONDS)
            if is_whole:
                await self._rest()

    def stop(self) -> None:
        """End every subscription, now and from now on."""
        self.is_stopped = True
        self._finish_all(End.STOPPED)

    async def end(self) -> FeedCursor:
        """Return the place behind everything there is. Raises `StoreUnavailable`."""
        return await self._reader.end()

    async def page(self, after: FeedCursor, *, wanted: FeedFilter, limit: int) -> ToldPage:
        """Read the wanted events behind a cursor. Raises `StoreUnavailable` and `CursorLost`."""
        if self._floor <= after <= self._position != BEGINNING:
            return self._remembered(after, wanted, limit)
        async with self._catching_up:
            page = await self._reader.page(after, wanted=wanted, limit=limit)
        items = tuple(told(event) for event in page.events)
        return ToldPage(items=items, through=page.through, is_whole=page.is_whole)

    @contextmanager
    def subscribed(
        self, wanted: FeedFilter, *, after: FeedCursor, cut: Callable[[], None]
    ) -> Iterator[Subscription | None]:
        """Follow the feed behind a cursor; None when that must first be caught up with."""
        if after < self._floor or self._position == BEGINNING:
            yield None
            return
        subscription = Subscription(
            wanted, after=after, max_bytes=self._limits.buffer_bytes, cut=cut
        )
        for each in self._recent[bisect_right(self._recent, after, key=_cursor) :]:
            subscription.offer(each)
        if self.is_stopped:
            subscription.finish(End.STOPPED)
        peers = self._subscribers.setdefault(_scope(wanted), set())
        peers.add(subscription)
        try:
            yield subscription
        finally:
            peers.discard(subscription)
            if not peers:
                self._subscribers.pop(_scope(wanted), None)

    @property
    def position(self) -> FeedCursor:
        """Return the place through which subscribers have been told."""
        return self._position

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count an open stream. Raises `TooManyStreams`."""
        if self._streams >= self._limits.max_streams:
            raise TooManyStreams(f"{self._streams} event streams are open")
        self._streams += 1
        self._metrics.sse_clients.set(self._streams)
        try:
            yield
        finally:
            self._streams -= 1
            self._metrics.sse_clients.set(self._streams)

    async def _look(self) -> bool:
        """Read on and tell; say whether that was all there is."""
        if self._position == BEGINNING:
            self._floor = self._position = await self._reader.end()
        try:
            page = await self._reader.page(self._position, wanted=EVERYTHING, limit=_PAGE)
        except CursorLost:
            self._forget()
            return False
        for event in page.events:
            self._tell(told(event))
        self._metrics.feed_events.inc(len(page.events))
        self._position = page.through
        return page.is_whole

    def _tell(self, each: Told) -> None:
        self._recent.append(each)
        self._recent_bytes += len(each.frame)
        if self._recent_bytes > _RECENT_BYTES:
            self._trim()
        for scope in (("user", each.user_id), ("link", each.link_id), ("all", None)):
            for subscription in tuple(self._subscribers.get(scope, ())):
                subscription.offer(each)

    def _trim(self) -> None:
        """Forget the older half of what is kept."""
        middle = (len(self._recent) + 1) // 2
        self._floor = self._recent[middle - 1].cursor
        del self._recent[:middle]
        self._recent_bytes = sum(len(each.frame) for each in self._recent)

    def _forget(self) -> None:
        """Start anew: history was taken back, so every subscriber must list again."""
        self._recent.clear()
        self._recent_bytes = 0
        self._floor = self._position = BEGINNING
        self._finish_all(End.LOST)

    def _finish_all(self, end: End) -> None:
        for peers in self._subscribers.values():
            for subscription in peers:
                subscription.finish(end)

    def _remembered(self, after: FeedCursor, wanted: FeedFilter, limit: int) -> ToldPage:
        found: list[Told] = []
        for each in self._recent[bisect_right(self._recent, after, key=_cursor) :]:
            if wanted.admits(each):
                found.append(each)
            if len(found) == limit:
                return ToldPage(items=tuple(found), through=each.cursor, is_whole=False)
        return ToldPage(items=tuple(found), through=self._position, is_whole=True)

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(self._limits.poll_seconds):
                await self.wake.wait()
        except TimeoutError:
            pass

    def _note_store(self, failure: StoreUnavailable | None) -> None:
        is_lost = failure is not None
        if is_lost and not self._is_store_lost:
            log.warning("feed.store_lost", problem=str(failure))
        if self._is_store_lost and not is_lost:
            log.info("feed.store_recovered")
        self._is_store_lost = is_lost


def _cursor(each: Told) -> FeedCursor:
    return each.cursor


def _scope(wanted: FeedFilter) -> _Scope:
    """Say among whose events a subscriber's may be found."""
    if wanted.link_id is not None:
        return "link", wanted.link_id
    return ("all", None) if wanted.user_id is None else ("user", wanted.user_id)
