"""An event as it goes over the wire: encoded once, however many subscribers read it."""

from dataclasses import dataclass

import msgspec

from brokerd.api.bodies import EventBody
from brokerd.api.cursor import event_cursor
from brokerd.ledger.feed import FeedCursor, FeedEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An event, its JSON, and the frame that carries it in an event stream."""

    event: FeedEvent
    body: bytes
    frame: bytes

    @property
    def cursor(self) -> FeedCursor:
        """Return the event's place in the feed."""
        return self.event.cursor


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
    return Told(event=event, body=body, frame=frame(event_id, event.type, body))


def frame(event_id: str, event_type: str, body: bytes) -> bytes:
    """Write a frame of an event stream; JSON has no line breaks in it."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), event_type.encode(), body)


def keep_alive(through: FeedCursor) -> bytes:
    """Write a frame that tells no event, yet moves the client's Last-Event-ID along."""
    return b": keep-alive\nid: %s\n\n" % event_cursor(through).encode()
