"""Every keeper of windows keeps the same promises: one suite over memory and Postgres."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from random import Random

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_rig import DAY, MemoryRig, PostgresRig, Rig, check_ledger, deal, recount
from prometheus_client import CollectorRegistry

from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.connector.ports import Windows
from brokerd.connector.windows import next_to_verify, to_merge
from brokerd.domain import (
    AccountId,
    Anchor,
    Deal,
    DealId,
    Fence,
    Incarnation,
    LinkId,
    LinkWrite,
    Source,
    UserId,
)
from brokerd.errors import Fenced
from brokerd.ledger.memory_windows import MemoryWindows
from brokerd.ledger.ports import NumberedWrite
from brokerd.ledger.postgres_windows import PostgresWindows
from brokerd.store import tables
from brokerd.store.engine import open_database
from brokerd.telemetry import Metrics

accounts = (AccountId(number) for number in itertools.count(70_000))
numbers = itertools.count(1)
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Bench:
    """A ledger's rig and the keeper of its windows."""

    rig: Rig
    windows: Windows

    async def own(self) -> Fence:
        """Take the lease of an account that no test used before."""
        fence = Fence(account_id=next(accounts), incarnation=Incarnation(1), epoch=1)
        await self.rig.lease(fence)
        return fence

    async def write(
        self, fence: Fence, *deals: Deal, pulled: float = 1, removals: tuple[str, ...] = ()
    ) -> None:
        """Write as a pull that began `pulled` hours into the day."""
        write = LinkWrite(
            fence=fence,
            link_id=LinkId(f"link-{fence.account_id}"),
            user_id=UserId("u1"),
            source=Source.PULL,
            deals=deals,
            removals=tuple(DealId(each) for each in removals),
            fetched_at=DAY + pulled * HOUR,
        )
        await self.rig.store.commit([NumberedWrite(write_id=next(numbers), write=write)])

    async def close(self, fence: Fence, *ends: float) -> None:
        """Close windows from the day's beginning, or the last end, to each hour."""
        for end in ends:
            await self.rig.store.close_window(fence, start=DAY, end=DAY + end * HOUR)

    async def falsify(self, fence: Fence) -> None:
        """Make every receipt of the account wrong."""
        if isinstance(self.rig, MemoryRig):
            self.rig.state.windows[fence.account_id] = [
                replace(each, receipt=replace(each.receipt, count=99))
                for each in self.rig.state.windows[fence.account_id]
            ]
            return
        assert isinstance(self.rig, PostgresRig)
        async with self.rig.database.transaction() as connection:
            await connection.execute(
                sa.update(tables.windows)
                .where(tables.windows.c.account_id == fence.account_id)
                .values(deals=99)
            )


@pytest.fixture(params=["memory", "postgres"])
def bench_url(request: pytest.FixtureRequest) -> str | None:
    """Name the database, if it is to be one; the engines start outside any running loop."""
    return None if request.param == "memory" else request.getfixturevalue("database_url")


@pytest.fixture
async def bench(bench_url: str | None) -> AsyncIterator[Bench]:
    """Give each implementation in turn."""
    if bench_url is None:
        rig = MemoryRig()
        yield Bench(rig=rig, windows=MemoryWindows(rig.state))
        return
    database_settings = DatabaseSettings(url=Secret(bench_url))
    metrics = Metrics(CollectorRegistry())
    async with open_database(database_settings, metrics=metrics, max_connections=4) as database:
        yield Bench(rig=PostgresRig(database), windows=PostgresWindows(database))


async def test_a_span_ends_before_the_deal_that_is_too_many(bench: Bench) -> None:
    """Deals of one time stay together, removed ones do not count, progress is always made."""
    fence = await bench.own()
    hours = (1, 2, 3, 3, 3, 5)
    await bench.write(fence, *(deal(number, hour=hour) for number, hour in enumerate(hours)))
    await bench.write(fence, deal(9, hour=2.5))
    await bench.write(fence, pulled=2, removals=("d9",))

    async def end(start: float, max_deals: int, until: float = 10) -> float:
        found = await bench.windows.span_end(
            fence.account_id,
            start=DAY + start * HOUR,
            end=DAY + until * HOUR,
            max_deals=max_deals,
        )
        return (found - DAY) / HOUR

    assert await end(0, 6) == 10
    assert await end(0, 5) == 5
    assert await end(0, 4) == 3
    assert await end(0, 2) == 3
    assert await end(0, 1) == 2
    assert await end(3, 1) == 5  # three deals at 3:00 cannot be parted
    assert await end(3, 1, until=4) == 4
    assert await end(5, 1) == 10
    assert await end(6, 1) == 10


