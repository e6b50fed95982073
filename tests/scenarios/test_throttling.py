"""MetaApi asks us to wait: requests do, streams go on."""

import asyncio

import pytest
from link_world import running_link

from brokerd.connector.ports import Gap
from brokerd.domain import Phase, UserAction
from brokerd.errors import RemoteUnavailable, Throttled

pytestmark = pytest.mark.looptime(noop_cycles=0)
FAILURES = [
    Throttled("429", retry_after_seconds=1_200.0),
    RemoteUnavailable("503", retry_after_seconds=1_200.0),
]


def gap(world):
    """Let the stream admit a loss."""
    [session] = world.service._sessions[world.account.metaapi_id]
    session._tell(Gap(reason="overflow"))


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_throttled_pull_waits_at_least_the_hint(failure):
    """No history is asked for before the hint passed, not even after a gap; deals flow on."""
    async with running_link() as world:
        await world.until_live()
        asked_at = world.service.history_asked_at
        asked_at.clear()
        world.service.history_failures = [failure]
        await world.until(lambda: len(asked_at) == 1, within=302)
        for _ in range(8):
            await asyncio.sleep(140)
            gap(world)
            made = world.trade()
            await asyncio.sleep(0.1)
            assert set(made) <= set(world.ledger)
        await world.until(lambda: len(asked_at) >= 2, within=1_000)
        assert asked_at[1] - asked_at[0] >= 1_200.0
        assert world.phases.count(Phase.LIVE) == 1
        world.assert_exact()


async def test_a_gap_is_pulled_at_once():
    """When the stream admits a loss, a short pull follows within a second and is counted."""
    async with running_link() as world:
        await world.until_live()
        await asyncio.sleep(1)
        lost = world.book(is_quiet=True)
        gap(world)
        await world.until(lambda: lost in world.ledger, within=1)
        assert world.sample("brokerd_stream_gaps_total", reason="overflow") == 1
        assert world.sample("brokerd_deals_found_by_pull_total") == 1
        await asyncio.sleep(1)
        assert world.status.proof_detail == f"{len(world.truth)} deals"


async def test_a_failed_pull_is_tried_again_soon():
    """A pull that failed without a hint is repeated in seconds, and not in a loop."""
    async with running_link() as world:
        await world.until_live()
        await asyncio.sleep(1)
        lost = world.book(is_quiet=True)
        world.service.history_failures = [RemoteUnavailable("500")] * 4
        gap(world)
        await world.until(lambda: lost in world.ledger, within=16)
        world.service.history_asked_at.clear()
        world.service.history_failures = [RemoteUnavailable("500")] * 10_000
        await asyncio.sleep(3_600)
        assert len(world.service.history_asked_at) < 60
        assert world.phase is Phase.LIVE


async def test_a_throttled_dial_waits_at_least_the_hint():
    """A 429 to the first request puts the whole attempt off, outside the slot when it is long."""
    async with running_link() as world:
        world.service.refusal = Throttled("429", retry_after_seconds=600.0)
        await world.until_phase(Phase.BACKOFF)
        assert world.status.reason == "Throttled"
        wait = world.status.next_attempt_at - world.clock.now()
        assert 599 < wait.total_seconds() < 602
        world.service.refusal = None
        assert await world.until_live(within=610) >= 599
        world.assert_exact()


async def test_a_hint_of_hours_is_shown_and_waited_for_without_a_slot():
    """Six hours are six hours: one attempt, a free slot, the time of the next one shown."""
    async with running_link() as world:
        world.service.refusal = Throttled("429", retry_after_seconds=21_600.0)
        await world.until_phase(Phase.BLOCKED)
        await asyncio.sleep(21_000)
        assert world.lease.owner is None
        assert len(world.claims) == 1
        assert world.status.next_attempt_at > world.clock.now()
        assert world.status.user_action is UserAction.NONE


async def test_a_throttled_sync_keeps_its_session():
    """A short hint during a sync is waited for where we are."""
    async with running_link() as world:
        world.service.history_failures = [Throttled("429", retry_after_seconds=30.0)]
        assert await world.until_live(within=40) >= 30
        assert len(world.service.opened) == 1
        assert world.service.history_asked_at[1] - world.service.history_asked_at[0] >= 30
