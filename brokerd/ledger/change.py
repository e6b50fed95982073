"""What one incoming deal does to the row the ledger holds: the rule both stores follow."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Change(StrEnum):
    """What happens to a deal's row; each but the last two is a revision and an event."""

    INSERTED = "inserted"
    REVISED = "revised"
    RESTORED = "restored"  # it had been removed, and the broker has it again
    REMOVED = "removed"
    REFRESHED = "refreshed"  # the same content, seen by a newer pull
    KEPT = "kept"  # nothing to learn from it


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What decides about a row that exists."""

    content_hash: int
    fetched_at: datetime | None
    is_removed: bool


def change_by_deal(held: Held | None, *, content_hash: int, fetched_at: datetime | None) -> Change:
    """Decide about a deal; `fetched_at` None is the stream, which may insert and nothing more.

    Pulls count in the order in which they began: a slow one never undoes a later one.
    """
    if held is None:
        return Change.INSERTED
    if not _is_newer(fetched_at, held.fetched_at):
        return Change.KEPT
    if held.is_removed:
        return Change.RESTORED
    return Change.REFRESHED if held.content_hash == content_hash else Change.REVISED


def change_by_removal(held: Held | None, *, fetched_at: datetime | None) -> Change:
    """Decide about a deal that a pull, begun at `fetched_at`, proved gone."""
    if held is None or held.is_removed or not _is_newer(fetched_at, held.fetched_at):
        return Change.KEPT
    return Change.REMOVED


def _is_newer(fetched_at: datetime | None, held_at: datetime | None) -> bool:
    return fetched_at is not None and (held_at is None or fetched_at > held_at)
