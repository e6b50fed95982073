"""What links went through is told the same from memory and from Postgres."""

from datetime import UTC, datetime, timedelta

import pytest

from brokerd.domain import LinkId, LinkStatus, Phase
from brokerd.health.memory_past import MemoryPast
from brokerd.health.postgres_past import PostgresPast

NOW = datetime.now(UTC)


@pytest.fixture
def past(fleet):
    """Give the past over the fleet's own rows."""
    if hasattr(fleet, "state"):
        return MemoryPast(fleet.state)
    return PostgresPast(fleet.database)


class Reporting:
    """A claimed link that reports phases."""

    def __init__(self, fleet, claim):
        self.link_id = claim.link_id
        self._fleet = fleet
        self._claim = claim

    async def enter(self, phase, reason, *, days_ago):
        """Report a phase as entered so many days ago."""
        status = LinkStatus(
            phase=phase,
            reason=reason,
            message="",
            observed_generation=1,
            since=NOW - timedelta(days=days_ago),
        )
        await self._fleet.leases.report(self._claim.fence, status)


@pytest.fixture
async def links(fleet, add):
    """Give two links of one node."""
    for _ in range(2):
        await add()
    incarnation = await fleet.nodes.register("node", max_links=2)
    claims = await fleet.queue.claim(incarnation, limit=2)
    return [Reporting(fleet, claim) for claim in claims]


async def told(past, link, *, limit=100):
    """Return the reasons that are known of a link."""
    return [each.reason for each in await past.of(link.link_id, limit=limit)]


async def test_the_newest_changes_oldest_first(links, past):
    """In the order of time, each with its phase, and only the link's own."""
    one, two = links
    await one.enter(Phase.CLAIMED, "A", days_ago=3)
    await two.enter(Phase.CLAIMED, "X", days_ago=2.5)
    await one.enter(Phase.LIVE, "B", days_ago=2)
    await one.enter(Phase.BACKOFF, "C", days_ago=1)
    assert await told(past, one) == ["A", "B", "C"]
    assert await told(past, one, limit=2) == ["B", "C"]
    assert await past.of(LinkId("nobody"), limit=9) == []
    (entered,) = await past.of(one.link_id, limit=1)
    assert (entered.phase, entered.at) == (Phase.BACKOFF, NOW - timedelta(days=1))


async def test_what_is_old_is_forgotten_but_the_newest(links, past):
    """A link that has been live for months is still known to be live."""
    one, two = links
    await one.enter(Phase.CLAIMED, "A", days_ago=90)
    await one.enter(Phase.LIVE, "B", days_ago=80)
    await two.enter(Phase.CLAIMED, "X", days_ago=40)
    await two.enter(Phase.LIVE, "Y", days_ago=35)
    await two.enter(Phase.BACKOFF, "Z", days_ago=2)
    assert await past.forget(older_than_days=31, limit=1) == 1
    assert await past.forget(older_than_days=31, limit=100) == 2
    assert await past.forget(older_than_days=31, limit=100) == 0
    assert (await told(past, one), await told(past, two)) == (["B"], ["Z"])
