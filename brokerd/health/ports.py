"""What health needs to know of a link's past."""

from collections.abc import Sequence
from typing import Protocol

from brokerd.domain import LinkId
from brokerd.health.uptime import Entered


class Past(Protocol):
    """What links went through. All methods raise `StoreUnavailable`."""

    async def of(self, link_id: LinkId, *, limit: int) -> Sequence[Entered]:
        """Return the newest changes of phase, the oldest of them first; none for no such link."""

    async def forget(self, *, older_than_days: int, limit: int) -> int:
        """Forget up to `limit` old changes, never a link's newest one; return how many."""
