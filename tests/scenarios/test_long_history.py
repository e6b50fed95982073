"""A first pull of a long history: closed piece by piece, resumed, and fair to the others."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from link_world import START, World, running_link

from brokerd.config.settings import LinkSettings
from brokerd.domain import Phase, Proof
from brokerd.errors import RemoteUnavailable
from brokerd.ledger.content import receipt_of
from brokerd.sandbox.habits import Past

pytestmark = pytest.mark.looptime(noop_cycles=0)
NONE = Past(deals=0, positions=0)
SETTINGS = LinkSettings(pull_pages=1)


def book_hourly(world: World, count: int) -> None:
    """Book so many deals an hour apart, the last one a month old."""
    for age in range(count, 0, -1):
        world.book("1.00", age=timedelta(days=30, hours=age), is_quiet=True)


def assert_covered(world: World) -> None:
    """Check that windows tile history up to the watermark, each with a true receipt."""
    windows = world.state.windows[world.account_id]
    assert all(one.end == two.start for one, two in pairwise(windows))
    assert windows[-1].end == world.watermark
    for window in windows:
        inside = [d for d in world.ledger.values() if window.start <= d.time < window.end]
        assert window.receipt == receipt_of(inside)


async def test_a_long_history_closes_windows_as_it_goes():
    """Five thousand deals at a page per span: as many windows, complete and proven."""
    async with running_link(past=NONE, settings=SETTINGS) as world:
        book_hourly(world, 5_000)
        await world.until(lambda: world.status and world.status.proof is Proof.PROVEN)
        windows = world.state.windows[world.account_id]
        assert len(windows) == 6
        assert max(window.receipt.count for window in windows) < 1_000
        assert world.sample("brokerd_sync_windows_total", outcome="split") >= 5
        assert_covered(world)
        world.assert_exact()


@pytest.mark.parametrize("way", ["kill", "drop", "steal"])
async def test_an_interrupted_first_sync_goes_on_where_it_stopped(way):
    """What is closed is not pulled again, whether session, socket or node was lost."""
    async with running_link(past=NONE, settings=SETTINGS) as world:
        book_hourly(world, 5_000)
        world.service.before_page = lambda: world.switch_delay(0.5)
        await world.until(lambda: len(world.state.windows.get(world.account_id, ())) == 3)
        reached = world.watermark
        assert reached < START - timedelta(days=30)
        world.service.history_asked_from.clear()
        if way == "steal":
            world.link.drain()
        else:
            getattr(world.service, way)(world.account.metaapi_id)
        await world.until(lambda: world.status.proof is Proof.PROVEN, within=60)
        overlap = timedelta(seconds=world.settings.reconnect_overlap_seconds)
        assert min(world.service.history_asked_from) >= reached - overlap
        assert_covered(world)
        world.assert_exact()


async def test_a_long_sync_outlasts_the_stall_limit_while_it_progresses():
    """Each span starts the limit anew; a failure within costs only its span."""
    settings = replace(SETTINGS, sync_stall_seconds=20.0)
    async with running_link(past=NONE, settings=settings) as world:
        book_hourly(world, 5_000)

        def fail_now_and_then() -> None:
            world.switch_delay(8.0)
            if len(world.service.history_asked_at) % 3 == 2:
                raise RemoteUnavailable("503")

        world.service.before_page = fail_now_and_then
        took = await world.until_live(within=200)
        assert took > 2 * settings.sync_stall_seconds
        assert world.phases.count(Phase.SYNCING) == 1
        world.assert_exact()


async def test_long_histories_are_read_in_turns():
    """A span after the first waits for a turn, and a pull of one span never does."""
    async with running_link(settings=SETTINGS) as short:
        for _ in range(short.settings.max_long_pulls):
            await short.ports.long_pulls.acquire()
        await short.until_live(within=5)
    async with running_link(past=NONE, settings=SETTINGS) as world:
        for _ in range(world.settings.max_long_pulls):
            await world.ports.long_pulls.acquire()
        book_hourly(world, 2_500)
        await asyncio.sleep(30)
        assert world.phase is Phase.SYNCING
        assert 900 < len(world.ledger) <= 1_000
        world.ports.long_pulls.release()
        await world.until_live(within=5)
        world.assert_exact()


async def test_the_stream_is_not_asked_for_a_history_of_years():
    """After an interrupted first sync the stream replays days; the pull brings the rest."""
    async with running_link(past=NONE, settings=SETTINGS) as world:
        book_hourly(world, 5_000)
        world.service.before_page = lambda: world.switch_delay(0.5)
        await world.until(lambda: len(world.state.windows.get(world.account_id, ())) == 3)
        world.service.kill(world.account.metaapi_id)
        await world.until(lambda: len(world.service.opened) == 2, within=60)
        oldest = timedelta(seconds=world.settings.rolling_overlap_seconds, minutes=2)
        assert world.service.opened_from[-1] >= START - oldest
        await world.until(lambda: world.status.proof is Proof.PROVEN, within=60)
