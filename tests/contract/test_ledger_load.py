"""More deals than Postgres takes at once: one link's burst, and a server that is slow."""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

import sqlalchemy as sa
from ledger_rig import PostgresRig, deal
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, LedgerSettings, Secret
from brokerd.domain import (
    AccountId,
    Deal,
    Fence,
    Incarnation,
    LinkId,
    LinkWrite,
    Source,
    UserId,
    WriteOutcome,
)
from brokerd.ledger.ports import LedgerStore, NumberedWrite
from brokerd.ledger.writer import Writer
from brokerd.store.engine import open_database
from brokerd.telemetry import Metrics

numbers = itertools.count()


@dataclass
class Watched:
    """A store, and the batches that it committed: how many deals of which accounts."""

    inner: LedgerStore
    batches: list[Mapping[AccountId, int]] = field(default_factory=list)

    async def commit(self, writes: Sequence[NumberedWrite]) -> Mapping[AccountId, WriteOutcome]:
        """Commit and note."""
        done = await self.inner.commit(writes)
        self.batches.append({e.write.fence.account_id: len(e.write.deals) for e in writes})
        return done

    def __getattr__(self, name: str) -> object:
        """Do everything else as the store does it."""
        return getattr(self.inner, name)


@dataclass
class Load:
    """A writer over Postgres and what its callers went through."""

    rig: PostgresRig
    store: Watched
    writer: Writer
    metrics: Metrics
    seconds: list[float] = field(default_factory=list)
    batches_waited: list[int] = field(default_factory=list)

    async def own(self, number: int) -> Fence:
        """Take the lease of an account."""
        fence = Fence(account_id=AccountId(number), incarnation=Incarnation(1), epoch=1)
        await self.rig.lease(fence)
        return fence

    async def write(self, fence: Fence, *deals: Deal) -> None:
        """Write as a link's reader does; note what that took."""
        loop = asyncio.get_running_loop()
        began_at, batches = loop.time(), len(self.store.batches)
        outcome = await self.writer.write(
            LinkWrite(
                fence=fence,
                link_id=LinkId(f"l{fence.account_id}"),
                user_id=UserId("u"),
                source=Source.STREAM,
                deals=deals,
            )
        )
        assert outcome.inserted == {each.deal_id for each in deals}
        self.seconds.append(loop.time() - began_at)
        self.batches_waited.append(len(self.store.batches) - batches)

    async def trade(self, fence: Fence, *, until: asyncio.Event, per_second: float) -> int:
        """Write a deal now and then; return how many."""
        random = Random(fence.account_id)
        made = 0
        while not until.is_set():
            await asyncio.sleep(random.expovariate(per_second))
            await self.write(fence, deal(next(numbers)))
            made += 1
        return made

    async def count(self) -> list[tuple[int, int]]:
        """Count each account's deals, and the events that tell of them."""
        query = (
            "SELECT (SELECT count(*) FROM brokerd.deals d WHERE d.account_id = l.account_id),"
            " (SELECT count(DISTINCT deal_id) FROM brokerd.events e"
            " WHERE e.account_id = l.account_id) FROM brokerd.leases l ORDER BY account_id"
        )
        async with self.rig.database.statement() as connection:
            return [tuple(row) for row in await connection.execute(sa.text(query))]

    async def run(self, statement: str) -> None:
        """Run a statement beside the writer."""
        async with self.rig.database.statement() as connection:
            await connection.exec_driver_sql(statement)

    def p99_ms(self) -> float:
        """Return what most writes took at most, and forget them."""
        sample, self.seconds = sorted(self.seconds), []
        return 1_000 * sample[int(0.99 * (len(sample) - 1))]


@asynccontextmanager
async def loaded(url: str, settings: LedgerSettings | None = None) -> AsyncIterator[Load]:
    """Run a writer over the database."""
    metrics = Metrics(CollectorRegistry())
    async with open_database(DatabaseSettings(url=Secret(url)), metrics=metrics) as database:
        rig = PostgresRig(database)
        store = Watched(rig.store)
        writer = Writer(
            store,
            settings=settings or LedgerSettings(),
            clock=SystemClock(),
            random=Random(3),
            metrics=metrics,
        )
        async with asyncio.TaskGroup() as group:
            task = group.create_task(writer.run())
            yield Load(rig=rig, store=store, writer=writer, metrics=metrics)
            task.cancel()


