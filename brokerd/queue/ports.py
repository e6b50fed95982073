"""What the pool needs of the queue: take, watch and count waiting links."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from brokerd.domain import Claim, Incarnation


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """How many links wait: `ready` may be claimed now, `in_backoff` not before their time.

    `errands` are links that are not wanted and that somebody must put away at MetaApi; they may be
    claimed now.
    """

    ready: int
    in_backoff: int
    oldest_seconds: float
    errands: int = 0


class Queue(Protocol):
    """The rows that are wanted and unowned, earliest deadline first.

    Every method raises `StoreUnavailable` when Postgres is away.
    """

    async def claim(
        self, incarnation: Incarnation, *, limit: int, errands: int = 0
    ) -> Sequence[Claim]:
        """Take up to `limit` waiting links, earliest deadline first; each claim raises the epoch.

        Up to so many errands come beside them, oldest first, even where no slot is free. Raises
        `Fenced` when this incarnation was closed.
        """

    async def changed(self, incarnation: Incarnation) -> Sequence[Claim]:
        """Return the links we own whose spec is newer than the generation their owner reported."""

    async def owned(self, incarnation: Incarnation) -> Sequence[Claim]:
        """Return all links we own: the truth after a claim whose outcome is unknown."""

    async def depth(self) -> QueueDepth:
        """Count what waits."""
