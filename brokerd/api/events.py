"""The feed over HTTP: pages, long polls and event streams at one address."""

from dataclasses import dataclass

import msgspec
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from brokerd.api.bodies import EventsBody
from brokerd.api.cursor import event_cursor
from brokerd.api.event_stream import EventStream
from brokerd.api.feed import Feed, ToldPage
from brokerd.api.links import ApiRequest
from brokerd.api.query import EVENT_PARAMETERS, EventQuery, Query, event_query
from brokerd.ledger.feed import FeedCursor
from brokerd.telemetry import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRoutes:
    """The handler of /v1/events."""

    feed: Feed
    metrics: Metrics

    async def events(self, request: ApiRequest) -> ASGIApp:
        """Show what happened behind a cursor; wait for it, or stream it, if so asked."""
        query = Query(request.scope["query_string"], known=EVENT_PARAMETERS)
        asked = event_query(query, last_event_id=request.headers.get("last-event-id"))
        after = await self.feed.end() if asked.after is None else asked.after
        if "text/event-stream" in request.headers.get("accept", ""):
            return EventStream(self.feed, wanted=asked.wanted, after=after, metrics=self.metrics)
        page = await self._page(asked, after)
        body = EventsBody(
            items=[msgspec.Raw(each.body) for each in page.items], next=event_cursor(page.through)
        )
        return ASGIResponse(
            body=msgspec.json.encode(body),
            media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    async def _page(self, asked: EventQuery, after: FeedCursor) -> ToldPage:
        """Return what there is; if that is nothing, what comes before the wait is over."""
        page = await self.feed.page(after, wanted=asked.wanted, limit=asked.limit)
        if page.items or not page.is_whole or not asked.wait_seconds:
            return page
        with (
            self.feed.stream(),
            self.feed.subscribed(asked.wanted, after=page.through, cut=_nothing) as subscription,
        ):
            if subscription is None:
                return page
            await subscription.wait(asked.wait_seconds)
            items = tuple(subscription.take(asked.limit))
        if not items:
            return page
        return ToldPage(items=items, through=items[-1].cursor, is_whole=False)


def _nothing() -> None:
    """Cut nobody off: a page that is too long is shortened."""
