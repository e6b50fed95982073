"""One MetaApi user's token is revoked: its links are blocked, another user's do not notice."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
from governed_rest import GovernedRest
from governing import new_governor
from link_world import World
from prometheus_client import CollectorRegistry
from simulated_money import build_provisioner

from brokerd.config.settings import GovernorSettings
from brokerd.connector.governor.stream import GovernedStream
from brokerd.connector.provisioning.memory import MemoryIntents
from brokerd.domain import Phase, UserAction
from brokerd.errors import TopUpRequired
from brokerd.telemetry import Metrics

pytestmark = pytest.mark.looptime(noop_cycles=0)
LINKS = 5
PROBE_SECONDS = 900


class Side:
    """The links of one MetaApi user."""

    def __init__(self, worlds, doors):
        self.worlds = worlds
        self.doors = doors

    @property
    def phases(self):
        """Return the phase of each link."""
        return [world.phase for world in self.worlds]

    @property
    def sent(self):
        """Return when its requests left, in order."""
        return sorted(at for door in self.doors for at, _ in door.sent)

    def transitions(self):
        """Return how often its links changed."""
        return sum(len(world.state.transitions) for world in self.worlds)

    async def until(self, phase, *, within):
        """Wait until all its links are in a phase."""
        for _ in range(int(within)):
            if set(self.phases) == {phase}:
                return
            await asyncio.sleep(1)
        raise AssertionError([world.status for world in self.worlds])


@asynccontextmanager
async def two_users():
    """Run links of two MetaApi users behind one governor."""
    worlds = [World(seed=10 * number) for number in range(1, 2 * LINKS + 1)]
    clock = worlds[0].clock
    governor = new_governor(
        clock=clock, metrics=Metrics(CollectorRegistry()), settings=GovernorSettings()
    )
    governor._ports.fleet._accounts = {"main": LINKS, "other": LINKS}
    doors = []
    for number, world in enumerate(worlds):
        door = GovernedRest(world.service, governor=governor, clock=clock)
        doors.append(door)
        if number >= LINKS:
            row = world.state.accounts[world.account_id]
            remote = replace(row.spec.metaapi, token="other")
            world.state.accounts[world.account_id] = replace(
                row, spec=replace(row.spec, metaapi=remote)
            )
        world.ports = replace(
            world.ports,
            rest=door,
            stream=GovernedStream(world.service, gate=governor),
            provisioning=build_provisioner(
                rest=door,
                port=world.port,
                intents=MemoryIntents(world.money),
                clock=clock,
                metrics=world.metrics,
            ),
        )
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(world.writer.run()) for world in worlds]
        tasks += [group.create_task(world.run()) for world in worlds]
        yield Side(worlds[:LINKS], doors[:LINKS]), Side(worlds[LINKS:], doors[LINKS:])
        for task in reversed(tasks):
            task.cancel()


async def test_f18_a_revoked_token_blocks_its_links_with_one_probe_in_15_minutes():
    """Two hours: eight requests for all its links, each link told; the others trade on."""
    async with two_users() as (main, other):
        await main.until(Phase.LIVE, within=30)
        await other.until(Phase.LIVE, within=30)
        await asyncio.sleep(400)
        calm = other.transitions()
        for world in main.worlds:
            world.service.is_token_revoked = True
            world.service.kill(world.account.metaapi_id)
        revoked_at = main.worlds[0].clock.monotonic()
        await main.until(Phase.BLOCKED, within=60)
        for world in main.worlds:
            assert world.status.reason == "Unauthorized"
            assert world.status.user_action is UserAction.FIX_TOKEN
            assert world.status.next_attempt_at is not None
        for _ in range(120):
            await asyncio.sleep(60)
            for world in other.worlds:
                world.trade()
        asked = [at for at in main.sent if at > revoked_at]
        assert 7 <= len(asked) <= 9
        gaps = [later - earlier for earlier, later in pairwise(asked)]
        assert min(gaps) >= PROBE_SECONDS - 1
        assert set(main.phases) == {Phase.BLOCKED}
        assert set(other.phases) == {Phase.LIVE}
        assert other.transitions() == calm
        for world in main.worlds:
            world.service.is_token_revoked = False
        await main.until(Phase.LIVE, within=2 * PROBE_SECONDS)
        await asyncio.sleep(10)
        for world in (*main.worlds, *other.worlds):
            world.assert_exact()


async def test_f16_an_empty_balance_stops_pulls_and_leaves_streams_alone():
    """Reads are refused for money: one link meets it, the others keep their streams and deals."""
    async with two_users() as (main, other):
        await main.until(Phase.LIVE, within=30)
        await other.until(Phase.LIVE, within=30)
        refused_at = main.worlds[0].clock.monotonic()
        for world in main.worlds:
            world.service.refusal = TopUpRequired("403: please top up")
        for _ in range(60):
            await asyncio.sleep(30)
            made = [world.trade(1) for world in main.worlds]
            await asyncio.sleep(1)
            for world, deals in zip(main.worlds, made, strict=True):
                if world.phase is Phase.LIVE:
                    assert set(deals) <= set(world.ledger)
        blocked = [world for world in main.worlds if world.phase is Phase.BLOCKED]
        assert 1 <= len(blocked) <= 3  # one for each probe
        assert {world.status.user_action for world in blocked} == {UserAction.TOP_UP}
        assert {world.status.reason for world in blocked} == {"Billing"}
        assert len([at for at in main.sent if at > refused_at]) <= 4
        assert set(other.phases) == {Phase.LIVE}
        for world in main.worlds:
            world.service.refusal = None
        await main.until(Phase.LIVE, within=2 * PROBE_SECONDS)
        await asyncio.sleep(700)
        for world in (*main.worlds, *other.worlds):
            world.assert_exact()
