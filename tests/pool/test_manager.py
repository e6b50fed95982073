"""The pool fills its slots, keeps its bounds and survives its links; on virtual time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokerd.config.settings import LinkSettings, PoolSettings
from brokerd.domain import (
    AccountId,
    Backoff,
    Claim,
    Desired,
    Fence,
    Identity,
    Incarnation,
    LinkId,
    LinkSpec,
    LinkStatus,
    MetaApiRef,
    Phase,
    Platform,
    Priority,
    UserId,
)
from brokerd.errors import Fenced, StoreUnavailable
from brokerd.pool.heartbeat import Heartbeat
from brokerd.pool.manager import MAX_ERRANDS, Manager
from brokerd.pool.memory_leases import MemoryLeases
from brokerd.pool.memory_nodes import MemoryNodes
from brokerd.pool.slots import SlotPorts
from brokerd.queue.memory import MemoryQueue
from brokerd.queue.ports import QueueDepth
from brokerd.store.memory import AccountRow, LeaseRow, MemoryState
from brokerd.telemetry import Metrics

pytestmark = pytest.mark.looptime(noop_cycles=0)
START = datetime(2026, 3, 2, tzinfo=UTC)
PATIENCE = {Priority.HIGH: 5.0, Priority.NORMAL: 60.0, Priority.LOW: 600.0}


class VirtualClock:
    """The loop's time."""

    def now(self) -> datetime:
        """Return the wall clock."""
        return START + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()

    def boottime(self) -> float:
        """Return the loop's time."""
        return self.monotonic()


@dataclass
class Wire:
    """A node's way to the store: it can be cut, lose answers, or be slow."""

    is_cut: bool = False
    loses_answers: bool = False
    answer_seconds: float = 0.0

    def send(self) -> None:
        """Reach the store, or not."""
        if self.is_cut:
            raise StoreUnavailable("cut")

    async def receive(self) -> None:
        """Hear from the store, or not."""
        await asyncio.sleep(self.answer_seconds)
        if self.loses_answers:
            raise StoreUnavailable("answer lost")


class WiredQueue(MemoryQueue):
    """The queue at the other end of a wire."""

    def __init__(self, state: MemoryState, wire: Wire) -> None:
        super().__init__(state)
        self.wire = wire

    async def claim(
        self, incarnation: Incarnation, *, limit: int, errands: int = 0
    ) -> Sequence[Claim]:
        """Claim over the wire."""
        self.wire.send()
        claims = await super().claim(incarnation, limit=limit, errands=errands)
        await self.wire.receive()
        return claims

    async def changed(self, incarnation: Incarnation) -> Sequence[Claim]:
        """Ask over the wire."""
        self.wire.send()
        return await super().changed(incarnation)

    async def owned(self, incarnation: Incarnation) -> Sequence[Claim]:
        """Ask over the wire."""
        self.wire.send()
        return await super().owned(incarnation)

    async def depth(self) -> QueueDepth:
        """Ask over the wire."""
        self.wire.send()
        return await super().depth()


class WiredNodes(MemoryNodes):
    """The register at the other end of a wire."""

    def __init__(self, state: MemoryState, wire: Wire) -> None:
        super().__init__(state)
        self.wire = wire

    async def heartbeat(self, incarnation: Incarnation) -> None:
        """Beat over the wire."""
        self.wire.send()
        await super().heartbeat(incarnation)

    async def bury(self, incarnation: Incarnation, *, silent_seconds: float) -> int:
        """Bury over the wire."""
        self.wire.send()
        return await super().bury(incarnation, silent_seconds=silent_seconds)


class WiredLeases(MemoryLeases):
    """The leases at the other end of a wire."""

    def __init__(self, state: MemoryState, wire: Wire) -> None:
        super().__init__(state, patience_seconds=PATIENCE)
        self.wire = wire

    async def report(self, fence: Fence, status: LinkStatus) -> None:
        """Report over the wire."""
        self.wire.send()
        await super().report(fence, status)

    async def release(self, fence: Fence, *, backoff: Backoff, delay_seconds: float) -> None:
        """Release over the wire."""
        self.wire.send()
        await super().release(fence, backoff=backoff, delay_seconds=delay_seconds)