async def test_merging_makes_one_window_whose_receipt_adds_up(bench: Bench) -> None:
    """Three days become one window, the fourth stays; the oldest look counts for all."""
    fence = await bench.own()
    await bench.write(fence, *(deal(number, hour=number * 7) for number in range(14)))
    await bench.close(fence, 24, 48, 72, 96)
    before = await bench.windows.closed(fence.account_id)
    assert len(before) == 4
    assert await bench.windows.merge(fence, start=DAY, end=DAY + 72 * HOUR)
    merged, last = await bench.windows.closed(fence.account_id)
    assert (merged.start, merged.end, last) == (DAY, DAY + 72 * HOUR, before[3])
    assert merged.receipt == recount(await bench.rig.rows(fence.account_id), merged)
    assert merged.receipt.count == 11
    assert merged.verified_at == min(each.verified_at for each in before[:3])
    await bench.write(fence, deal(1, hour=90), pulled=5)
    await check_ledger(bench.rig, fence.account_id)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        pytest.param(0, 24, id="one window alone"),
        pytest.param(1, 48, id="begins inside one"),
        pytest.param(0, 47, id="ends inside one"),
        pytest.param(0, 99, id="ends behind them"),
    ],
)
async def test_what_is_not_tiled_is_not_merged(bench: Bench, start: float, end: float) -> None:
    """A merge that would not be exactly some windows leaves them as they are."""
    fence = await bench.own()
    await bench.close(fence, 24, 48, 72)
    before = await bench.windows.closed(fence.account_id)
    assert not await bench.windows.merge(fence, start=DAY + start * HOUR, end=DAY + end * HOUR)
    assert await bench.windows.closed(fence.account_id) == before


async def test_verifying_notes_when_and_counts_anew(bench: Bench) -> None:
    """A true receipt is said to be true; a false one is told and put right."""
    fence = await bench.own()
    await bench.write(fence, deal(1), deal(2, hour=30))
    await bench.close(fence, 24, 48)
    first, second = await bench.windows.closed(fence.account_id)
    assert await bench.windows.verify(fence, start=first.start)
    after, untouched = await bench.windows.closed(fence.account_id)
    assert after == first
    assert after.verified_at > first.verified_at
    assert untouched.verified_at == second.verified_at
    await bench.falsify(fence)
    assert not await bench.windows.verify(fence, start=second.start)
    assert (await bench.windows.closed(fence.account_id))[1] == second
    with pytest.raises(ValueError, match="no window"):
        await bench.windows.verify(fence, start=DAY - HOUR)


async def test_an_anchor_stays_whatever_comes_later(bench: Bench) -> None:
    """The totals name the first anchor; neither another one nor a write moves it."""
    fence = await bench.own()
    assert (await bench.rig.store.totals(fence.account_id)).anchor is None
    anchor = Anchor(balance=Decimal("1234.56"), credit=Decimal(-7))
    await bench.windows.anchor(fence, anchor)
    await bench.windows.anchor(fence, Anchor(balance=Decimal(1), credit=Decimal(1)))
    await bench.write(fence, deal(1))
    await bench.close(fence, 24)
    assert (await bench.rig.store.totals(fence.account_id)).anchor == anchor
    assert await bench.rig.store.watermark(fence.account_id) == DAY + 24 * HOUR
    await bench.rig.lease(replace(fence, epoch=2))
    with pytest.raises(Fenced):
        await bench.windows.anchor(fence, anchor)


async def test_a_fenced_owner_changes_no_window(bench: Bench) -> None:
    """After a takeover the former owner neither merges nor verifies."""
    fence = await bench.own()
    await bench.close(fence, 24, 48)
    before = await bench.windows.closed(fence.account_id)
    await bench.rig.lease(replace(fence, epoch=2))
    with pytest.raises(Fenced):
        await bench.windows.merge(fence, start=DAY, end=DAY + 48 * HOUR)
    with pytest.raises(Fenced):
        await bench.windows.verify(fence, start=DAY)
    after = await bench.windows.closed(fence.account_id)
    assert [(w, w.verified_at) for w in after] == [(w, w.verified_at) for w in before]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2_400), st.integers(1, 12)),
        st.tuples(st.just("remove"), st.integers(0, 11), st.just(0)),
        st.tuples(st.just("close"), st.integers(1, 30), st.just(0)),
        st.tuples(st.just("merge"), st.integers(0, 2_400), st.integers(1, 6)),
        st.tuples(st.just("verify"), st.integers(0, 2_400), st.just(0)),
    ),
    min_size=5,
    max_size=40,
)


@given(steps=steps)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_windows_tile_history_whatever_happens(
    bench: Bench, steps: list[tuple[str, int, int]]
) -> None:
    """No overlap, no hole up to the watermark, every receipt a recount: under any order."""
    fence = await bench.own()
    watermark, random = 0.0, Random(len(steps))
    for at, (step, hour, number) in enumerate(steps):
        match step:
            case "write":
                profit = str(random.randint(1, 9))
                await bench.write(fence, deal(number, hour=hour, profit=profit), pulled=at)
            case "remove":
                await bench.write(fence, pulled=at, removals=(f"d{hour}",))
            case "close":
                watermark += hour * 3
                await bench.close(fence, watermark)
            case _:
                windows = await bench.windows.closed(fence.account_id)
                before = DAY + hour * HOUR
                if step == "merge":
                    for span in to_merge(windows, before=before, max_deals=number):
                        assert await bench.windows.merge(fence, start=span.start, end=span.end)
                elif window := next_to_verify(windows, before=before):
                    assert await bench.windows.verify(fence, start=window.start)
    await check_ledger(bench.rig, fence.account_id)
    windows = await bench.windows.closed(fence.account_id)
    assert all(one.end == two.start for one, two in itertools.pairwise(windows))
    if watermark:
        assert (windows[0].start, windows[-1].end) == (DAY, DAY + watermark * HOUR)
