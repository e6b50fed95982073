import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from random import Random

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokerd.clock import SystemClock
from brokerd.config.settings import LedgerSettings
from brokerd.domain import (
    AccountId,
    BadReason,
    Deal,
    DealId,
    Fence,
    Incarnation,
    LinkId,
    LinkWrite,
    Source,
    UserId,
    WriteOutcome,
)
from brokerd.errors import BadDeal, Fenced, StoreUnavailable
from brokerd.ledger.memory import MemoryLedgerStore
from brokerd.ledger.ports import NumberedWrite
from brokerd.ledger.writer import Writer
from brokerd.store.memory import LeaseRow, MemoryState
from brokerd.telemetry import Metrics

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
pytestmark = pytest.mark.looptime(noop_cycles=0)


class FaultyStore(MemoryLedgerStore):
    """The memory store behind a network and a disk that can be switched off."""

    def __init__(self, state: MemoryState) -> None:
        super().__init__(state)
        self.is_away = False
        self.answers_to_lose = 0
        self.seconds_per_batch = 0.001
        self.poison = "poison"
        self.batches: list[Sequence[NumberedWrite]] = []
        self.attempts = 0
        self.running = 0
        self.max_running = 0

    async def commit(self, writes: Sequence[NumberedWrite]) -> Mapping[AccountId, WriteOutcome]:
        """Take time, then fail as told."""
        self.attempts += 1
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            await asyncio.sleep(self.seconds_per_batch)
        finally:
            self.running -= 1
        self._fail_if_away()
        if any(deal.symbol == self.poison for each in writes for deal in each.write.deals):
            raise BadDeal("refused")
        done = await super().commit(writes)
        if self.answers_to_lose:
            self.answers_to_lose -= 1
            raise StoreUnavailable("the answer was lost")
        self.batches.append(writes)
        return done

    async def watermark(self, account_id: AccountId) -> datetime | None:
        """Fail as told."""
        self._fail_if_away()
        return await super().watermark(account_id)

    def _fail_if_away(self) -> None:
        if self.is_away:
            raise StoreUnavailable("away")


class Bench:
    """A writer over a faulty store, and the leases of as many accounts as asked for."""

    def __init__(self, settings: LedgerSettings) -> None:
        self.state = MemoryState(clock=SystemClock())
        self.store = FaultyStore(self.state)
        self.metrics = Metrics(CollectorRegistry())
        self.writer = Writer(
            self.store,
            settings=settings,
            clock=SystemClock(),
            random=Random(7),
            metrics=self.metrics,
        )

    def fence(self, number: int) -> Fence:
        """Own that account."""
        account_id = AccountId(number)
        self.state.leases[account_id] = LeaseRow(
            account_id=account_id,
            owner=Incarnation(1),
            epoch=1,
            is_wanted=True,
            deadline=NOON,
            queued_at=NOON,
        )
        return Fence(account_id=account_id, incarnation=Incarnation(1), epoch=1)

    def sample(self, name: str, **labels: str) -> float:
        """Read a metric."""
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None, name
        return value


@asynccontextmanager
async def bench(**settings: float) -> AsyncIterator[Bench]:
    """Run a writer for the time of a test."""
    made = Bench(LedgerSettings(**settings))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(made.writer.run())
        yield made
        task.cancel()


numbers = itertools.count()


def deal(symbol: str = "EURUSD") -> Deal:
    """Build a deal that no test used before."""
    return Deal(
        deal_id=DealId(f"d{next(numbers)}"),
        type="DEAL_TYPE_BUY",
        entry=None,
        symbol=symbol,
        volume=None,
        price=None,
        time=NOON,
        broker_time="",
        profit=Decimal(1),
        commission=Decimal(0),
        swap=Decimal(0),
        order_id=None,
        position_id=None,
        raw="{}",
    )


def write(fence: Fence, *deals: Deal) -> LinkWrite:
    """Build a write from the stream."""
    return LinkWrite(
        fence=fence,
        link_id=LinkId(f"l{fence.account_id}"),
        user_id=UserId("u"),
        source=Source.STREAM,
        deals=deals,
    )


