"""A frozen node opens nothing; on virtual time."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest
from link_world import VirtualClock, World
from simulated_money import SimulatedPort

from brokerd.config.settings import PoolSettings, Secret
from brokerd.connector.provisioning.ports import NewAccount
from brokerd.domain import Incarnation, Platform
from brokerd.errors import LinkLost, Rejected, StoreUnavailable
from brokerd.pool.gate import GatedProvisioning, GatedStream
from brokerd.pool.heartbeat import Heartbeat
from brokerd.pool.memory_nodes import MemoryNodes

pytestmark = pytest.mark.looptime(noop_cycles=0)


class UnsteadyNodes(MemoryNodes):
    """A register that can be away."""

    is_away = False

    async def heartbeat(self, incarnation: Incarnation) -> None:
        """Beat if the register can be reached."""
        if self.is_away:
            raise StoreUnavailable("away")
        await super().heartbeat(incarnation)


class SlowStream:
    """A stream on which one has to wait for one's turn."""

    def __init__(self, stream, *, turn_seconds):
        self.stream = stream
        self.turn_seconds = turn_seconds

    async def open(self, remote, **options):
        """Wait, then open."""
        await asyncio.sleep(self.turn_seconds)
        return await self.stream.open(remote, **options)


class Gate:
    """A node with a heartbeat, a gate, and a service behind it."""

    def __init__(self, turn_seconds):
        self.world = World()
        self.nodes = UnsteadyNodes(self.world.state)
        self.turn_seconds = turn_seconds

    async def prepare(self):
        """Register the node and put up the gate."""
        self.heartbeat = Heartbeat(
            await self.nodes.register("node", max_links=1),
            nodes=self.nodes,
            settings=PoolSettings(),
            clock=VirtualClock(),
            registered_at=asyncio.get_running_loop().time(),
        )
        stream = SlowStream(self.world.service, turn_seconds=self.turn_seconds)
        self.stream = GatedStream(stream, heartbeat=self.heartbeat)

    async def open(self):
        """Open the account's session."""
        spec = self.world.state.accounts[self.world.account_id].spec
        return await self.stream.open(
            spec.metaapi,
            account=await self.world.service.account(spec.metaapi),
            synced_through=self.world.clock.now(),
        )


@asynccontextmanager
async def gate(*, turn_seconds=0.0):
    """Let the node's heart beat for the time of a test."""
    made = Gate(turn_seconds)
    await made.prepare()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(made.heartbeat.run())
        yield made
        task.cancel()


async def test_a_confirmed_node_opens():
    """While the heartbeat is confirmed, the gate is open."""
    async with gate() as made:
        session = await made.open()
        assert made.world.service.open_sessions == 1
        await session.close()


async def test_a_frozen_node_opens_nothing_until_it_thaws():
    """Without a confirmed heartbeat nothing is opened; with one, all is as before."""
    async with gate() as made:
        made.nodes.is_away = True
        await asyncio.sleep(9)
        await (await made.open()).close()
        await asyncio.sleep(5)
        with pytest.raises(LinkLost, match="heartbeat"):
            await made.open()
        assert made.world.service.opened == made.world.service.opened[:1]
        made.nodes.is_away = False
        await asyncio.sleep(4)
        await (await made.open()).close()


async def test_a_session_whose_turn_came_after_the_freeze_is_closed():
    """A node that froze while it waited for its turn closes what it just opened."""
    async with gate(turn_seconds=20.0) as made:
        made.nodes.is_away = True
        with pytest.raises(LinkLost, match="heartbeat"):
            await made.open()
        assert len(made.world.service.opened) == 1
        assert made.world.service.open_sessions == 0


@pytest.mark.parametrize("verb", ["create", "update", "deploy", "undeploy", "delete"])
async def test_a_frozen_node_buys_and_changes_nothing(verb):
    """Its leases may already be somebody else's; it may look, and does all again when it thaws."""
    async with gate() as made:
        port = SimulatedPort(made.world.service, VirtualClock())
        gated = GatedProvisioning(port, heartbeat=made.heartbeat)
        remote = made.world.state.accounts[made.world.account_id].spec.metaapi
        new = NewAccount(
            name="n",
            platform=Platform.MT5,
            login="1",
            password=Secret("x"),
            server="S",
            region=remote.region,
            type="cloud-g2",
            reliability="high",
        )
        calls = {
            "create": lambda: gated.create("main", new, transaction_id="t" * 32),
            "update": lambda: gated.update(remote, password=Secret("x")),
            "deploy": lambda: gated.deploy(remote),
            "undeploy": lambda: gated.undeploy(remote),
            "delete": lambda: gated.delete(remote),
        }
        made.nodes.is_away = True
        await asyncio.sleep(14)
        with pytest.raises(LinkLost, match="heartbeat"):
            await calls[verb]()
        assert port.calls == []
        assert len(await gated.accounts("main")) == 1
        made.nodes.is_away = False
        await asyncio.sleep(4)
        with suppress(Rejected):
            await calls[verb]()
        assert port.calls == [verb]
