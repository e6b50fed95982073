"""Nodes with real pools over one store: whatever dies, every ledger ends equal to its truth."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import pytest
from link_world import PATIENCE, START, VirtualClock, WarpedMetaApi, cut_windows, spec_of
from prometheus_client import CollectorRegistry
from simulated_money import SimulatedPort, build_provisioner
from structlog.testing import capture_logs

from brokerd.api.memory_operations import MemoryOperationRegistry
from brokerd.config.settings import (
    HealthSettings,
    LedgerSettings,
    LinkSettings,
    OperationSettings,
    PoolSettings,
)
from brokerd.connector.link import Link
from brokerd.connector.ports import LinkPorts
from brokerd.connector.provisioning.memory import MemoryIntents, MemoryMoney
from brokerd.domain import AccountId, LinkId, Phase, Proof
from brokerd.errors import Fenced, StoreUnavailable
from brokerd.health.calendar import Calendar
from brokerd.health.desk import IncidentDesk
from brokerd.ledger.memory import MemoryLedgerStore
from brokerd.ledger.memory_windows import MemoryWindows
from brokerd.ledger.writer import Writer
from brokerd.operations import OperationKind
from brokerd.pool.gate import GatedStream
from brokerd.pool.heartbeat import Heartbeat
from brokerd.pool.manager import Manager
from brokerd.pool.memory_leases import MemoryLeases
from brokerd.pool.memory_nodes import MemoryNodes
from brokerd.pool.memory_operations import MemoryOperations
from brokerd.pool.operations import OperationDesk
from brokerd.pool.slots import SlotPorts
from brokerd.queue.memory import MemoryQueue
from brokerd.sandbox.facts import ConnectionStatus
from brokerd.sandbox.faults import Fault, FaultKind, Faults
from brokerd.sandbox.habits import Past
from brokerd.sandbox.market import Market
from brokerd.sandbox.simulated_session import domain_deal
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.truth import AccountSpec, Broker
from brokerd.store.memory import AccountRow, LeaseRow, MemoryState
from brokerd.telemetry import Metrics

pytestmark = pytest.mark.looptime(noop_cycles=0)


class SilentNodes(MemoryNodes):
    """A register one node may lose sight of."""

    is_away = False

    async def heartbeat(self, incarnation):
        """Beat if the register can be reached."""
        if self.is_away:
            raise StoreUnavailable("away")
        await super().heartbeat(incarnation)

    async def bury(self, incarnation, *, silent_seconds):
        """Bury if the register can be reached."""
        if self.is_away:
            raise StoreUnavailable("away")
        return await super().bury(incarnation, silent_seconds=silent_seconds)


class Fleet:
    """Accounts of one broker, their rows in one store, and the nodes that share them."""

    def __init__(self, group, *, accounts, links):
        self.clock = VirtualClock()
        self.group = group
        self.state = MemoryState(clock=self.clock)
        self.broker = Broker(clock=self.clock, random=Random(1))
        self.faults = Faults(random=Random(2))
        self.market = Market(self.broker, random=Random(3), deals_per_account_minute=6)
        self.service = WarpedMetaApi(self.broker, faults=self.faults)
        self.links = links
        self.most_sessions = 0
        self.started = []
        server = open_server(self.broker, ServerSpec())
        for number in range(1, accounts + 1):
            account = self.broker.add_account(AccountSpec(server=server))
            self.market.seed(account, Past(deals=30, days=20))
            self._register(AccountId(number), account)

    def _register(self, number, account):
        self.state.accounts[number] = AccountRow(
            account_id=number,
            link_id=LinkId(f"link-{number}"),
            spec=spec_of(account),
            generation=1,
            created_at=START,
            updated_at=START,
        )
        self.state.leases[number] = LeaseRow(
            account_id=number, is_wanted=True, deadline=START, queued_at=START
        )

    async def start(self, name, *, seed):
        """Start a node."""
        node = Node(self, name=name, seed=seed)
        await node.start()
        self.started.append(node)
        return node

    async def watch(self):
        """Note the most sessions there ever were."""
        while True:
            self.most_sessions = max(self.most_sessions, self.service.open_sessions)
            await asyncio.sleep(0.1)

    @property
    def live(self):
        """Return how many links are live and proven."""
        return sum(
            status.phase is Phase.LIVE and status.proof is Proof.PROVEN
            for status in self.state.links.values()
        )

    def assert_exact(self):
        """Compare every ledger with its truth, and what was told with what changed."""
        for row in self.state.accounts.values():
            account = self.broker.account(row.spec.metaapi.account_id)
            truth = {d.deal_id: domain_deal(d, server=account.server) for d in account.deals()}
            ledger = {
                deal_id: held.deal
                for (account_id, deal_id), held in self.state.deals.items()
                if account_id == row.account_id and held.removed_at is None
            }
            assert ledger == truth
        told = Counter(
            (e.account_id, e.deal_id, e.revision)
            for e in self.state.events
            if e.deal_id is not None
        )
        assert max(told.values()) == 1


class Node:
    """One process: heartbeat, writer, pool."""

    def __init__(self, fleet, *, name, seed):
        self.fleet = fleet
        self.name = name
        self.random = Random(seed)
        self.nodes = SilentNodes(fleet.state)
        self.is_fenced = False

    async def start(self):
        """Register and run."""
        fleet, settings = self.fleet, PoolSettings(max_links=self.fleet.links)
        metrics = Metrics(CollectorRegistry())
        incarnation = await self.nodes.register(self.name, max_links=settings.max_links)
        heartbeat = Heartbeat(
            incarnation,
            nodes=self.nodes,
            settings=settings,
            clock=fleet.clock,
            registered_at=fleet.clock.boottime(),
        )
        writer = Writer(
            MemoryLedgerStore(fleet.state),
            settings=LedgerSettings(),
            clock=fleet.clock,
            random=self.random,
            metrics=metrics,
        )
        leases = MemoryLeases(fleet.state, patience_seconds=PATIENCE)
        desk = OperationDesk(
            incarnation,
            store=MemoryOperations(fleet.state),
            settings=OperationSettings(),
            clock=fleet.clock,
            metrics=metrics,
        )
        ports = LinkPorts(
            rest=fleet.service,
            provisioning=build_provisioner(
                rest=fleet.service,
                port=SimulatedPort(fleet.service, fleet.clock),
                intents=MemoryIntents(MemoryMoney(state=fleet.state)),
                clock=fleet.clock,
                metrics=metrics,
            ),
            stream=GatedStream(fleet.service, heartbeat=heartbeat),
            ledger=writer,
            windows=MemoryWindows(fleet.state),
            long_pulls=asyncio.Semaphore(1),
            operations=desk,
            lease=leases,
            incidents=IncidentDesk(
                HealthSettings(), calendar=Calendar(), clock=fleet.clock, metrics=metrics
            ),
            settings=LinkSettings(),
            clock=fleet.clock,
            random=self.random,
            metrics=metrics,
        )
        self.manager = Manager(
            incarnation,
            queue=MemoryQueue(fleet.state),
            heartbeat=heartbeat,
            ports=SlotPorts(
                build=lambda claim: Link(claim, ports=ports),
                leases=leases,
                settings=LinkSettings(),
                clock=fleet.clock,
                random=self.random,
                metrics=metrics,
            ),
            settings=settings,
        )
        self.task = fleet.group.create_task(
            self._run([heartbeat.run(), writer.run(), desk.run(), self.manager.run()])
        )

    async def _run(self, services):
        """Run what a process runs, until one of it ends it."""
        try:
            async with asyncio.TaskGroup() as group:
                for service in services:
                    group.create_task(service)
        except* Fenced:
            self.is_fenced = True

    def kill(self):
        """End the process between two steps, without a word to the store."""
        self.task.cancel()


@asynccontextmanager
async def running_fleet(*, accounts, links):
    """Run a fleet's broker for the time of a test."""
    async with asyncio.TaskGroup() as group:
        fleet = Fleet(group, accounts=accounts, links=links)
        tasks = [group.create_task(fleet.market.run()), group.create_task(fleet.watch())]
        yield fleet
        for task in [*tasks, *(node.task for node in fleet.started)]:
            task.cancel()