async def test_gathers_many_links_into_one_statement() -> None:
    """Deals that arrive within the batch's age are committed together, and each is answered."""
    async with bench(batch_age_seconds=0.005) as b:
        writes = [write(b.fence(number), deal()) for number in range(50)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(b.writer.write(each)) for each in writes]
    assert [len(batch) for batch in b.store.batches] == [50]
    assert [task.result().inserted for task in tasks] == [
        {each.deals[0].deal_id} for each in writes
    ]
    assert b.sample("brokerd_deals_committed_total", result="inserted") == 50
    assert b.sample("brokerd_buffer_deals") == 0
    assert b.sample("brokerd_db_transaction_duration_seconds_count", op="write") == 1


async def test_a_lone_deal_waits_no_longer_than_the_age() -> None:
    """Company is awaited for 5 ms, then the statement leaves."""
    async with bench(batch_age_seconds=0.005) as b:
        started = asyncio.get_running_loop().time()
        await b.writer.write(write(b.fence(1), deal()))
        assert asyncio.get_running_loop().time() - started == pytest.approx(0.006, abs=0.001)


async def test_a_full_batch_does_not_wait_for_its_age() -> None:
    """Enough deals leave at once."""
    async with bench(batch_deals=10, batch_age_seconds=60) as b:
        async with asyncio.timeout(1):
            await b.writer.write(write(b.fence(1), *(deal() for _ in range(10))))
        assert b.store.attempts == 1


async def test_one_statement_at_a_time_and_each_link_in_order() -> None:
    """Writes of one link are committed one after the other, as they came."""
    async with bench() as b:
        fence = b.fence(1)
        writes = [write(fence, deal()) for _ in range(5)] + [write(b.fence(2), deal())]
        async with asyncio.TaskGroup() as group:
            for each in writes:
                group.create_task(b.writer.write(each))
        events = [e.deal_id for e in b.state.events if e.account_id == fence.account_id]
    assert events == [each.deals[0].deal_id for each in writes[:5]]
    assert b.store.max_running == 1
    assert [len(batch) for batch in b.store.batches] == [2, 1, 1, 1, 1]


async def test_a_large_write_is_committed_in_parts_and_answered_whole() -> None:
    """A write beyond one link's part of a batch is cut, its outcome is not."""
    async with bench(batch_deals=20, link_batch_deals=10, buffer_deals=25) as b:
        large = write(b.fence(1), *(deal() for _ in range(34)))
        outcome = await b.writer.write(large)
    assert outcome.inserted == {each.deal_id for each in large.deals}
    sizes = [sum(len(each.write.deals) for each in batch) for batch in b.store.batches]
    assert sizes == [10, 10, 10, 4]


async def test_an_empty_write_asks_nothing_of_the_store() -> None:
    """Nothing in, nothing out."""
    async with bench() as b:
        assert (await b.writer.write(write(b.fence(1)))).inserted == frozenset()
        assert b.store.attempts == 0


async def test_a_fenced_link_is_told_and_its_neighbours_commit() -> None:
    """`Fenced` reaches the one whose lease moved, and nobody else."""
    async with bench() as b:
        good, lost = b.fence(1), replace(b.fence(2), epoch=9)
        results = await asyncio.gather(
            b.writer.write(write(good, deal())),
            b.writer.write(write(lost, deal())),
            return_exceptions=True,
        )
    assert isinstance(results[0], WriteOutcome)
    assert isinstance(results[1], Fenced)
    assert b.sample("brokerd_fenced_writes_total") == 1


