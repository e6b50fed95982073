"""One pull: its pages, what it commits, what it says the broker left out."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from link_world import START, World

from brokerd.connector.pull import HORIZON, Puller
from brokerd.domain import DealId, Source
from brokerd.errors import Fenced, Incomplete, Synchronizing
from brokerd.pool.memory_nodes import MemoryNodes
from brokerd.sandbox.faults import FaultKind
from brokerd.sandbox.habits import Past

pytestmark = pytest.mark.looptime(noop_cycles=5)
BEGINNING = START - timedelta(days=400)


@asynccontextmanager
async def pulling(**options):
    """Give a puller over a claimed account, and the writer it commits with."""
    world = World(**options)
    node = await MemoryNodes(world.state).register("node", max_links=1)
    [claim] = await world.queue.claim(node, limit=1)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.writer.run())
        yield world, Puller(claim, rest=world.service, ledger=world.writer, clock=world.clock)
        task.cancel()


async def test_a_pull_commits_what_is_new_and_names_it():
    """All deals of the span are written as pulled, at the time their page was asked for."""
    async with pulling() as (world, puller):
        pulled = await puller.pull(BEGINNING)
        assert pulled.inserted == set(world.truth)
        assert (pulled.held, pulled.missing) == ({}, {})
        assert pulled.fetched_at == START
        rows = world.state.deals.values()
        assert {row.source for row in rows} == {Source.PULL}
        again = await puller.pull(BEGINNING)
        assert again.inserted == frozenset()
        assert set(again.held) == set(world.truth)


async def test_a_pull_reads_only_its_span():
    """What lies before the start is neither asked for nor called missing."""
    async with pulling() as (world, puller):
        await puller.pull(BEGINNING)
        start = START - timedelta(days=5)
        world.account.delete(world.true_ids[0])
        pulled = await puller.pull(start)
        assert set(pulled.held) == {d.deal_id for d in world.account.deals(start=start)}
        assert not pulled.missing


async def test_what_the_answer_lacks_is_missing_with_its_amount():
    """A deal the ledger holds and no page brought is named with book and amount."""
    async with pulling() as (world, puller):
        await puller.pull(BEGINNING)
        gone = world.account.delete(world.true_ids[3])
        pulled = await puller.pull(BEGINNING)
        assert {k: v.amount for k, v in pulled.missing.items()} == {gone.deal_id: gone.amount}
        assert gone.deal_id in world.ledger


async def test_a_clock_ahead_of_ours_hides_nothing():
    """A deal that the broker dates into our near future is pulled."""
    async with pulling() as (world, puller):
        future = world.book(age=-HORIZON + timedelta(seconds=1), is_quiet=True)
        pulled = await puller.pull(BEGINNING)
        assert future in pulled.inserted


async def test_a_partial_answer_is_an_exception():
    """`synchronizing: true` is never read as a complete page, whatever it holds."""
    async with pulling() as (world, puller):
        world.switch_on(FaultKind.SYNCHRONIZING)
        with pytest.raises(Synchronizing):
            await puller.pull(BEGINNING)
        assert not world.ledger


async def test_a_history_that_shrinks_between_two_pages_is_incomplete():
    """When the next page does not begin where the last one ended, nothing may be concluded."""
    async with pulling(past=Past(deals=0, positions=0)) as (world, puller):
        world.book_many(1_000)
        first = world.true_ids[0]
        world.service.between_pages = lambda: first in world.truth and world.account.delete(first)
        with pytest.raises(Incomplete, match="history moved"):
            await puller.pull(BEGINNING)
        assert len(world.ledger) == 1_000


async def test_a_fenced_pull_raises():
    """A lost lease stops a pull at its first page."""
    async with pulling() as (world, puller):
        world.steal()
        with pytest.raises(Fenced):
            await puller.pull(BEGINNING)
        assert not world.ledger


async def test_nothing_to_write_is_no_write():
    """An empty commit asks the ledger nothing, not even whether we are fenced."""
    async with pulling() as (world, puller):
        world.steal()
        assert await puller.commit((), fetched_at=START) == frozenset()
        with pytest.raises(Fenced):
            await puller.commit((), fetched_at=START, removals=(DealId("1"),))