@dataclass
class Stage:
    """One imagined database, and all that ever ran on it."""

    state: MemoryState = field(default_factory=lambda: MemoryState(clock=VirtualClock()))
    running: Counter[AccountId] = field(default_factory=Counter)
    started: list[AccountId] = field(default_factory=list)
    closed: list[AccountId] = field(default_factory=list)
    links: dict[AccountId, "ScriptedLink"] = field(default_factory=dict)
    scripts: dict[AccountId, Callable[[], "Script"]] = field(default_factory=dict)

    def add(self, number: int, *, due_seconds: float = 60.0, **script: object) -> AccountId:
        """Register a link; further keywords are its script."""
        self.scripts[AccountId(number)] = lambda: Script(**script)
        account_id, now = AccountId(number), self.state.clock.now()
        self.state.accounts[account_id] = AccountRow(
            account_id=account_id,
            link_id=LinkId(f"link-{number}"),
            spec=LinkSpec(
                user_id=UserId("u"),
                desired=Desired.LIVE,
                priority=Priority.NORMAL,
                metaapi=MetaApiRef(token="main", account_id="m", region="london"),
                identity=Identity(
                    platform=Platform.MT5, login=str(number), server="Demo", currency="USD"
                ),
            ),
            generation=1,
            created_at=now,
            updated_at=now,
        )
        self.state.leases[account_id] = LeaseRow(
            account_id=account_id,
            is_wanted=True,
            deadline=now + timedelta(seconds=due_seconds),
            queued_at=now,
        )
        return account_id

    def alter(self, account_id: AccountId, *, desired: Desired = Desired.LIVE) -> None:
        """Store a newer spec."""
        account = self.state.accounts[account_id]
        self.state.accounts[account_id] = replace(
            account,
            spec=replace(account.spec, desired=desired),
            generation=account.generation + 1,
        )
        self.state.leases[account_id] = replace(
            self.state.leases[account_id], is_wanted=desired is Desired.LIVE
        )

    def owned_by(self, incarnation: Incarnation) -> set[AccountId]:
        """Return whose leases a node holds."""
        return {account for account, row in self.state.leases.items() if row.owner == incarnation}

    @property
    def live(self) -> set[AccountId]:
        """Return what runs anywhere now."""
        return {account for account, tasks in self.running.items() if tasks}


@dataclass(kw_only=True)
class Script:
    """How a link behaves: how long it lives, closes, lingers after its release, closes when cut."""

    failure: Exception | None = None
    live_seconds: float | None = None
    close_seconds: float = 0.0
    linger_seconds: float = 0.0
    cut_seconds: float = 0.0
    delay_seconds: float = 0.0


class ScriptedLink:
    """A link that lives until it is told to leave, or as its script says."""

    def __init__(self, claim: Claim, *, stage: Stage, leases: MemoryLeases) -> None:
        self.claim = claim
        self.stage = stage
        self.leases = leases
        self.script = stage.scripts[claim.fence.account_id]()
        self.told: list[Claim] = []
        self.is_drained = False
        self.leave = asyncio.Event()

    async def run(self) -> None:
        """Live, close, release."""
        account_id = self.claim.fence.account_id
        self.stage.running[account_id] += 1
        self.stage.started.append(account_id)
        assert self.stage.running[account_id] == 1, "one link ran twice at once"
        try:
            await self._live()
        except asyncio.CancelledError:
            await asyncio.sleep(self.script.cut_seconds)
            self.stage.closed.append(account_id)
            raise
        finally:
            self.stage.running[account_id] -= 1

    async def _live(self) -> None:
        self._fail_as_scripted()
        await self._report(self.claim.generation)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.script.live_seconds):
                await self.leave.wait()
        self._fail_as_scripted()
        await asyncio.sleep(self.script.close_seconds)
        await self.leases.release(
            self.claim.fence, backoff=Backoff(), delay_seconds=self.script.delay_seconds
        )
        await asyncio.sleep(self.script.linger_seconds)

    def _fail_as_scripted(self) -> None:
        if self.script.failure is not None:
            raise self.script.failure

    async def _report(self, generation: int) -> None:
        await self.leases.report(
            self.claim.fence,
            LinkStatus(
                phase=Phase.LIVE,
                reason="Live",
                message="",
                observed_generation=generation,
                since=START,
            ),
        )

    def update(self, claim: Claim) -> None:
        """Take over a newer spec."""
        self.told.append(claim)
        if claim.spec.desired is not Desired.LIVE or claim.is_deleted:
            self.leave.set()

    def drain(self) -> None:
        """Leave."""
        self.is_drained = True
        self.leave.set()


