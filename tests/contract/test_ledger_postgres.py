"""What only a real Postgres can show of the ledger: locks, snapshots, lost connections."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import psycopg
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, LedgerSettings, Secret
from brokerd.domain import (
    AccountId,
    Deal,
    DealId,
    Fence,
    Incarnation,
    LinkId,
    LinkWrite,
    Receipt,
    Source,
    UserId,
    WriteOutcome,
)
from brokerd.errors import BadDeal, Fenced, StoreUnavailable
from brokerd.ledger.content import receipt_of
from brokerd.ledger.ports import NumberedWrite
from brokerd.ledger.postgres import PostgresLedgerStore
from brokerd.ledger.writer import Writer
from brokerd.store.engine import open_database
from brokerd.telemetry import Metrics

DAY = datetime(2026, 3, 2, tzinfo=UTC)
numbers = itertools.count(1)


@dataclass(frozen=True)
class Ledgers:
    """A store on a pool of its own, and connections to interfere with it."""

    url: str = field(repr=False)
    metrics: Metrics = field(repr=False)
    store: PostgresLedgerStore = field(repr=False)

    async def query(self, sql: str, *values: object) -> Sequence[tuple]:
        """Run one statement on a fresh connection."""
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            cursor = await connection.execute(sql, values)
            return await cursor.fetchall() if cursor.description else []

    async def own(self) -> Fence:
        """Take the lease of a new account."""
        fence = Fence(account_id=AccountId(next(numbers)), incarnation=Incarnation(1), epoch=1)
        await self.query(
            "INSERT INTO brokerd.leases (account_id, owner, epoch, is_wanted, deadline)"
            " VALUES (%s, 1, 1, true, now())",
            fence.account_id,
        )
        return fence

    @asynccontextmanager
    async def holding(
        self, sql: str, *values: object
    ) -> AsyncIterator[psycopg.AsyncConnection[tuple]]:
        """Run a statement and keep its locks while the block runs; then commit."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            await connection.execute(sql, values)
            yield connection

    async def wait_blocked(self, count: int = 1) -> list[int]:
        """Wait until so many of our backends wait for a lock; return their pids."""
        while True:
            rows = await self.query(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'brokerd'"
                " AND datname = current_database() AND wait_event_type = 'Lock'"
            )
            if len(rows) >= count:
                return [pid for (pid,) in rows]
            await asyncio.sleep(0.01)

    async def counts(self, account_id: AccountId) -> tuple[int, int, int]:
        """Count deals, events, and the account's sequence number."""
        ((deals, events, seq),) = await self.query(
            "SELECT (SELECT count(*) FROM brokerd.deals WHERE account_id = %s),"
            " (SELECT count(*) FROM brokerd.events WHERE account_id = %s),"
            " (SELECT coalesce(max(account_seq), 0) FROM brokerd.heads WHERE account_id = %s)",
            *(account_id,) * 3,
        )
        return deals, events, seq


@pytest.fixture
async def ledgers(database_url: str) -> AsyncIterator[Ledgers]:
    """Open a store with four connections."""
    metrics = Metrics(CollectorRegistry())
    settings = DatabaseSettings(url=Secret(database_url), statement_timeout_seconds=10)
    async with open_database(settings, metrics=metrics, max_connections=4) as database:
        yield Ledgers(url=database_url, metrics=metrics, store=PostgresLedgerStore(database))


def deal(number: int, **fields: object) -> Deal:
    """Build a deal."""
    values = {
        "deal_id": DealId(f"d{number}"),
        "type": "DEAL_TYPE_BUY",
        "entry": "DEAL_ENTRY_IN",
        "symbol": "EURUSD",
        "volume": Decimal("0.1"),
        "price": Decimal("1.1"),
        "time": DAY + timedelta(seconds=number),
        "broker_time": "",
        "profit": Decimal(number),
        "commission": Decimal(0),
        "swap": Decimal(0),
        "order_id": None,
        "position_id": None,
        "raw": "{}",
        **fields,
    }
    return Deal(**values)


def stream(fence: Fence, *deals: Deal) -> LinkWrite:
    """Build a write of the stream."""
    return LinkWrite(
        fence=fence,
        link_id=LinkId(f"l{fence.account_id}"),
        user_id=UserId("u"),
        source=Source.STREAM,
        deals=deals,
    )


def numbered(write: LinkWrite) -> NumberedWrite:
    """Give a write its number."""
    return NumberedWrite(write_id=next(numbers), write=write)


async def commit(ledgers: Ledgers, each: NumberedWrite) -> WriteOutcome | None:
    """Commit one write; None when it was fenced."""
    return (await ledgers.store.commit([each])).get(each.write.fence.account_id)


