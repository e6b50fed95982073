"""What is kept of a link for a moment, so that many readers of one link cost one query.

A snapshot may be lost at any time and is never older than it may be: its age counts from before
its reading began. Whoever changes a link forgets its snapshot, and forgetting outlasts every
reading that began before it.
"""

from datetime import datetime
from typing import Protocol

import msgspec

from brokerd.api.bodies import LinkBody, QueueBody, StatusBody
from brokerd.domain import LinkId


class Snapshot(msgspec.Struct, kw_only=True):
    """A link as it was shown at `read_at`."""

    read_at: datetime
    body: LinkBody


class Snapshots(Protocol):
    """Where snapshots are kept. No method raises; without a store there are none."""

    async def read(self, link_id: LinkId) -> Snapshot | None:
        """Return what is kept, if it is young enough."""

    async def keep(self, link_id: LinkId, snapshot: Snapshot, *, age_seconds: float) -> None:
        """Keep a snapshot whose reading began `age_seconds` ago."""

    async def forget(self, link_id: LinkId) -> None:
        """Drop what is kept, and whatever a reading under way would keep."""


class NoSnapshots:
    """Keeps nothing: every reader asks Postgres."""

    async def read(self, link_id: LinkId) -> Snapshot | None:  # noqa: ARG002  # nothing is kept
        """Return nothing."""
        return None

    async def keep(self, link_id: LinkId, snapshot: Snapshot, *, age_seconds: float) -> None:
        """Keep nothing."""

    async def forget(self, link_id: LinkId) -> None:
        """Have nothing to forget."""


def aged(snapshot: Snapshot, now: datetime) -> LinkBody:
    """Return the body with what counts seconds moved on to now."""
    seconds = max(0.0, round((now - snapshot.read_at).total_seconds(), 3))
    status = snapshot.body.status
    lag = status.sync.lag_seconds
    sync = msgspec.structs.replace(
        status.sync, lag_seconds=None if lag is None else round(lag + seconds, 3)
    )
    moved: StatusBody = msgspec.structs.replace(
        status, sync=sync, queue=_aged_queue(status.queue, seconds)
    )
    return msgspec.structs.replace(snapshot.body, status=moved)


def _aged_queue(queue: QueueBody | None, seconds: float) -> QueueBody | None:
    if queue is None:
        return None
    return msgspec.structs.replace(
        queue,
        position_age_seconds=round(queue.position_age_seconds + seconds, 3),
        waiting_seconds=round(queue.waiting_seconds + seconds, 3),
    )