async def burst(load: Load, fence: Fence, deals: Sequence[Deal], *, seconds: float) -> None:
    """Let deals arrive within so many seconds, and write as a link's reader does: all there are."""
    loop = asyncio.get_running_loop()
    began_at, sent = loop.time(), 0
    while sent < len(deals):
        part = min(1.0, (loop.time() - began_at) / seconds)
        arrived = int(part * len(deals))
        if arrived == sent:
            await asyncio.sleep(0.001)
            continue
        await load.write(fence, *deals[sent:arrived])
        sent = arrived


async def test_one_links_burst_leaves_the_others_their_place(database_url: str) -> None:
    """Ten thousand deals in a second: the others' next deal is in the next batch all the same."""
    async with loaded(database_url) as load:
        settings = LedgerSettings()
        storm, *others = [await load.own(number) for number in range(1, 22)]
        deals = [deal(next(numbers)) for _ in range(10_000)]

        async def trade_beside(what: asyncio.Task[None]) -> int:
            """Let the others trade until something is done; return how many deals they made."""
            done = asyncio.Event()
            what.add_done_callback(lambda _: done.set())
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(load.trade(fence, until=done, per_second=10))
                    for fence in others
                ]
            return sum(task.result() for task in tasks)

        async with asyncio.TaskGroup() as group:
            made = await trade_beside(group.create_task(asyncio.sleep(2)))
            calm_ms = load.p99_ms()
            load.batches_waited.clear()
            load.store.batches.clear()
            storming = Load(load.rig, load.store, load.writer, load.metrics)
            made += await trade_beside(
                group.create_task(burst(storming, storm, deals, seconds=1.0))
            )
        storm_ms = load.p99_ms()
        counts = await load.count()
    waited = max(load.batches_waited)
    largest = max(batch.get(storm.account_id, 0) for batch in load.store.batches)
    sys.stdout.write(
        f"others' p99 {calm_ms:.0f} ms without and {storm_ms:.0f} ms with the burst, which took"
        f" {sum(storming.seconds):.1f} s; at most {waited} batches waited for, {largest} of its"
        " deals in one\n"
    )
    assert counts[0] == (10_000, 10_000)
    assert sum(rows for rows, _ in counts[1:]) == sum(events for _, events in counts[1:]) == made
    assert largest <= settings.link_batch_deals
    assert waited <= 2, "the one under way, and their own"


SLOW = """
CREATE FUNCTION public.be_slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(2);
    RETURN NULL;
END $$;
CREATE TRIGGER slow AFTER INSERT ON brokerd.events
    FOR EACH STATEMENT EXECUTE FUNCTION public.be_slow();
"""


async def test_a_slow_postgres_gets_larger_batches_and_callers_that_wait(database_url: str) -> None:
    """Two seconds a commit: what arrives meanwhile goes together, what has no room waits."""
    settings = replace(LedgerSettings(), batch_deals=100, link_batch_deals=10, buffer_deals=200)
    async with loaded(database_url, settings) as load:
        fences = [await load.own(number) for number in range(1, 31)]
        await load.run(SLOW)
        most = 0

        async def bring(fence: Fence) -> None:
            for _ in range(2):
                await load.write(fence, *(deal(next(numbers)) for _ in range(10)))

        async def look() -> None:
            nonlocal most
            while True:
                held = load.metrics.registry.get_sample_value("brokerd_buffer_deals")
                assert held is not None
                most = max(most, int(held))
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            looking = group.create_task(look())
            async with asyncio.TaskGroup() as bringing:
                for fence in fences:
                    bringing.create_task(bring(fence))
            looking.cancel()
        counts = await load.count()
        sizes = [sum(batch.values()) for batch in load.store.batches]
        slowest = max(load.seconds)
    sys.stdout.write(
        f"{sum(sizes)} deals in {len(sizes)} commits of {min(sizes)} to {max(sizes)}, at most"
        f" {most} in the buffer, the last answered after {slowest:.1f} s\n"
    )
    assert counts == [(20, 20)] * 30
    assert max(sizes) == settings.batch_deals
    assert settings.batch_deals < most <= settings.buffer_deals