NOTHING = WriteOutcome(inserted=frozenset(), revised=frozenset(), removed=frozenset())
TAKE_OVER = "UPDATE brokerd.leases SET owner = 2, epoch = epoch + 1 WHERE account_id = %s"


async def test_a_zombie_that_waited_for_the_takeover_writes_nothing(ledgers: Ledgers) -> None:
    """Its snapshot is older than the takeover; the lease it locks is not."""
    fence = await ledgers.own()
    other = await ledgers.own()
    async with asyncio.TaskGroup() as group, ledgers.holding(TAKE_OVER, fence.account_id):
        write = group.create_task(
            ledgers.store.commit(
                [numbered(stream(fence, deal(1))), numbered(stream(other, deal(1)))]
            )
        )
        window = group.create_task(
            refusal(ledgers.store.close_window(fence, start=DAY, end=DAY + timedelta(1)))
        )
        await ledgers.wait_blocked(2)
    assert list(write.result()) == [other.account_id]
    assert window.result() is Fenced
    assert await ledgers.counts(fence.account_id) == (0, 0, 0)
    assert await ledgers.counts(other.account_id) == (1, 1, 1)
    assert await ledgers.query("SELECT * FROM brokerd.windows") == []


async def test_a_takeover_that_failed_leaves_the_owner_writing(ledgers: Ledgers) -> None:
    """Waiting for a transaction that rolls back costs time and nothing else."""
    fence = await ledgers.own()
    async with (
        asyncio.TaskGroup() as group,
        ledgers.holding(TAKE_OVER, fence.account_id) as connection,
    ):
        write = group.create_task(commit(ledgers, numbered(stream(fence, deal(1)))))
        await ledgers.wait_blocked()
        await connection.rollback()
    assert write.result() is not None
    assert await ledgers.counts(fence.account_id) == (1, 1, 1)


async def test_a_takeover_waits_for_a_write_in_flight(ledgers: Ledgers) -> None:
    """A statement that has passed the fence finishes before the lease can move."""
    fence = await ledgers.own()
    await commit(ledgers, numbered(stream(fence, deal(1))))
    heads = "SELECT * FROM brokerd.heads WHERE account_id = %s FOR UPDATE"
    async with asyncio.TaskGroup() as group, ledgers.holding(heads, fence.account_id):
        write = group.create_task(commit(ledgers, numbered(stream(fence, deal(2)))))
        await ledgers.wait_blocked()
        takeover = group.create_task(ledgers.query(TAKE_OVER, fence.account_id))
        await asyncio.sleep(0.2)
        assert not takeover.done()
    assert write.result() is not None
    assert await ledgers.counts(fence.account_id) == (2, 2, 2)
    assert await commit(ledgers, numbered(stream(fence, deal(3)))) is None
    new = replace(fence, incarnation=Incarnation(2), epoch=2)
    again = await commit(ledgers, numbered(stream(new, deal(2), deal(3))))
    assert again is not None
    assert again.inserted == {"d3"}


@pytest.mark.parametrize("earlier", [0, 1], ids=["first write", "later write"])
async def test_the_same_write_sent_twice_at_once_is_done_once(
    ledgers: Ledgers, earlier: int
) -> None:
    """The lost try may still run when it is sent again, each with a snapshot without the other."""
    fence = await ledgers.own()
    if earlier:
        await commit(ledgers, numbered(stream(fence, deal(1))))
    write = numbered(stream(fence, deal(2), deal(3)))
    lease = "SELECT * FROM brokerd.leases WHERE account_id = %s FOR UPDATE"
    async with asyncio.TaskGroup() as group, ledgers.holding(lease, fence.account_id):
        tries = [group.create_task(commit(ledgers, write)) for _ in range(3)]
        await ledgers.wait_blocked(3)
    for each in tries:
        assert each.result() == WriteOutcome(
            inserted=frozenset({"d2", "d3"}), revised=frozenset(), removed=frozenset()
        )
    assert await ledgers.counts(fence.account_id) == (2 + earlier,) * 3


async def test_a_window_closed_during_a_write_counts_it(ledgers: Ledgers) -> None:
    """Neither sees the other in its snapshot; the receipt must equal a recount all the same."""
    fence = await ledgers.own()
    lease = "SELECT * FROM brokerd.leases WHERE account_id = %s FOR UPDATE"
    deals = [deal(number) for number in range(5)]
    async with asyncio.TaskGroup() as group, ledgers.holding(lease, fence.account_id):
        group.create_task(commit(ledgers, numbered(stream(fence, *deals[:3]))))
        group.create_task(
            ledgers.store.close_window(fence, start=DAY, end=DAY + timedelta(hours=1))
        )
        group.create_task(commit(ledgers, numbered(stream(fence, *deals[3:]))))
        await ledgers.wait_blocked(3)
    ((count, content_hash, balance, credit),) = await ledgers.query(
        "SELECT deals, content_hash, balance, credit FROM brokerd.windows"
    )
    assert receipt_of(deals) == Receipt(
        count=count, content_hash=content_hash, balance=balance, credit=credit
    )