async def test_data_that_the_store_refuses_goes_to_quarantine_alone() -> None:
    """A batch is halved by link and then by deal; every neighbour is durable."""
    async with bench() as b:
        writes = [
            write(
                b.fence(n),
                *(deal("poison" if (n, at) in {(3, 0), (11, 2)} else "EURUSD") for at in range(3)),
            )
            for n in range(16)
        ]
        with capture_logs() as logs:
            outcomes = await asyncio.gather(*(b.writer.write(each) for each in writes))
    assert [n for n, outcome in enumerate(outcomes) if outcome.refused] == [3, 11]
    assert outcomes[3].refused == {writes[3].deals[0].deal_id}
    assert len(b.state.deals) == 46
    kept = list(b.state.quarantine.values())
    assert {(row.account_id, row.record.deal_id) for row in kept} == {
        (3, writes[3].deals[0].deal_id),
        (11, writes[11].deals[2].deal_id),
    }
    assert {row.record.reason for row in kept} == {BadReason.REFUSED}
    assert b.sample("brokerd_buffer_deals") == 0
    assert b.sample("brokerd_deals_quarantined_total", reason="refused") == 2
    assert sum(entry["event"] == "ledger.deal_quarantined" for entry in logs) == 2


async def test_a_bad_row_is_parted_before_it_is_queued() -> None:
    """What can be seen without the store is kept raw, once, and its neighbour commits."""
    async with bench() as b:
        bad = replace(deal("EUR\0USD"), raw='{"id":"7","symbol":"EUR\0USD<script>"}')
        for _ in range(3):
            outcome = await b.writer.write(write(b.fence(1), bad, deal("EURUSD")))
            assert outcome.refused == {bad.deal_id}
    (row,) = b.state.quarantine.values()
    assert (row.record.reason, row.times) == (BadReason.TEXT, 3)
    assert row.record.raw == '{"id":"7","symbol":"EUR\\u0000USD<script>"}'
    assert b.sample("brokerd_deals_quarantined_total", reason="text") == 1
    assert len(b.state.deals) == 3


async def test_ten_minutes_without_the_store_lose_nothing_and_grow_nothing() -> None:
    """Nothing is answered, the buffer stays bounded, callers wait; then all is committed."""
    async with bench(batch_deals=10, buffer_deals=40, retry_ceiling_seconds=5) as b:
        b.store.is_away = True
        writes = [write(b.fence(number), deal()) for number in range(100)]
        with capture_logs() as logs:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(b.writer.write(each)) for each in writes]
                await asyncio.sleep(600)
                assert not any(task.done() for task in tasks)
                assert b.sample("brokerd_buffer_deals") == 40
                attempts = b.store.attempts
                b.store.is_away = False
                async with asyncio.timeout(6):
                    await asyncio.wait(tasks)
        assert all(len(task.result().inserted) == 1 for task in tasks)
    assert 100 < attempts < 600
    assert [each["log_level"] for each in logs if each["event"] == "ledger.store_lost"][:2] == [
        "warning",
        "debug",
    ]
    assert [each["event"] for each in logs][-1] == "ledger.store_recovered"
    assert len(b.state.deals) == len(b.state.events) == 100


async def test_deals_with_huge_records_are_bounded_in_bytes() -> None:
    """Few deals fill the buffer when each takes 60 KB; statements stay small; all is committed."""
    huge = "x" * 60_000
    async with bench(batch_bytes=200_000, buffer_bytes=500_000) as b:
        b.store.is_away = True
        writes = [write(b.fence(n), replace(deal(), raw=huge)) for n in range(30)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(b.writer.write(each)) for each in writes]
            await asyncio.sleep(60)
            assert b.sample("brokerd_buffer_deals") == 8
            assert 480_000 < b.sample("brokerd_buffer_bytes") <= 500_000
            b.store.is_away = False
        assert all(len(task.result().inserted) == 1 for task in tasks)
        assert max(len(batch) for batch in b.store.batches) == 3
        assert b.sample("brokerd_buffer_bytes") == 0