class Node:
    """One process: a heartbeat and a manager over its own wire."""

    def __init__(self, stage: Stage, incarnation: Incarnation, settings: PoolSettings) -> None:
        self.stage = stage
        self.incarnation = incarnation
        self.registry = CollectorRegistry()
        self.wire = Wire()
        self.leases = WiredLeases(stage.state, self.wire)
        self.failure: BaseException | None = None
        clock = stage.state.clock
        self.heartbeat = Heartbeat(
            incarnation,
            nodes=WiredNodes(stage.state, self.wire),
            settings=settings,
            clock=clock,
            registered_at=clock.boottime(),
        )
        self.manager = Manager(
            incarnation,
            queue=WiredQueue(stage.state, self.wire),
            heartbeat=self.heartbeat,
            ports=SlotPorts(
                build=self.build,
                leases=self.leases,
                settings=LinkSettings(),
                clock=clock,
                random=Random(1),
                metrics=Metrics(self.registry),
            ),
            settings=settings,
        )

    def build(self, claim: Claim) -> ScriptedLink:
        """Make a link as its script says."""
        link = ScriptedLink(claim, stage=self.stage, leases=self.leases)
        self.stage.links[claim.fence.account_id] = link
        return link

    async def run(self) -> None:
        """Live as a process does, and remember why it died."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.heartbeat.run())
                group.create_task(self.manager.run())
        except BaseExceptionGroup as failure:
            self.failure = failure

    @property
    def owned(self) -> set[AccountId]:
        """Return whose leases it holds."""
        return self.stage.owned_by(self.incarnation)

    def sample(self, name: str, **labels: str) -> float | None:
        """Read a metric."""
        return self.registry.get_sample_value(name, labels)


@asynccontextmanager
async def node(
    stage: Stage, name: str = "a", *, max_links: int = 3, **settings: float
) -> AsyncIterator[Node]:
    """Run a node; leaving the block is a kill -9."""
    pool = PoolSettings(max_links=max_links, **settings)
    incarnation = await MemoryNodes(stage.state).register(name, max_links=max_links)
    started = Node(stage, incarnation, pool)
    async with asyncio.TaskGroup() as group:
        process = group.create_task(started.run())
        yield started
        process.cancel()


async def test_no_more_links_run_than_there_are_slots_earliest_deadline_first() -> None:
    """Three slots, ten links: the three that are due first run, the others wait."""
    stage = Stage()
    for number in range(10):
        stage.add(number, due_seconds=100 - number)
    async with node(stage, max_links=3) as one:
        await asyncio.sleep(60)
        assert stage.started == [9, 8, 7]
        assert one.owned == {7, 8, 9}
        assert one.sample("brokerd_pool_slots") == 3
        assert one.sample("brokerd_pool_slots_in_use") == 3
        assert one.sample("brokerd_pool_queue_length", state="ready") == 7
        assert one.sample("brokerd_pool_queue_oldest_seconds") == pytest.approx(60, abs=2)


async def test_a_freed_slot_goes_to_the_next_at_once() -> None:
    """The slot of a paused link is not idle until the next poll."""
    stage = Stage()
    for number in range(4):
        stage.add(number, due_seconds=number)
    async with node(stage, max_links=2):
        await asyncio.sleep(10)
        stage.alter(AccountId(0), desired=Desired.PAUSED)
        await asyncio.sleep(1.2)
        assert stage.live == {1, 2}
        assert stage.state.leases[AccountId(0)].owner is None


async def test_a_slot_that_frees_itself_is_filled_without_a_poll() -> None:
    """The end of a link is as good as a hint."""
    stage = Stage()
    stage.add(1, due_seconds=1, live_seconds=5.0, delay_seconds=1000.0)
    stage.add(2, due_seconds=2)
    async with node(stage, max_links=1, poll_seconds=60):
        await asyncio.sleep(5.2)
        assert stage.live == {2}


async def test_a_link_in_backoff_frees_its_slot_and_comes_back() -> None:
    """A link that released with a delay lets another one run meanwhile."""
    stage = Stage()
    stage.add(1, due_seconds=1, live_seconds=5.0, delay_seconds=40.0)
    stage.add(2, due_seconds=2, live_seconds=10.0, delay_seconds=60.0)
    async with node(stage, max_links=1) as one:
        await asyncio.sleep(10)
        assert stage.started == [1, 2]
        assert one.sample("brokerd_pool_queue_length", state="backoff") == 1
        await asyncio.sleep(200)
        assert stage.started.count(AccountId(1)) > 1


async def test_a_claim_that_the_database_forgot_is_taken_again_and_runs_once() -> None:
    """A failover lost the claim: it is given out anew with the same fence, and is one link still.

    It can leave afterwards, and its slot is free then.
    """
    stage = Stage()
    stage.add(1)
    async with node(stage, max_links=3) as one:
        await asyncio.sleep(5)
        held = stage.state.leases[AccountId(1)]
        stage.state.leases[AccountId(1)] = replace(held, owner=None, epoch=held.epoch - 1)
        await asyncio.sleep(5)
        assert stage.state.leases[AccountId(1)] == held
        assert stage.started == [1]
        assert one.sample("brokerd_pool_slots_in_use") == 1
        stage.alter(AccountId(1), desired=Desired.PAUSED)
        await asyncio.sleep(5)
        assert stage.live == set()
        assert one.sample("brokerd_pool_slots_in_use") == 0
        assert one.failure is None


async def test_a_hint_brings_the_next_round_forward() -> None:
    """With a poll each minute, a woken pool claims at once."""
    stage = Stage()
    async with node(stage, poll_seconds=60) as one:
        await asyncio.sleep(5)
        stage.add(1)
        await asyncio.sleep(5)
        assert stage.live == set()
        one.manager.wake.set()
        await asyncio.sleep(0.2)
        assert stage.live == {1}
        await asyncio.sleep(1.2)
        one.manager.wake.set()
        await asyncio.sleep(0.2)  # counted: nobody waits
        stage.add(2)  # and too soon to be counted again
        one.manager.wake.set()
        await asyncio.sleep(0.2)
        assert stage.live == {1, 2}


async def test_a_newer_spec_reaches_its_link_once() -> None:
    """Until its generation is reported the store repeats it; the link hears it once."""
    stage = Stage()
    account_id = stage.add(1)
    async with node(stage):
        await asyncio.sleep(5)
        stage.alter(account_id)
        await asyncio.sleep(10)
        assert [claim.generation for claim in stage.links[account_id].told] == [2]
        stage.alter(account_id)
        await asyncio.sleep(10)
        assert [claim.generation for claim in stage.links[account_id].told] == [2, 3]


async def test_a_node_without_slots_claims_nothing_and_is_ready() -> None:
    """`max_links` 0 serves the API alone."""
    stage = Stage()
    stage.add(1)
    async with node(stage, max_links=0) as one:
        await asyncio.sleep(30)
        assert one.manager.first_plan.is_set()
        assert stage.started == []


async def test_a_drain_releases_every_link_and_claims_no_more() -> None:
    """After the drain nothing is owned, and the pool has ended by itself."""
    stage = Stage()
    for number in range(6):
        stage.add(number, close_seconds=4.0)
    async with node(stage, max_links=3) as one:
        await asyncio.sleep(5)
        begun_at = stage.state.clock.monotonic()
        await one.manager.drain()
        assert stage.state.clock.monotonic() - begun_at == pytest.approx(4.0, abs=0.2)
        await asyncio.sleep(30)
        assert (one.owned, stage.live, len(stage.started)) == (set(), set(), 3)
        assert one.failure is None


async def test_a_drain_cuts_what_takes_too_long() -> None:
    """A link that does not leave is ended in bounded time and keeps its lease for the retiring."""
    stage = Stage()
    quick, slow = stage.add(1), stage.add(2, close_seconds=3600.0)
    async with node(stage, drain_seconds=60) as one:
        await asyncio.sleep(5)
        begun_at = stage.state.clock.monotonic()
        await one.manager.drain()
        assert stage.state.clock.monotonic() - begun_at == pytest.approx(60, abs=1)
        assert stage.live == set()
        assert one.owned == {slow}
        assert stage.state.leases[quick].owner is None
        await MemoryNodes(stage.state).retire(one.incarnation)
        assert one.owned == set()


async def test_a_claim_answered_during_the_drain_is_given_back() -> None:
    """What was claimed a moment before SIGTERM is not kept from other nodes."""
    stage = Stage()
    async with node(stage) as one:
        await asyncio.sleep(5)
        one.wire.answer_seconds = 3.0
        account_id = stage.add(1)
        await asyncio.sleep(2)
        assert one.owned == {account_id}
        await one.manager.drain()
        assert one.owned == set()
        assert stage.live == set()


async def test_a_drain_before_the_start_and_after_the_end_returns() -> None:
    """Stopping while starting must not hang."""
    stage = Stage()
    stage.add(1)
    async with node(stage) as one:
        async with asyncio.timeout(1):
            await one.manager.drain()
        await asyncio.sleep(5)
        async with asyncio.timeout(1):
            await one.manager.drain()
        assert stage.started == []


async def test_a_crash_stays_in_its_slot() -> None:
    """A bug in one link: the others live, it is logged, shown, released and tried again later."""
    stage = Stage()
    healthy, broken = stage.add(1), stage.add(2, failure=RuntimeError("bug"))
    with capture_logs() as logs:
        async with node(stage) as one:
            await asyncio.sleep(4)
            lease, status = stage.state.leases[broken], stage.state.links[broken]
            assert (lease.owner, lease.attempt) == (None, 1)
            assert lease.not_before is not None
            assert lease.not_before >= START + timedelta(seconds=5)
            assert (status.phase, status.reason) == (Phase.BACKOFF, "Crashed")
            await asyncio.sleep(3600)
            assert one.failure is None
            assert stage.started.count(healthy) == 1
            assert stage.live == {healthy}
            assert 5 < stage.started.count(broken) < 60
    crashes = [log for log in logs if log["event"] == "link.crashed"]
    assert len(crashes) == stage.started.count(broken)
    assert (crashes[0]["log_level"], crashes[0]["code"]) == ("error", "internal")
    assert crashes[0]["link_id"] == "link-2"


async def test_a_link_whose_task_vanished_is_run_again() -> None:
    """A task that was cancelled by nobody we know leaves its lease ours: the pool takes it up."""
    stage = Stage()
    account_id = stage.add(1)
    with capture_logs() as logs:
        async with node(stage) as one:
            await asyncio.sleep(4)
            (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "link:link-1"]
            task.cancel()
            await asyncio.sleep(4)
            assert one.owned == {account_id}
            assert (stage.live, stage.started) == ({account_id}, [account_id] * 2)
    assert [log["link_id"] for log in logs if log["event"] == "link.vanished"] == ["link-1"]


async def test_a_link_that_cannot_even_be_built_is_a_crash_of_its_own() -> None:
    """One poisonous spec does not take the node down."""
    stage = Stage()
    healthy, poisonous = stage.add(1), stage.add(2)

    def refuse() -> Script:
        raise KeyError("no such token")

    stage.scripts[poisonous] = refuse
    async with node(stage) as one:
        await asyncio.sleep(60)
        assert one.failure is None
        assert stage.live == {healthy}
        assert stage.state.links[poisonous].reason == "Crashed"


async def test_a_crashed_link_is_released_once_the_store_can_be_reached() -> None:
    """Its slot stays taken until the lease is back, and no longer."""
    stage = Stage()
    broken = stage.add(1)
    async with node(stage) as one:
        await asyncio.sleep(5)
        one.wire.is_cut = True
        stage.links[broken].script.failure = RuntimeError("bug")
        stage.links[broken].leave.set()
        await asyncio.sleep(6)
        assert one.owned == {broken}
        assert one.sample("brokerd_pool_slots_in_use") == 1
        one.wire.is_cut = False
        await asyncio.sleep(2)
        assert one.owned == set()
        assert one.sample("brokerd_pool_slots_in_use") == 0
        assert one.failure is None


async def test_a_fenced_link_is_forgotten_and_writes_nothing() -> None:
    """Its lease is somebody else's: no status, no release."""
    stage = Stage()
    account_id = stage.add(1)
    async with node(stage, poll_seconds=60) as one:
        await asyncio.sleep(5)
        taken = replace(stage.state.leases[account_id], owner=Incarnation(99), epoch=7)
        stage.state.leases[account_id] = taken
        status = stage.state.links[account_id]
        stage.links[account_id].leave.set()
        await asyncio.sleep(1)
        assert stage.live == set()
        assert stage.state.leases[account_id] == taken
        assert stage.state.links[account_id] is status
        assert one.sample("brokerd_pool_slots_in_use") == 0


