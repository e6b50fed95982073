"""When a node may trust its leases, and when it may declare another dead; on virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokerd.config.settings import PoolSettings
from brokerd.domain import Incarnation
from brokerd.errors import Fenced, StoreUnavailable
from brokerd.pool.heartbeat import Heartbeat
from brokerd.pool.memory_nodes import MemoryNodes
from brokerd.store.memory import MemoryState
from brokerd.telemetry import Metrics

pytestmark = pytest.mark.looptime(noop_cycles=0)
START = datetime(2026, 3, 2, tzinfo=UTC)
SETTINGS = PoolSettings()  # beats every 3 s, freezes after 10, holds for 900, leases of 15


class VirtualClock:
    """The loop's time; `suspended_seconds` passed on the boot clock alone."""

    def __init__(self) -> None:
        self.suspended_seconds = 0.0

    def now(self) -> datetime:
        """Return the wall clock."""
        return START + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()

    def boottime(self) -> float:
        """Return the loop's time and what the machine slept."""
        return self.monotonic() + self.suspended_seconds


class UnsteadyNodes(MemoryNodes):
    """A register that can be away, or slow to answer what it did."""

    is_away = False
    answer_seconds = 0.0

    async def heartbeat(self, incarnation: Incarnation) -> None:
        """Beat if the register can be reached, and answer late."""
        await self._cross()
        await super().heartbeat(incarnation)
        await asyncio.sleep(self.answer_seconds)

    async def bury(self, incarnation: Incarnation, *, silent_seconds: float) -> int:
        """Bury if the register can be reached."""
        await self._cross()
        return await super().bury(incarnation, silent_seconds=silent_seconds)

    async def _cross(self) -> None:
        if self.is_away:
            raise StoreUnavailable("away")