async def test_enough_bytes_leave_at_once() -> None:
    """As enough deals do, without the age; a page of huge deals is cut by bytes."""
    huge = "x" * 60_000
    async with bench(batch_bytes=200_000, batch_age_seconds=60) as b:
        writes = [write(b.fence(n), replace(deal(), raw=huge)) for n in range(4)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(b.writer.write(each)) for each in writes]
            await asyncio.sleep(1)
            assert [task.done() for task in tasks] == [True, True, True, False]
        page = write(b.fence(9), *(replace(deal(), raw=huge) for _ in range(8)))
        assert len((await b.writer.write(page)).inserted) == 8
    sizes = [sum(len(each.write.deals) for each in batch) for batch in b.store.batches]
    assert sizes == [3, 1, 3, 3, 2]


async def test_a_lost_answer_is_made_up_for() -> None:
    """The commit happened, its answer did not: the outcome still says what was done, once."""
    async with bench() as b:
        b.store.answers_to_lose = 3
        each = write(b.fence(1), deal(), deal())
        outcome = await b.writer.write(each)
    assert outcome.inserted == {one.deal_id for one in each.deals}
    assert len(b.state.events) == 2
    assert b.store.attempts == 4


async def test_reads_and_windows_wait_for_the_store_too() -> None:
    """A link does not fall because Postgres is away for a while."""
    async with bench() as b:
        fence = b.fence(1)
        await b.writer.close_window(fence, start=NOON, end=NOON.replace(hour=13))
        b.store.is_away = True
        async with asyncio.TaskGroup() as group:
            task = group.create_task(b.writer.watermark(fence.account_id))
            await asyncio.sleep(120)
            assert not task.done()
            b.store.is_away = False
        assert task.result() == NOON.replace(hour=13)
        assert (await b.writer.totals(fence.account_id)).deals == 0
        assert await b.writer.held(fence.account_id, start=NOON, end=NOON) == {}


async def test_a_caller_that_gives_up_takes_nobody_with_it() -> None:
    """A cancelled write is not sent, and its room is free again."""
    async with bench(buffer_deals=2, batch_age_seconds=1) as b:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(b.writer.write(write(b.fence(n), deal()))) for n in range(4)]
            await asyncio.sleep(0.5)
            tasks[1].cancel()
            tasks[2].cancel()
        assert [task.cancelled() for task in tasks] == [False, True, True, False]
    assert len(b.state.deals) == 2
    assert b.sample("brokerd_buffer_deals") == 0


async def test_drain_commits_what_is_queued_and_takes_nothing_more() -> None:
    """After the drain everything that was accepted is durable."""
    async with bench(batch_deals=2, batch_age_seconds=5) as b:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(b.writer.write(write(b.fence(n), deal()))) for n in range(5)]
            await asyncio.sleep(0)
            b.store.answers_to_lose = 1
            await b.writer.drain()
            assert all(task.done() for task in tasks)
        with pytest.raises(StoreUnavailable):
            await b.writer.write(write(b.fence(9), deal()))
        b.store.is_away = True
        with pytest.raises(StoreUnavailable):
            await b.writer.watermark(AccountId(1))
    assert len(b.state.deals) == 5


async def test_whoever_still_waits_when_the_writer_ends_is_told() -> None:
    """A drain that ran out of time leaves nobody hanging: queued, in flight or without room."""
    async with asyncio.TaskGroup() as outer, bench(batch_deals=1, buffer_deals=2) as b:
        b.store.is_away = True
        tasks = [
            outer.create_task(settled(b.writer.write(write(b.fence(n), deal())))) for n in range(4)
        ]
        await asyncio.sleep(30)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await b.writer.drain()
    assert all(isinstance(task.result(), StoreUnavailable) for task in tasks)


async def test_a_mistake_of_ours_ends_the_writer() -> None:
    """What is neither the store's absence nor bad data must not be retried for ever."""
    made = Bench(LedgerSettings())
    fence = made.fence(1)
    made.state.leases = None
    results = await asyncio.gather(
        made.writer.run(), made.writer.write(write(fence, deal())), return_exceptions=True
    )
    assert [type(result) for result in results] == [AttributeError, StoreUnavailable]


async def settled(call: object) -> object:
    """Return what a call raised, or its result."""
    return (await asyncio.gather(call, return_exceptions=True))[0]
