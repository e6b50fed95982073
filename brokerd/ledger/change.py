"""What one incoming deal does to the row the ledger holds: the rule both stores follow."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Change(StrEnum):
    """What happens to a deal's row; each but the last writes the row and an event."""

    INSERTED = "inserted"
    REVISED = "revised"
    RESTORED = "restored"  # it had been removed, and the broker has it again
    REMOVED = "removed"
    KEPT = "kept"  # nothing to learn from it


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What decides about a row that exists."""

    content_hash: int
    is_removed: bool


def may_change(*, fetched_at: datetime | None, pulled_at: datetime | None) -> bool:
    """Say whether a write may revise, restore and remove: the stream and a slow pull may not.

    Pulls of an account count in the order in which they began. `pulled_at` is the latest
    beginning among those written so far, so a pull never undoes what a later one said; what it
    was too late for, the next one brings. One mark per account, not one per deal: the rolling
    pull reads the same deals again and again, and must not rewrite their rows.
    """
    return fetched_at is not None and (pulled_at is None or fetched_at >= pulled_at)


def change_by_deal(held: Held | None, *, content_hash: int, may_change: bool) -> Change:
    """Decide about a deal that was seen."""
    if held is None:
        return Change.INSERTED
    if not may_change:
        return Change.KEPT
    if held.is_removed:
        return Change.RESTORED
    return Change.KEPT if held.content_hash == content_hash else Change.REVISED


def change_by_removal(held: Held | None, *, may_change: bool) -> Change:
    """Decide about a deal that was proved gone."""
    if held is None or held.is_removed or not may_change:
        return Change.KEPT
    return Change.REMOVED