async def until(is_met, *, seconds=30):
    """Wait until something is so."""
    for _ in range(seconds * 100):
        if is_met():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never became so")


async def settle(fleet, *, live):
    """Stop trading and wait until so many links are live and proven."""
    fleet.market.freeze()
    fleet.faults.switch_off_all()
    for _ in range(2_000):
        if fleet.live == live:
            break
        await asyncio.sleep(1)
    await asyncio.sleep(700)
    assert fleet.live == live
    fleet.assert_exact()


async def test_a_node_that_falls_silent_is_taken_over():
    """Its links go to the others within half a minute, and it stops when it learns so; 0/0."""
    async with running_fleet(accounts=6, links=6) as fleet:
        first = await fleet.start("node-1", seed=1)
        await asyncio.sleep(60)
        assert fleet.live == 6
        second = await fleet.start("node-2", seed=2)
        await asyncio.sleep(30)
        first.nodes.is_away = True  # it still reads the stream, and believes to write
        await asyncio.sleep(30)
        assert all(lease.owner == 2 for lease in fleet.state.leases.values())
        await asyncio.sleep(60)
        first.nodes.is_away = False
        await asyncio.sleep(10)
        assert first.is_fenced
        assert not second.is_fenced
        await settle(fleet, live=6)
        assert fleet.service.open_sessions == 6