async def test_a_link_claimed_again_starts_after_its_earlier_task_ended() -> None:
    """Released and claimed back within the same node: never two sessions of one account."""
    stage = Stage()
    account_id = stage.add(1, live_seconds=5.0, linger_seconds=7.0)
    async with node(stage, max_links=3) as one:
        await asyncio.sleep(60)
        assert one.failure is None
        assert stage.running[account_id] <= 1
        assert len(stage.started) == pytest.approx(60 / 12, abs=1)


async def test_a_lowered_limit_sends_the_newest_away() -> None:
    """The oldest keep their slots, and the surplus queues again."""
    stage = Stage()
    for number in range(4):
        stage.add(number, due_seconds=number)
    async with node(stage, max_links=4) as one:
        await asyncio.sleep(5)
        one.manager.max_links = 2
        await asyncio.sleep(60)
        assert stage.live == {0, 1}
        assert not stage.links[AccountId(0)].is_drained


async def test_two_nodes_never_run_one_link_twice_nor_pass_their_limits() -> None:
    """An hour of links that come and go on two nodes over one database."""
    stage, random = Stage(), Random(7)
    for number in range(12):
        stage.scripts[stage.add(number)] = lambda: Script(
            live_seconds=random.uniform(1, 30),
            close_seconds=random.uniform(0, 3),
            delay_seconds=random.choice([0.0, random.uniform(0, 20)]),
        )
    async with (
        node(stage, "a", max_links=4) as one,
        node(stage, "b", max_links=5) as other,
    ):
        for _ in range(3600):
            await asyncio.sleep(1)
            assert len(one.owned) <= 4
            assert len(other.owned) <= 5
            assert max(stage.running.values()) <= 1
            assert sum(stage.running.values()) <= 9
        assert one.failure is other.failure is None
        assert min(Counter(stage.started).values()) > 20


