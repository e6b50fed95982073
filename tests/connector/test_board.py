"""What a link says of itself reaches the store: in order, late if need be, fenced always."""

import asyncio

import pytest
from link_world import World

from brokerd.connector.board import Board
from brokerd.connector.proof import Finding
from brokerd.connector.states import IllegalTransition, LinkEvent
from brokerd.domain import Phase, Proof, UserAction
from brokerd.errors import Fenced
from brokerd.pool.memory_nodes import MemoryNodes

pytestmark = pytest.mark.looptime(noop_cycles=0)


async def board_in(world):
    """Claim the world's link and give it a board."""
    node = await MemoryNodes(world.state).register("node", max_links=1)
    [claim] = await world.queue.claim(node, limit=1)
    return Board(
        claim,
        lease=world.leases,
        report_seconds=world.settings.report_seconds,
        clock=world.clock,
        metrics=world.metrics,
    )


async def test_every_transition_is_stored_and_counted():
    """Phase, reason, message and what a human must do are stored; the gauge follows."""
    world = World()
    board = await board_in(world)
    board.open()
    await board.enter(LinkEvent.CLAIMED, "Claimed")
    await board.enter(LinkEvent.DIALLED, "Dialling")
    await asyncio.sleep(5)
    await board.enter(
        LinkEvent.REFUSED, "Unauthorized", message="bad", user_action=UserAction.FIX_TOKEN
    )
    assert world.status == board.status
    assert world.status.since == world.clock.now()
    assert (world.status.message, world.status.user_action) == ("bad", UserAction.FIX_TOKEN)
    assert world.phases == [Phase.CLAIMED, Phase.CONNECTING, Phase.BLOCKED]
    assert world.sample("brokerd_links", phase=Phase.BLOCKED) == 1
    assert world.sample("brokerd_link_transitions_total", to=Phase.CONNECTING) == 1
    board.close()
    assert all(world.sample("brokerd_links", phase=phase) == 0 for phase in Phase)


async def test_a_phase_entered_again_keeps_its_beginning():
    """An interruption while syncing changes the reason, not since when it syncs."""
    world = World()
    board = await board_in(world)
    events = [LinkEvent.CLAIMED, LinkEvent.DIALLED, LinkEvent.ANSWERED, LinkEvent.IDENTIFIED]
    for event in events:
        await board.enter(event, "Walking")
    began_at = world.clock.now()
    await asyncio.sleep(9)
    await board.enter(LinkEvent.INTERRUPTED, "Reconnecting")
    assert (world.status.since, world.status.reason) == (began_at, "Reconnecting")


async def test_what_must_not_happen_is_not_stored():
    """An event that the table does not know raises and leaves the status as it was."""
    world = World()
    board = await board_in(world)
    with pytest.raises(IllegalTransition, match="queued"):
        await board.enter(LinkEvent.CAUGHT_UP, "Live")
    assert board.phase is Phase.QUEUED
    assert world.status is None


async def test_a_status_that_could_not_be_stored_is_flushed():
    """While the store is away nothing is raised; the newest status is stored with `flush`."""
    world = World()
    board = await board_in(world)
    world.wire.is_cut = True
    await board.enter(LinkEvent.CLAIMED, "Claimed")
    await board.note_generation(7)
    assert not await board.flush()
    assert world.status is None
    world.wire.is_cut = False
    assert await board.flush()
    assert (world.status.phase, world.status.observed_generation) == (Phase.CLAIMED, 7)


async def test_a_fence_gets_through():
    """That the lease is lost is the one thing a report may raise."""
    world = World()
    board = await board_in(world)
    world.steal()
    with pytest.raises(Fenced):
        await board.note_proof(Finding(proof=Proof.PROVEN, detail="3 deals"))
    assert world.status is None


async def test_reports_are_stored_in_the_order_of_what_they_say():
    """A slow report followed by a quick one leaves the newer status in the store."""
    world = World()
    board = await board_in(world)
    world.wire.report_seconds = [2.0, 0.0]
    async with asyncio.TaskGroup() as group:
        group.create_task(board.enter(LinkEvent.CLAIMED, "Claimed"))
        group.create_task(board.note_generation(2))
    assert world.status == board.status
    assert world.status.observed_generation == 2


async def test_a_store_that_does_not_answer_is_not_waited_for():
    """Whoever tells of a phase goes on after `link.report_seconds`; the word follows later."""
    world = World()
    board = await board_in(world)
    world.wire.report_seconds = [3_600.0]
    began_at = world.clock.monotonic()
    await board.enter(LinkEvent.CLAIMED, "Claimed")
    assert world.clock.monotonic() - began_at == pytest.approx(world.settings.report_seconds)
    assert world.status is None
    await board.enter(LinkEvent.DIALLED, "Dialling")
    assert world.phases == [Phase.CONNECTING]
