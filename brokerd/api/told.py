"""An event as it goes over the wire: encoded once, however many subscribers read it."""

from dataclasses import dataclass

import msgspec

from brokerd.api.bodies import EventBody
from brokerd.api.cursor import event_cursor
from brokerd.domain import LinkId, UserId
from brokerd.ledger.feed import EventType, FeedCursor, FeedEvent

_DATA = b"\ndata: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An event as the frame that carries it, and what subscribers choose it by.

    Thousands are kept, so each is kept once: its JSON is cut out of its frame.
    """

    cursor: FeedCursor
    type: EventType
    link_id: LinkId
    user_id: UserId
    frame: bytes

    @property
    def body(self) -> bytes:
        """Return the event's JSON."""
        return self.frame.rpartition(_DATA)[2].rstrip()


def told(event: FeedEvent) -> Told:
    """Encode an event."""
    event_id = event_cursor(event.cursor)
    body = msgspec.json.encode(
        EventBody(
            id=event_id,
            type=event.type,
            link_id=event.link_id,
            user_id=event.user_id,
            generation=event.cursor.generation,
            account_seq=event.account_seq,
            deal_id=event.deal_id,
            revision=event.revision,
            at=event.created_at,
            payload=msgspec.Raw(event.payload.encode()),
        )
    )
    return Told(
        cursor=event.cursor,
        type=event.type,
        link_id=event.link_id,
        user_id=event.user_id,
        frame=frame(event_id, event.type, body),
    )


def frame(event_id: str, event_type: str, body: bytes) -> bytes:
    """Write a frame of an event stream; JSON has no line breaks in it."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), event_type.encode(), body)


def keep_alive(through: FeedCursor) -> bytes:
    """Write a frame that tells no event, yet moves the client's Last-Event-ID along."""
    return b": keep-alive\nid: %s\n\n" % event_cursor(through).encode()