async def test_a_node_that_fell_silent_is_taken_over_and_ends_when_it_wakes() -> None:
    """F58, F59: others run its links within 25 s; it never writes again, and its process ends."""
    stage = Stage()
    for number in range(3):
        stage.add(number)
    async with (
        node(stage, "a", max_links=3) as one,
        node(stage, "b", max_links=3) as heir,
    ):
        await asyncio.sleep(30)
        victim, other = (one, heir) if one.owned else (heir, one)
        victims = set(victim.owned)
        assert victims == {0, 1, 2}
        stage.running.clear()  # the victim's sessions live on where its writes do not reach
        victim.wire.is_cut = True
        await asyncio.sleep(25)
        assert other.owned == victims
        assert victim.heartbeat.is_frozen
        victim.wire.is_cut = False
        await asyncio.sleep(5)
        assert isinstance(victim.failure, BaseExceptionGroup)
        assert victim.failure.subgroup(Fenced) is not None
        assert other.owned == victims
        assert other.failure is None


async def test_a_restart_under_the_same_name_goes_on_at_once() -> None:
    """F56: after kill -9 nobody waits for a lease to run out."""
    stage = Stage()
    for number in range(5):
        stage.add(number, due_seconds=number)
    async with node(stage, "a", max_links=3) as killed:
        await asyncio.sleep(30)
        held = set(killed.owned)
    assert killed.owned == held
    async with node(stage, "a", max_links=3) as restarted:
        await asyncio.sleep(1.5)
        assert restarted.owned == held
        assert stage.live == held