async def test_the_next_owner_finishes_an_audit():
    """Its node killed in the middle, the audit goes on elsewhere behind the last window read."""
    async with running_fleet(accounts=1, links=1) as fleet:
        first = await fleet.start("node-1", seed=1)
        await asyncio.sleep(5)
        fleet.market.freeze()
        cut_windows(fleet.state, AccountId(1), parts=6, days=20)
        asking = MemoryOperationRegistry(fleet.state, expire_seconds=3_600.0)
        asked = (await asking.ask(LinkId("link-1"), OperationKind.AUDIT)).operation.operation_id

        def seen():
            return fleet.state.operations[asked]

        await until(lambda: seen().progress.findings.windows >= 2)
        first.kill()
        await asyncio.wait([first.task])
        assert 2 <= seen().progress.findings.windows < 6
        read_through = seen().progress.read_through
        fleet.service.history_asked_from.clear()
        await fleet.start("node-2", seed=2)
        await until(lambda: seen().finished_at, seconds=60)
        assert seen().result.proof is Proof.PROVEN
        assert seen().result.findings.windows == 6
        assert min(fleet.service.history_asked_from) >= read_through
        assert fleet.state.leases[1].epoch == 2


async def test_a_killed_node_that_returns_takes_its_links_again():
    """Killed in the middle of its syncs, again and again; each start goes on where rows end."""
    async with running_fleet(accounts=8, links=8) as fleet:
        for life in range(12):
            node = await fleet.start("node-1", seed=life)
            await asyncio.sleep(0.05 + life * 1.7)
            node.kill()
            await asyncio.wait([node.task])
            assert fleet.service.open_sessions == 0
        await fleet.start("node-1", seed=99)
        await asyncio.sleep(60)
        await settle(fleet, live=8)


async def test_no_more_sessions_than_slots_whatever_goes_wrong():
    """Under faults of every kind two nodes never hold more sessions than they have slots."""
    async with running_fleet(accounts=10, links=3) as fleet:
        first = await fleet.start("node-1", seed=1)
        await fleet.start("node-2", seed=2)
        for kind in (FaultKind.LOSE_PACKETS, FaultKind.SERVER_ERROR, FaultKind.DUPLICATE_PACKETS):
            fleet.faults.switch_on(Fault(kind=kind, probability=0.1))
        for turn in range(60):
            await asyncio.sleep(10)
            account_id = list(fleet.broker.accounts)[turn % 10]
            (fleet.service.drop if turn % 3 else fleet.service.kill)(account_id)
        await first.manager.drain()
        await asyncio.sleep(60)
        assert 3 <= fleet.most_sessions <= 6
        first.kill()
        await asyncio.wait([first.task])
        fleet.links = 10
        await fleet.start("node-3", seed=3)
        await settle(fleet, live=10)


