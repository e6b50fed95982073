"""What consumers are told, where a reader of it stands, and which of it a reader wants.

The feed is ordered by (generation, transaction id, sequence). A reader stays below the oldest
transaction that still runs: what commits late is then never behind a cursor. Within an account
this is the order of `account_seq` too: whoever writes an account's head drops out and starts again
when another did so since its snapshot, and its transaction id is taken after that snapshot.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, assert_never

from brokerd.domain import AccountId, DealId, LinkId, Proof, UserId


class EventType(StrEnum):
    """What an event tells of."""

    DEAL_ADDED = "deal.added"  # a deal is in the ledger for the first time
    DEAL_REVISED = "deal.revised"  # the broker changed it, or one that was removed is back
    DEAL_REMOVED = "deal.removed"  # the broker removed it, and the balance proves that
    LINK_CHANGED = "link.changed"  # the link entered another phase
    LEDGER_PROVEN = "ledger.proven"  # the balance proof holds, and did not before
    LEDGER_MISMATCH = "ledger.mismatch"  # it fails, and did not before


def proof_event(proof: Proof) -> EventType | None:
    """Name the event that tells of a proof; Unknown is not told."""
    match proof:
        case Proof.PROVEN:
            return EventType.LEDGER_PROVEN
        case Proof.MISMATCH:
            return EventType.LEDGER_MISMATCH
        case Proof.UNKNOWN:
            return None
        case _:
            assert_never(proof)


@dataclass(frozen=True, slots=True, order=True)
class FeedCursor:
    """A place in the feed; whoever stands there has seen everything up to and including it."""

    generation: int
    xid: int
    seq: int


BEGINNING = FeedCursor(0, 0, 0)
"""Before everything that is kept; never too old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedEvent:
    """One event as it was written; `payload` is JSON text.

    `account_seq` counts an account's events without a gap; with `cursor.generation` before it, it
    orders them whatever happened to the database.
    """

    cursor: FeedCursor
    type: EventType
    account_id: AccountId
    account_seq: int
    link_id: LinkId
    user_id: UserId
    deal_id: DealId | None
    revision: int | None
    payload: str
    created_at: datetime


class Addressed(Protocol):
    """What readers choose an event by."""

    @property
    def type(self) -> EventType:
        """Say what it tells of."""

    @property
    def link_id(self) -> LinkId:
        """Return the link it tells of."""

    @property
    def user_id(self) -> UserId:
        """Return the user it belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedFilter:
    """Which events a reader wants; what is None, and no types at all, means any."""

    user_id: UserId | None = None
    link_id: LinkId | None = None
    types: frozenset[EventType] = field(default_factory=frozenset)

    def admits(self, event: Addressed) -> bool:
        """Say whether the reader wants this event."""
        return (
            self.user_id in {None, event.user_id}
            and self.link_id in {None, event.link_id}
            and (not self.types or event.type in self.types)
        )


EVERYTHING = FeedFilter()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPage:
    """Events in order. `through` is where to go on; not whole means that more is there already."""

    events: tuple[FeedEvent, ...]
    through: FeedCursor
    is_whole: bool
