"""The feed over plain values: the same promises as `postgres_feed`."""

from brokerd.errors import CursorLost
from brokerd.ledger.feed import BEGINNING, EventType, FeedCursor, FeedEvent, FeedFilter, FeedPage
from brokerd.store.memory import EventRow, MemoryState

_GENERATION = 1


class MemoryFeedReader:
    """A `FeedReader` over a `MemoryState`, in which every event is its own transaction."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def page(self, after: FeedCursor, *, wanted: FeedFilter, limit: int) -> FeedPage:
        """Read the wanted events behind a cursor, as many as `limit`."""
        end = await self.end()
        if after > end:
            raise CursorLost("it comes from a history that this database no longer has")
        known = 0 if after == BEGINNING else after.xid - (after.seq == 0)
        found: list[FeedEvent] = []
        for number, row in enumerate(self._state.events[known:], start=known + 1):
            event = _event(row, number)
            if wanted.admits(event):
                found.append(event)
            if len(found) == limit:
                return FeedPage(events=tuple(found), through=event.cursor, is_whole=False)
        return FeedPage(events=tuple(found), through=end, is_whole=True)

    async def end(self) -> FeedCursor:
        """Return the place behind everything that can be read now."""
        return FeedCursor(_GENERATION, len(self._state.events) + 1, 0)


def _event(row: EventRow, number: int) -> FeedEvent:
    return FeedEvent(
        cursor=FeedCursor(_GENERATION, number, number),
        type=EventType(row.type),
        account_id=row.account_id,
        account_seq=row.account_seq,
        link_id=row.link_id,
        user_id=row.user_id,
        deal_id=row.deal_id,
        revision=row.revision,
        payload=row.payload,
        created_at=row.created_at,
    )