async def test_batches_over_the_same_accounts_never_deadlock(ledgers: Ledgers) -> None:
    """Locks are taken in the order of the accounts, whatever order the batch has."""
    fences = [await ledgers.own() for _ in range(20)]

    async def write_all(order: Random, first: int) -> None:
        for number in range(first, first + 10):
            shuffled = order.sample(fences, k=len(fences))
            await ledgers.store.commit([numbered(stream(f, deal(number))) for f in shuffled])

    async with asyncio.TaskGroup() as group:
        group.create_task(write_all(Random(1), 0))
        group.create_task(write_all(Random(2), 100))
    assert [await ledgers.counts(fence.account_id) for fence in fences] == [(20, 20, 20)] * 20
    assert ledgers.metrics.registry.get_sample_value(
        "brokerd_db_failures_total", {"code": "deadlock"}
    ) in {None, 0.0}


async def test_what_postgres_refuses_is_bad_data_and_writes_nothing(ledgers: Ledgers) -> None:
    """Data that slipped through our own check blames the batch, not the connection."""
    fences = [await ledgers.own() for _ in range(2)]
    for name, value in (
        ("symbol", "a\0b"),
        ("symbol", "\ud83d"),
        ("deal_id", DealId(Random(1).randbytes(9000).hex())),
    ):
        bad = deal(2, **{name: value})
        with pytest.raises(BadDeal):
            await ledgers.store.commit(
                [
                    numbered(stream(fences[0], deal(1))),
                    NumberedWrite(write_id=1, write=stream(fences[1], bad)),
                ]
            )
    assert await ledgers.counts(fences[0].account_id) == (0, 0, 0)


@asynccontextmanager
async def writing(ledgers: Ledgers, **settings: float) -> AsyncIterator[Writer]:
    """Run a writer over the store."""
    writer = Writer(
        ledgers.store,
        settings=LedgerSettings(retry_ceiling_seconds=0.05, **settings),
        clock=SystemClock(),
        random=Random(3),
        metrics=ledgers.metrics,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(writer.run())
        yield writer
        task.cancel()


async def test_a_backend_killed_in_the_middle_of_a_batch_loses_nothing(ledgers: Ledgers) -> None:
    """The statement is sent again as a whole; nothing is missing, nothing is doubled."""
    fences = [await ledgers.own() for _ in range(20)]
    lease = "SELECT * FROM brokerd.leases WHERE account_id = %s FOR UPDATE"
    async with (
        writing(ledgers) as writer,
        asyncio.TaskGroup() as group,
        ledgers.holding(lease, fences[10].account_id),
    ):
        writes = [group.create_task(writer.write(stream(f, deal(1), deal(2)))) for f in fences]
        for _ in range(2):
            (pid,) = await ledgers.wait_blocked()
            await ledgers.query("SELECT pg_terminate_backend(%s, 5000)", pid)
    assert all(each.result().inserted == {"d1", "d2"} for each in writes)
    assert [await ledgers.counts(fence.account_id) for fence in fences] == [(2, 2, 2)] * 20
    failures = ledgers.metrics.registry.get_sample_value(
        "brokerd_db_failures_total", {"code": "connection_lost"}
    )
    assert failures == 2


async def test_random_kills_lose_and_double_nothing(ledgers: Ledgers) -> None:
    """Backends die at any point, also between commit and answer; each outcome is still whole."""
    fences = [await ledgers.own() for _ in range(10)]
    claimed: list[tuple[AccountId, DealId]] = []
    random = Random(11)

    async def trade(writer: Writer, fence: Fence) -> None:
        for number in range(30):
            outcome = await writer.write(stream(fence, deal(number)))
            claimed.extend((fence.account_id, deal_id) for deal_id in outcome.inserted)

    async def kill() -> None:
        async with await psycopg.AsyncConnection.connect(ledgers.url, autocommit=True) as admin:
            while True:
                await asyncio.sleep(random.uniform(0.005, 0.05))
                await admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'brokerd' AND datname = current_database()"
                    " AND query LIKE '%WITH asked%'"
                )

    async with writing(ledgers, batch_age_seconds=0.001) as writer, asyncio.TaskGroup() as group:
        killer = group.create_task(kill())
        async with asyncio.TaskGroup() as traders:
            for fence in fences:
                traders.create_task(trade(writer, fence))
        killer.cancel()
    kills = ledgers.metrics.registry.get_sample_value(
        "brokerd_db_failures_total", {"code": "connection_lost"}
    )
    assert kills is not None
    assert kills > 3
    assert sorted(claimed) == sorted(
        (fence.account_id, f"d{number}") for fence in fences for number in range(30)
    )
    assert [await ledgers.counts(fence.account_id) for fence in fences] == [(30, 30, 30)] * 10


