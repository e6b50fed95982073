"""A link's own reports, made known at once: what is reported is forgotten as a snapshot."""

from brokerd.api.snapshots import Snapshots
from brokerd.connector.ports import LeaseHandle
from brokerd.domain import Backoff, Fence, LinkId, LinkStatus


class ForgettingLeases:
    """A `LeaseHandle` of one link that forgets the link's snapshot after what readers may see."""

    def __init__(self, leases: LeaseHandle, *, link_id: LinkId, snapshots: Snapshots) -> None:
        self._leases = leases
        self._link_id = link_id
        self._snapshots = snapshots

    async def report(self, fence: Fence, status: LinkStatus) -> None:
        """Store the link's status."""
        await self._leases.report(fence, status)
        await self._snapshots.forget(self._link_id)

    async def release(self, fence: Fence, *, backoff: Backoff, delay_seconds: float) -> None:
        """Give the slot back."""
        await self._leases.release(fence, backoff=backoff, delay_seconds=delay_seconds)
        await self._snapshots.forget(self._link_id)

    async def finish(self, fence: Fence, *, generation: int) -> None:
        """Give the lease back: an errand is done."""
        await self._leases.finish(fence, generation=generation)
        await self._snapshots.forget(self._link_id)

    async def save_backoff(self, fence: Fence, backoff: Backoff) -> None:
        """Store the backoff; no reader sees it."""
        await self._leases.save_backoff(fence, backoff)

    async def record_modes(self, fence: Fence, *, margin_mode: str, trade_mode: str) -> bool:
        """Store the account's modes; no reader sees them."""
        return await self._leases.record_modes(
            fence, margin_mode=margin_mode, trade_mode=trade_mode
        )
