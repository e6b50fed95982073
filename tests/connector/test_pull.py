"""One pull: its pages, what it commits, what it says the broker left out."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from link_world import START, World

from brokerd.config.settings import LinkSettings
from brokerd.connector.pull import HORIZON, Puller
from brokerd.domain import DealId, Source
from brokerd.errors import Fenced, Incomplete, MalformedAnswer, Synchronizing
from brokerd.pool.memory_nodes import MemoryNodes
from brokerd.sandbox.facts import Amendment
from brokerd.sandbox.faults import FaultKind
from brokerd.sandbox.habits import Past

pytestmark = pytest.mark.looptime(noop_cycles=0)
BEGINNING = START - timedelta(days=400)


@asynccontextmanager
async def pulling(**options):
    """Give a puller over a claimed account, and the writer it commits with."""
    world = World(**options)
    node = await MemoryNodes(world.state).register("node", max_links=1)
    [claim] = await world.queue.claim(node, limit=1)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.writer.run())
        yield world, Puller(claim, ports=world.ports)
        task.cancel()


async def test_a_pull_commits_what_is_new_and_names_it():
    """All deals of the span are written as pulled, at the time their page was asked for."""
    async with pulling() as (world, puller):
        pulled = await puller.pull(BEGINNING)
        assert pulled.inserted == {each.deal_id: each.time for each in world.truth.values()}
        assert (pulled.held, pulled.missing) == ({}, {})
        assert pulled.fetched_at == START
        rows = world.state.deals.values()
        assert {row.source for row in rows} == {Source.PULL}
        again = await puller.pull(BEGINNING)
        assert again.inserted == {}
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
        assert (await puller.commit((), fetched_at=START)).inserted == frozenset()
        with pytest.raises(Fenced):
            await puller.commit((), fetched_at=START, removals=(DealId("1"),))


NONE = Past(deals=0, positions=0)
TWO_PAGES = LinkSettings(pull_pages=2)


def book_hourly(world, count):
    """Book so many deals an hour apart, the last one a day old."""
    for age in range(count, 0, -1):
        world.book("1.00", age=timedelta(days=1, hours=age), is_quiet=True)


async def spans(puller, start):
    """Pull span by span to the end."""
    done = [await puller.pull(start)]
    while not done[-1].is_last:
        done.append(await puller.pull(done[-1].end))
    return done


async def test_a_long_history_is_pulled_in_spans_of_so_many_pages():
    """Each span ends where the next begins, none holds more than its pages, and all is read."""
    async with pulling(past=NONE, settings=TWO_PAGES) as (world, puller):
        book_hourly(world, 4_500)
        done = await spans(puller, BEGINNING)
        assert len(done) == 3
        assert [one.end for one in done[:-1]] == [two.start for two in done[1:]]
        assert max(len(each.inserted) for each in done) <= 2_000
        assert world.ledger == world.truth
        for each in await spans(puller, BEGINNING):
            held = {d for d, deal in world.truth.items() if each.start <= deal.time < each.end}
            assert set(each.held) == held
            assert not each.missing


@pytest.mark.parametrize("count", [1_000, 1_001, 1_999, 2_000, 2_001, 5_000])
async def test_deals_of_one_time_stay_in_one_span(count):
    """However many deals share a time, the span that reads them reads them all."""
    async with pulling(past=NONE, settings=TWO_PAGES) as (world, puller):
        book_hourly(world, 300)
        world.book_many(count)
        book_hourly(world, 300)
        for _ in range(2):  # into an empty ledger, and against a full one
            for each in await spans(puller, BEGINNING):
                assert not each.missing
            assert world.ledger == world.truth


async def test_what_is_missing_is_named_by_the_span_it_lies_in():
    """A cut span says nothing about what lies behind its end."""
    async with pulling(past=NONE, settings=TWO_PAGES) as (world, puller):
        book_hourly(world, 4_500)
        await spans(puller, BEGINNING)
        early, late = (world.account.delete(world.true_ids[at]).deal_id for at in (10, 4_000))
        missing = [set(each.missing) for each in await spans(puller, BEGINNING)]
        assert missing == [{early}, set(), {late}]


async def test_a_history_in_no_order_is_read_to_its_end():
    """A cut rests on the order of time; pages that have none are read on, and nothing is lost."""
    async with pulling(past=NONE, settings=TWO_PAGES) as (world, puller):
        book_hourly(world, 3_500)
        world.service.is_history_shuffled = True
        pulled = await puller.pull(BEGINNING)
        assert pulled.is_last
        assert world.ledger == world.truth


SPOIL = Amendment(warp=(("profit", "NaN"),))


async def test_a_deal_that_became_unreadable_is_not_missing():
    """The broker has it: nobody need look for it."""
    async with pulling() as (world, puller):
        await puller.pull(BEGINNING)
        spoilt = world.true_ids[3]
        world.account.amend(spoilt, SPOIL)
        pulled = await puller.pull(BEGINNING)
        assert spoilt in pulled.held
        assert not pulled.missing


@pytest.mark.parametrize("place", [0, 998, 999, 1_000])
async def test_unreadable_records_at_the_edge_of_a_page_break_no_pages(place):
    """They count as records: the next page begins where the last one ended."""
    async with pulling(past=Past(deals=0, positions=0)) as (world, puller):
        world.book_many(2_000)
        spoilt = world.true_ids[place]
        world.account.amend(spoilt, SPOIL)
        pulled = await puller.pull(BEGINNING)
        assert pulled.inserted.keys() == set(world.truth) - {spoilt}
        assert len(world.state.quarantine) == 1


async def test_a_thousand_unreadable_records_are_no_poison():
    """Then the answers have changed, and the pull fails instead of filling the quarantine."""
    async with pulling(past=Past(deals=0, positions=0)) as (world, puller):
        world.book_many(1_001)
        for deal_id in world.true_ids:
            world.account.amend(deal_id, SPOIL)
        with pytest.raises(MalformedAnswer, match="more than 1000 unreadable"):
            await puller.pull(BEGINNING)
        assert len(world.state.quarantine) == 1_000