FAIL_TWICE = """
CREATE SEQUENCE public.tries;
CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('public.tries') <= 2 THEN
        RAISE EXCEPTION 'as told' USING ERRCODE = '{state}';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER fail AFTER INSERT ON brokerd.events
    FOR EACH STATEMENT EXECUTE FUNCTION public.fail();
"""


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("40P01", "deadlock"),
        ("40001", "serialization"),
        ("25006", "read_only"),
        ("53100", "disk_full"),
        ("53200", "resources"),
        ("57014", "timeout"),
        ("57P01", "connection_lost"),
        ("58030", "io_error"),
    ],
)
async def test_what_time_can_cure_is_tried_again(ledgers: Ledgers, state: str, code: str) -> None:
    """Two refusals at the end of the statement, each counted by its class; then it is done once."""
    fence = await ledgers.own()
    await ledgers.query(FAIL_TWICE.format(state=state))
    async with writing(ledgers) as writer:
        outcome = await writer.write(stream(fence, deal(1), deal(2)))
    assert outcome.inserted == {"d1", "d2"}
    assert await ledgers.counts(fence.account_id) == (2, 2, 2)
    failures = ledgers.metrics.registry.get_sample_value(
        "brokerd_db_failures_total", {"code": code}
    )
    assert failures == 2


async def test_what_time_cannot_cure_ends_the_writer(ledgers: Ledgers) -> None:
    """A missing right is our own mistake: retrying for ever would hide it."""
    fence = await ledgers.own()
    await ledgers.query(FAIL_TWICE.format(state="42501"))
    with pytest.raises(ExceptionGroup) as caught:
        async with writing(ledgers) as writer:
            assert await refusal(writer.write(stream(fence, deal(1)))) is StoreUnavailable
    assert caught.group_contains(sa.exc.ProgrammingError)
    assert await ledgers.counts(fence.account_id) == (0, 0, 0)


async def test_a_write_outlives_an_exhausted_pool(database_url: str, ledgers: Ledgers) -> None:
    """Others hold every connection: the write waits, is counted, and gets through at the end."""
    fence = await ledgers.own()
    settings = DatabaseSettings(url=Secret(database_url), acquire_seconds=0.2)
    async with open_database(settings, metrics=ledgers.metrics, max_connections=1) as database:
        mine = replace(ledgers, store=PostgresLedgerStore(database))
        async with writing(mine) as writer, asyncio.TaskGroup() as group, database.statement():
            write = group.create_task(writer.write(stream(fence, deal(1))))
            await asyncio.sleep(0.7)
            assert not write.done()
    assert write.result().inserted == {"d1"}
    failures = ledgers.metrics.registry.get_sample_value(
        "brokerd_db_failures_total", {"code": "pool_exhausted"}
    )
    assert failures is not None
    assert failures >= 2


async def test_a_pull_of_what_is_known_rewrites_no_row(ledgers: Ledgers) -> None:
    """The rolling pull reads days of deals every few minutes: unchanged ones must cost nothing."""
    fence = await ledgers.own()
    deals = [deal(number) for number in range(100)]
    pull = replace(stream(fence, *deals), source=Source.PULL, fetched_at=DAY)
    await commit(ledgers, numbered(pull))
    versions = "SELECT ctid, xmin FROM brokerd.deals ORDER BY 1"
    before = await ledgers.query(versions)
    for hours in range(1, 4):
        later = replace(pull, fetched_at=DAY + timedelta(hours=hours))
        assert await commit(ledgers, numbered(later)) == NOTHING
    assert await ledgers.query(versions) == before


async def refusal(call: object) -> type[BaseException] | None:
    """Name what a call raised."""
    (result,) = await asyncio.gather(call, return_exceptions=True)
    return type(result) if isinstance(result, BaseException) else None


async def test_a_day_without_a_partition_blames_no_deal(ledgers: Ledgers) -> None:
    """A feed that nobody made room in is a store that is away, not data that is bad."""
    fence = await ledgers.own()
    today = "SELECT 'events_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')"
    ((name,),) = await ledgers.query(today)
    await ledgers.query(f"DROP TABLE brokerd.{name}")
    with pytest.raises(StoreUnavailable, match="no partition"):
        await ledgers.store.commit([numbered(stream(fence, deal(1)))])