async def test_a_frozen_node_claims_nothing_and_keeps_its_sessions() -> None:
    """An outage shorter than the hold: the same links, never interrupted, and then new ones."""
    stage = Stage()
    first = stage.add(1)
    async with node(stage) as one:
        await asyncio.sleep(5)
        one.wire.is_cut = True
        await asyncio.sleep(12)
        second = stage.add(2)
        await asyncio.sleep(600)
        assert stage.started == [first]
        assert stage.live == {first}
        one.wire.is_cut = False
        await asyncio.sleep(6)
        assert stage.started == [first, second]
        assert one.failure is None


async def test_a_node_frozen_beyond_its_hold_closes_all_and_takes_up_its_links_again() -> None:
    """F59: sessions end without a write; the leases, if still ours, are run again."""
    stage = Stage()
    account_id = stage.add(1, cut_seconds=5.0)
    async with node(stage, hold_seconds=900) as one:
        await asyncio.sleep(5)
        one.wire.is_cut = True
        await asyncio.sleep(905)
        assert stage.live == {account_id}
        lease, status = stage.state.leases[account_id], stage.state.links[account_id]
        await asyncio.sleep(15)
        assert stage.live == set()
        assert stage.closed == [account_id]  # in its own time: cut once, not each round
        assert stage.state.leases[account_id] is lease
        assert stage.state.links[account_id] is status
        one.wire.is_cut = False
        await asyncio.sleep(6)
        assert stage.live == {account_id}
        assert one.failure is None


