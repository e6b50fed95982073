"""The feed as server-sent events: one answer that goes on until its client leaves or falls behind.

A client that falls behind is cut off at the socket (`CUT`, which our listener offers): an answer
that is merely ended would wait for the same client to read its end.
"""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import structlog
from litestar.types import HTTPResponseBodyEvent, Receive, Scope, Send

from brokerd.api.bodies import RelistBody
from brokerd.api.cursor import event_cursor
from brokerd.api.feed import Feed
from brokerd.api.subscription import End, Subscription
from brokerd.api.told import Told, frame, keep_alive
from brokerd.errors import CursorLost, StoreUnavailable
from brokerd.ledger.feed import FeedCursor, FeedFilter
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CUT = "brokerd.cut"
"""The ASGI extension that closes a connection without waiting for its client."""

_PAGE = 500
_KEEP_ALIVE_SECONDS = 15.0
_SLOW_SECONDS = 10.0  # what a client may take to read what was sent, however little waits behind
_POLITE_SECONDS = 0.05  # between looks while the feed itself is only starting
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """One stream as an ASGI application."""

    def __init__(
        self,
        feed: Feed,
        *,
        wanted: FeedFilter,
        after: FeedCursor,
        metrics: Metrics,
    ) -> None:
        self._feed = feed
        self._wanted = wanted
        self._after = after
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the client leaves, the node stops, or the client is too slow."""
        cut = _cutter(scope)
        with self._feed.stream():
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._send(send, cut), name="events.send")
                leaving = group.create_task(_until_gone(receive), name="events.leave")
                await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
                sending.cancel()
                leaving.cancel()

    async def _send(self, send: Send, cut: Callable[[], None]) -> None:
        await _write(send, b"retry: 1000\n\n")
        try:
            while not self._feed.is_stopped:
                end = await self._follow(send, cut)
                if end is End.SLOW:
                    return  # without an end: there is nobody to read it
        except TimeoutError:
            self._metrics.sse_dropped.inc()
            cut()
            return
        except StoreUnavailable as failure:
            log.debug("api.stream_ended", problem=str(failure))  # its client comes back
        await _write(send, b"", is_last=True)

    async def _follow(self, send: Send, cut: Callable[[], None]) -> End | None:
        """Catch up, then send what comes, until there is a reason to do either again."""
        try:
            await self._catch_up(send)
        except CursorLost as lost:
            await self._relist(send, str(lost))
        with self._feed.subscribed(self._wanted, after=self._after, cut=cut) as subscription:
            if subscription is None:
                await asyncio.sleep(_POLITE_SECONDS)
                return None
            while subscription.end is None:
                await subscription.wait(_KEEP_ALIVE_SECONDS)
                await self._pass_on(subscription, send)
            if subscription.end is End.SLOW:
                self._metrics.sse_dropped.inc()
            if subscription.end is End.LOST:
                await self._relist(send, "the database went back to an older history")
            return subscription.end

    async def _pass_on(self, subscription: Subscription, send: Send) -> None:
        """Send what waits; if that is nothing, say that we live and how far we are."""
        items = subscription.take(_PAGE)
        through = self._feed.position
        subscription.is_blocked = True
        if items:
            await self._write_items(send, items)
        elif subscription.end is None:
            self._after = max(self._after, through)
            await _write(send, keep_alive(self._after))
        subscription.is_blocked = False

    async def _catch_up(self, send: Send) -> None:
        is_whole = False
        while not is_whole and not self._feed.is_stopped:
            page = await self._feed.page(self._after, wanted=self._wanted, limit=_PAGE)
            await self._write_items(send, page.items)
            self._after, is_whole = page.through, page.is_whole

    async def _write_items(self, send: Send, items: Sequence[Told]) -> None:
        if items:
            await _write(send, b"".join(each.frame for each in items))
            self._after = items[-1].cursor

    async def _relist(self, send: Send, reason: str) -> None:
        """Tell the client to list again; what happens from now on it gets from here."""
        self._after = await self._feed.end()
        event_id = event_cursor(self._after)
        body = msgspec.json.encode(RelistBody(reason=reason, next=event_id))
        await _write(send, frame(event_id, "relist", body))


async def _write(send: Send, body: bytes, *, is_last: bool = False) -> None:
    message: HTTPResponseBodyEvent = {
        "type": "http.response.body",
        "body": body,
        "more_body": not is_last,
    }
    async with asyncio.timeout(_SLOW_SECONDS):
        await send(message)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _cutter(scope: Scope) -> Callable[[], None]:
    offered = (scope.get("extensions") or {}).get(CUT)
    cut = offered.get("now") if isinstance(offered, dict) else None
    return cut if callable(cut) else lambda: None