async def test_a_spec_that_changes_reaches_the_running_link():
    """What a client changes arrives by the queue's `changed` and is observed within a second."""
    async with running_fleet(accounts=2, links=2) as fleet:
        await fleet.start("node-1", seed=1)
        await asyncio.sleep(10)
        row = fleet.state.accounts[1]
        fleet.state.accounts[1] = replace(
            row, spec=replace(row.spec, labels={"colour": "blue"}), generation=2
        )
        await asyncio.sleep(1.2)
        assert fleet.state.links[1].observed_generation == 2
        assert fleet.live == 2


def stages(logs):
    """Return what was told of incidents, in order."""
    return [(log["reach"], log["stage"]) for log in logs if log["event"] == "incident.changed"]


def returns(fleet, *, since):
    """Return when links became live after a moment, in seconds after it."""
    return sorted(
        (row.at - since).total_seconds()
        for row in fleet.state.transitions
        if row.phase is Phase.LIVE and row.at > since
    )


def disconnect_broker(fleet):
    """Let the broker's server log every terminal out; return how to end it."""
    accounts = [fleet.broker.account(each) for each in fleet.broker.accounts]
    for account in accounts:
        account.set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)

    def end():
        for account in accounts:
            account.set_connection(ConnectionStatus.CONNECTED)

    return end


def mute(fleet):
    """Let nothing be heard of any terminal; return how to end it."""
    fleet.faults.switch_on(Fault(kind=FaultKind.MUTE))
    return lambda: fleet.faults.switch_off(FaultKind.MUTE)


@pytest.mark.parametrize("fail", [disconnect_broker, mute])
async def test_a_server_that_fails_is_one_incident_and_its_links_return_one_by_one(fail):
    """Five minutes of maintenance: one incident, and about five links a second come back."""
    with capture_logs() as logs:
        async with running_fleet(accounts=24, links=24) as fleet:
            await fleet.start("node-1", seed=1)
            await asyncio.sleep(60)
            assert fleet.live == 24
            end = fail(fleet)
            await asyncio.sleep(5 * 60)
            dials = len(fleet.service.opened)
            end()
            over_at = fleet.clock.now()
            await asyncio.sleep(5 * 60)
            assert fleet.live == 24
            back = returns(fleet, since=over_at)
    assert len(back) == 24
    for second in range(int(back[-1]) + 1):
        assert sum(second <= each < second + 1 for each in back) <= 7
    assert back[-1] < 4 * 60
    assert dials < 24 + 24 + 12  # at first, after the loss, and the probes
    told = stages(logs)
    assert told.count(("server", "opened")) == 1
    assert (told[0], told[-1]) == (("server", "opened"), ("server", "closed"))


async def test_what_nobody_foresaw_costs_one_link_one_attempt():
    """A session that fails with an error of no known kind: its link comes back, others stay."""
    async with running_fleet(accounts=3, links=3) as fleet:
        await fleet.start("node-1", seed=1)
        await asyncio.sleep(30)
        moves = Counter(row.account_id for row in fleet.state.transitions)
        [session] = fleet.service._sessions[next(iter(fleet.broker.accounts))]

        def die():
            raise RuntimeError("an SDK's surprise")

        session._advance = die
        session._woken.set()
        await asyncio.sleep(30)
        after = Counter(row.account_id for row in fleet.state.transitions)
        assert [number for number in after if after[number] > moves[number]] == [1]
        assert "Crashed" in {row.reason for row in fleet.state.transitions}
        assert fleet.live == 3
        await settle(fleet, live=3)