async def test_a_claim_whose_answer_was_lost_is_found_again() -> None:
    """F50: the leases are ours but nobody told us; no link starves, no limit breaks."""
    stage = Stage()
    for number in range(5):
        stage.add(number)
    async with node(stage, max_links=3) as one:
        one.wire.loses_answers = True
        await asyncio.sleep(10)
        one.wire.loses_answers = False
        await asyncio.sleep(3)
        assert len(one.owned) == 3
        assert stage.live == one.owned


async def test_a_claim_answered_after_the_freeze_opens_nothing_until_the_thaw() -> None:
    """The answer came when our leases might be somebody else's already."""
    stage = Stage()
    async with node(stage) as one:
        await asyncio.sleep(5)
        one.wire.answer_seconds = 15.0
        account_id = stage.add(1)
        await asyncio.sleep(2)
        one.wire.is_cut = True
        await asyncio.sleep(30)
        assert one.owned == {account_id}
        assert stage.started == []
        one.wire.is_cut = False
        await asyncio.sleep(6)
        assert stage.live == {account_id}


async def test_a_lease_that_was_taken_away_during_a_freeze_is_cut() -> None:
    """After the thaw we first read what is still ours."""
    stage = Stage()
    kept, lost = stage.add(1), stage.add(2)
    async with node(stage, max_links=2) as one:
        await asyncio.sleep(5)
        one.wire.is_cut = True
        await asyncio.sleep(12)
        stage.state.leases[lost] = replace(stage.state.leases[lost], owner=Incarnation(99), epoch=9)
        one.wire.is_cut = False
        await asyncio.sleep(6)
        assert stage.live == {kept}
        assert stage.state.leases[lost].owner == 99


async def test_readiness_waits_for_the_first_plan_and_waiting_is_progress() -> None:
    """Without Postgres: not ready, not stalled either, and one line in the log."""
    stage = Stage()
    with capture_logs() as logs:
        async with node(stage) as one:
            one.wire.is_cut = True
            stage.add(1)
            for _ in range(120):
                await asyncio.sleep(1)
                assert not one.manager.first_plan.is_set()
                assert one.manager.stalled_seconds < 2
            one.wire.is_cut = False
            one.wire.answer_seconds = 25.0
            for _ in range(40):
                await asyncio.sleep(1)
                assert one.manager.stalled_seconds < 2
            assert one.manager.first_plan.is_set()
    events = Counter(log["event"] for log in logs)
    assert events["pool.store_lost"] == events["pool.store_recovered"] == 1


async def test_errands_are_run_beside_a_full_pool_and_evict_nobody():
    """What costs is put away even where no slot is free, at most four at once."""
    stage = Stage()
    for number in (1, 2):
        stage.add(number)
    for number in range(10, 16):
        account_id = stage.add(number, live_seconds=20.0)
        account, lease = stage.state.accounts[account_id], stage.state.leases[account_id]
        spec = replace(account.spec, desired=Desired.STOPPED)
        stage.state.accounts[account_id] = replace(account, spec=spec)
        stage.state.leases[account_id] = replace(lease, is_wanted=False, has_errand=True)
    async with node(stage, max_links=2) as one:
        await asyncio.sleep(10)
        assert {1, 2} <= stage.live
        assert len(stage.live) <= 2 + MAX_ERRANDS
        assert len(stage.live - {1, 2}) >= 2
        assert one.manager.max_links == 2
        assert not any(stage.links[AccountId(number)].is_drained for number in (1, 2))