class Rig:
    """One node's heartbeat, its register and its clock."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.state = MemoryState(clock=self.clock)
        self.nodes = UnsteadyNodes(self.state)
        self.incarnation = Incarnation(0)
        self.heartbeat: Heartbeat

    async def start(self) -> None:
        """Register and make the heartbeat."""
        registered_at = self.clock.boottime()
        self.incarnation = await self.nodes.register("a", max_links=1)
        self.heartbeat = Heartbeat(
            self.incarnation,
            nodes=self.nodes,
            settings=SETTINGS,
            clock=self.clock,
            registered_at=registered_at,
        )


@asynccontextmanager
async def beating() -> AsyncIterator[Rig]:
    """Run a heartbeat."""
    rig = Rig()
    await rig.start()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rig.heartbeat.run())
        yield rig
        task.cancel()


async def test_a_node_that_is_heard_is_not_frozen() -> None:
    """A night of confirmed beats: never frozen, the register up to date."""
    async with beating() as rig:
        for _ in range(600):
            await asyncio.sleep(60)
            assert not rig.heartbeat.is_frozen
            silent = rig.clock.now() - rig.state.nodes[rig.incarnation].heartbeat_at
            assert silent <= timedelta(seconds=3)


async def test_silence_freezes_before_others_may_bury_us_and_gives_up_after_the_hold() -> None:
    """Frozen 10 s after the last confirmed beat was sent; sessions go after 900 s more."""
    async with beating() as rig:
        await asyncio.sleep(30.5)  # the last beat was sent at 30
        rig.nodes.is_away = True
        await asyncio.sleep(9.4)
        assert not rig.heartbeat.is_frozen
        await asyncio.sleep(0.2)
        assert rig.heartbeat.is_frozen
        await asyncio.sleep(899.8)
        assert not rig.heartbeat.is_given_up
        await asyncio.sleep(0.2)
        assert rig.heartbeat.is_given_up
        rig.nodes.is_away = False
        await asyncio.sleep(3)
        assert not rig.heartbeat.is_frozen


async def test_the_age_counts_from_when_a_beat_was_sent() -> None:
    """An answer that took six seconds confirms that we lived six seconds ago."""
    async with beating() as rig:
        rig.nodes.answer_seconds = 6.0
        await asyncio.sleep(12.5)  # sent at 0 and 6, answered at 6 and 12
        assert rig.heartbeat.age_seconds == pytest.approx(6.5)


async def test_an_answer_later_than_the_freeze_confirms_nothing() -> None:
    """A register that does not answer is given up on, and asked again."""
    async with beating() as rig:
        await asyncio.sleep(1)
        rig.nodes.answer_seconds = 3600.0
        await asyncio.sleep(60)
        assert rig.heartbeat.is_frozen
        rig.nodes.answer_seconds = 0.0
        await asyncio.sleep(14)
        assert not rig.heartbeat.is_frozen


async def test_time_that_passed_in_suspend_counts() -> None:
    """A laptop's lid, or a stopped virtual machine: the loop's clock did not see it."""
    async with beating() as rig:
        await asyncio.sleep(31)
        rig.clock.suspended_seconds = 60
        assert rig.heartbeat.is_frozen
        await asyncio.sleep(3)
        assert not rig.heartbeat.is_frozen


async def test_a_heartbeat_that_finds_us_closed_ends_the_service() -> None:
    """Somebody buried us: `Fenced` ends the process."""
    rig = Rig()
    await rig.start()
    await rig.nodes.retire(rig.incarnation)
    with pytest.RaisesGroup(Fenced):
        await rig.heartbeat.run()


async def test_a_silent_node_is_buried_within_a_lease_and_two_beats() -> None:
    """After its lease has run out, and not before."""
    async with beating() as rig:
        await asyncio.sleep(60.5)
        other = await rig.nodes.register("b", max_links=1)
        await asyncio.sleep(15)
        assert rig.state.nodes[other].closed_at is None
        await asyncio.sleep(6)
        assert rig.state.nodes[other].closed_at is not None


async def test_who_was_cut_off_buries_nobody_before_a_lease_of_its_own_beats() -> None:
    """Postgres was away for all: the first to be heard again must not bury the rest."""
    async with beating() as rig:
        other = await rig.nodes.register("b", max_links=1)
        rig.nodes.is_away = True
        await asyncio.sleep(300)
        rig.nodes.is_away = False
        await asyncio.sleep(14)
        assert not rig.heartbeat.is_frozen
        assert rig.state.nodes[other].closed_at is None
        await asyncio.sleep(10)
        assert rig.state.nodes[other].closed_at is not None


async def test_a_young_node_buries_nobody() -> None:
    """It has not yet been heard for a lease time itself."""
    rig = Rig()
    await rig.start()
    other = await rig.nodes.register("b", max_links=1)
    rig.state.nodes[other] = replace(rig.state.nodes[other], heartbeat_at=START - timedelta(days=1))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rig.heartbeat.run())
        await asyncio.sleep(14)
        assert rig.state.nodes[other].closed_at is None
        await asyncio.sleep(7)
        assert rig.state.nodes[other].closed_at is not None
        task.cancel()


async def test_only_changes_are_logged() -> None:
    """One warning for an outage of any length, one line when it is over."""
    with capture_logs() as logs:
        async with beating() as rig:
            await asyncio.sleep(10)
            rig.nodes.is_away = True
            await asyncio.sleep(300)
            rig.nodes.is_away = False
            await asyncio.sleep(10)
    events = [log["event"] for log in logs if log["log_level"] != "debug"]
    assert events == ["heartbeat.missed", "heartbeat.recovered"]


async def test_a_scrape_reads_the_age_as_it_is_then() -> None:
    """The gauge does not wait for the next beat."""
    registry = CollectorRegistry()
    async with beating() as rig:
        rig.heartbeat.show(Metrics(registry))
        await asyncio.sleep(31)
        assert registry.get_sample_value("brokerd_node_heartbeat_age_seconds") == pytest.approx(1)
