"""The past is forgotten after a month, and a store that is away is waited for."""

import asyncio

import pytest

from brokerd.errors import StoreUnavailable
from brokerd.health.upkeep import KEPT_DAYS, PastUpkeep

pytestmark = pytest.mark.looptime(noop_cycles=0)


class Past:
    """A past of so many old changes, whose store fails first."""

    def __init__(self, changes):
        self.changes = changes
        self.asked = []

    async def forget(self, *, older_than_days, limit):
        """Forget as asked, or fail the first time."""
        self.asked.append((asyncio.get_running_loop().time(), older_than_days))
        if len(self.asked) == 1:
            raise StoreUnavailable("away")
        gone = min(limit, self.changes)
        self.changes -= gone
        return gone


async def test_old_changes_go_in_batches_hour_by_hour():
    """Twelve thousand go within seconds of the second look; then nothing for an hour."""
    past = Past(12_000)
    task = asyncio.create_task(PastUpkeep(past).run())
    await asyncio.sleep(3_700)
    assert past.changes == 0
    assert {days for _, days in past.asked} == {KEPT_DAYS}
    assert [at for at, _ in past.asked] == pytest.approx([0, 3_600, 3_601, 3_602], abs=1)
    task.cancel()
