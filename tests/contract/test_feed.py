"""The feed over memory and over Postgres, and what only a real database can do to it."""

import asyncio
import itertools
import json
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.demo.engines import engines
from brokerd.domain import (
    Deal,
    DealId,
    Fence,
    Incarnation,
    LinkId,
    LinkStatus,
    LinkWrite,
    Phase,
    Proof,
    Source,
    UserId,
)
from brokerd.ledger.feed import BEGINNING, EVERYTHING, EventType, FeedFilter
from brokerd.ledger.feed_watch import FeedWatch
from brokerd.ledger.generation import raise_generation
from brokerd.ledger.memory import MemoryLedgerStore
from brokerd.ledger.memory_feed import MemoryFeedReader
from brokerd.ledger.partitions import Partitions
from brokerd.ledger.ports import NumberedWrite
from brokerd.ledger.postgres import PostgresLedgerStore
from brokerd.ledger.postgres_feed import PostgresFeedReader, parameters, statement
from brokerd.pool.postgres_leases import PostgresLeases
from brokerd.store.engine import open_database
from brokerd.telemetry import Metrics

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
NODE = Incarnation(1)
numbers = itertools.count(1)


def deal(**fields):
    """Build a deal with an id of its own."""
    number = next(numbers)
    values = {
        "deal_id": DealId(f"d{number}"),
        "type": "DEAL_TYPE_BUY",
        "entry": "DEAL_ENTRY_IN",
        "symbol": "EURUSD",
        "volume": Decimal("0.10"),
        "price": None,
        "time": NOW + timedelta(microseconds=number),
        "broker_time": "2026-03-02 14:00:00.000",
        "profit": Decimal("-1.50"),
        "commission": Decimal(0),
        "swap": Decimal(100),
        "order_id": None,
        "position_id": "p1",
        "raw": "{}",
    }
    return Deal(**{**values, **fields})


def numbered(fence, *deals, user="u-1", link="l-1"):
    """Build a numbered write of the stream."""
    write = LinkWrite(
        fence=fence,
        link_id=LinkId(link),
        user_id=UserId(user),
        source=Source.STREAM,
        deals=deals,
    )
    return NumberedWrite(write_id=next(numbers), write=write)


def status(phase, **fields):
    """Build a status."""
    values = {"reason": "R", "message": "m", "observed_generation": 1, "since": NOW, **fields}
    return LinkStatus(phase=phase, **values)


async def follow(reader, after=BEGINNING, *, wanted=EVERYTHING, limit=3):
    """Read to the present end, a few at a time; return the events and the cursor."""
    events = []
    while True:
        page = await reader.page(after, wanted=wanted, limit=limit)
        events += page.events
        after = page.through
        if page.is_whole:
            return events, after


def check_told(events):
    """Hold events against each other: once each, and in order both of the feed and of accounts."""
    cursors = [event.cursor for event in events]
    assert cursors == sorted(set(cursors))
    accounts = defaultdict(list)
    for event in events:
        accounts[event.account_id].append(event.account_seq)
    assert all(told == list(range(1, len(told) + 1)) for told in accounts.values()), accounts


@asynccontextmanager
async def opened(url, *, connections=4):
    """Open a database."""
    settings = DatabaseSettings(url=Secret(url), statement_timeout_seconds=15)
    metrics = Metrics(CollectorRegistry())
    async with open_database(settings, metrics=metrics, max_connections=connections) as database:
        yield database


def leases_of(database):
    """Build the way links report."""
    return PostgresLeases(database, patience_seconds={})


@pytest.fixture
async def feed(fleet, add, queue, nodes):
    """Give a fleet's store, reader, and the fence of a link of user-N that this node runs."""
    state = getattr(fleet, "state", None)
    store = PostgresLedgerStore(fleet.database) if state is None else MemoryLedgerStore(state)
    reader = PostgresFeedReader(fleet.database) if state is None else MemoryFeedReader(state)
    incarnation = await nodes.register("n1", max_links=9)
    for _ in range(2):
        await add()
    claims = await queue.claim(incarnation, limit=2)
    return store, reader, claims


async def test_what_happens_to_a_link_and_its_deals_is_told_in_order(feed, leases):
    """Deals, phases and proofs share one account's numbers; what did not change is not told."""
    store, reader, (claim, _) = feed
    fence, bought = claim.fence, deal()
    await leases.report(fence, status(Phase.SYNCING))
    user, link = claim.spec.user_id, claim.link_id
    await store.commit([numbered(fence, bought, user=user, link=link)])
    proven = status(Phase.LIVE, proof=Proof.PROVEN, proof_detail="1 deal", proven_at=NOW)
    for each in (
        status(Phase.SYNCING, reason="Other"),
        proven,
        replace(proven, proof_detail="2 deals"),
        replace(proven, proof=Proof.MISMATCH, proof_detail="0.01 missing"),
    ):
        await leases.report(fence, each)
    events, _ = await follow(reader)
    events = [event for event in events if event.account_id == fence.account_id]
    told = [(event.account_seq, event.type) for event in events]
    assert told[-5:] == [
        (told[-5][0] + n, kind)
        for n, kind in enumerate(
            (
                EventType.LINK_CHANGED,
                EventType.DEAL_ADDED,
                EventType.LINK_CHANGED,
                EventType.LEDGER_PROVEN,
                EventType.LEDGER_MISMATCH,
            )
        )
    ]
    assert {(event.user_id, event.link_id) for event in events} == {(user, link)}
    assert [(event.deal_id, event.revision) for event in events[-4:]] == [
        (bought.deal_id, 0),
        *[(None, None)] * 3,
    ]


async def test_a_payload_is_the_same_whoever_writes_it(feed, leases):
    """Amounts without idle zeros, times in UTC, names as the API spells them."""
    store, reader, (claim, _) = feed
    await leases.report(claim.fence, status(Phase.LIVE, proof=Proof.PROVEN, proven_at=NOW))
    bought = deal(time=NOW)
    await store.commit([numbered(claim.fence, bought)])
    events, _ = await follow(reader)
    changed, proven, added = (json.loads(event.payload) for event in events[-3:])
    assert changed == {
        "phase": "live",
        "reason": "R",
        "message": "m",
        "userAction": "none",
        "since": "2026-03-02T12:00:00.000000Z",
    }
    assert proven == {"detail": "", "provenAt": "2026-03-02T12:00:00.000000Z"}
    assert added == {
        "type": "DEAL_TYPE_BUY",
        "entry": "DEAL_ENTRY_IN",
        "symbol": "EURUSD",
        "volume": "0.1",
        "price": None,
        "time": "2026-03-02T12:00:00.000000Z",
        "brokerTime": "2026-03-02 14:00:00.000",
        "profit": "-1.5",
        "commission": "0",
        "swap": "100",
        "orderId": None,
        "positionId": "p1",
    }


async def test_pages_are_filtered_and_go_on_where_they_ended(feed):
    """By user, link and type; a page without a wanted event still moves the cursor."""
    store, reader, (one, two) = feed
    start = await reader.end()
    for fence, user, link in ((one.fence, "u-1", "l-1"), (two.fence, "u-2", "l-2")):
        await store.commit([numbered(fence, deal(), deal(), user=user, link=link)])
    for wanted in (FeedFilter(user_id=UserId("u-2")), FeedFilter(link_id=LinkId("l-2"))):
        events, through = await follow(reader, start, wanted=wanted, limit=1)
        assert [event.account_id for event in events] == [two.fence.account_id] * 2
        assert (await reader.page(through, wanted=EVERYTHING, limit=9)).events == ()
    nothing = FeedFilter(types=frozenset({EventType.DEAL_REMOVED}))
    page = await reader.page(start, wanted=nothing, limit=9)
    assert page.events == ()
    assert page.through > start
    assert page.is_whole
    both = FeedFilter(user_id=UserId("u-1"), types=frozenset({EventType.DEAL_ADDED}))
    assert len((await follow(reader, start, wanted=both))[0]) == 2


async def register(url, accounts):
    """Register accounts and give their leases to one node; return the fences."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for account in accounts:
            await connection.execute(
                "INSERT INTO brokerd.accounts (link_id, user_id, platform, login, server, currency,"
                " token, metaapi_account_id, region, desired, priority) VALUES"
                " (%s, %s, 'mt5', %s, 's', 'USD', 't', 'm', 'r', 'live', 'normal')",
                [f"l-{account}", f"u-{account}", str(account)],
            )
        rows = await (
            await connection.execute(
                "INSERT INTO brokerd.leases (account_id, owner, epoch, is_wanted, deadline)"
                " SELECT account_id, 1, 1, true, now() FROM brokerd.accounts"
                " RETURNING account_id"
            )
        ).fetchall()
    return [Fence(account_id=account, incarnation=NODE, epoch=1) for (account,) in rows]


async def write_at_random(database, fences, *, random, batches):
    """Commit batches of a few deals across some of the accounts, and report phases between."""
    store, leases = PostgresLedgerStore(database), leases_of(database)
    for _ in range(batches):
        chosen = random.sample(fences, random.randint(1, len(fences)))
        deals = [[deal() for _ in range(random.randint(1, 3))] for _ in chosen]
        await store.commit(
            [numbered(fence, *some) for fence, some in zip(chosen, deals, strict=True)]
        )
        phase = random.choice([Phase.LIVE, Phase.SYNCING])
        await leases.report(random.choice(fences), status(phase))


async def commit_late(url, *, account, times):
    """Write events of another account in transactions that stay open for a while."""
    for seq in range(1, times + 1):
        async with await psycopg.AsyncConnection.connect(url) as connection:
            await connection.execute(
                "INSERT INTO brokerd.events (account_id, account_seq, link_id, user_id, type,"
                " payload) VALUES (%s, %s, 'l', 'u', 'deal.added', '{}')",
                [account, seq],
            )
            await asyncio.sleep(0.05)


async def test_interleaved_writers_are_followed_without_a_miss_or_a_double(database_url):
    """A reader that polls all the while gets each event once, and each account's in order."""
    fences = await register(database_url, range(5))
    async with opened(database_url) as one, opened(database_url) as two, opened(database_url) as r:
        reader, told, after = PostgresFeedReader(r), [], BEGINNING
        async with asyncio.TaskGroup() as group:
            writers = [
                group.create_task(write_at_random(each, fences, random=Random(seed), batches=60))
                for seed, each in enumerate((one, two))
            ]
            writers.append(group.create_task(commit_late(database_url, account=999, times=20)))
            while not all(writer.done() for writer in writers):
                events, after = await follow(reader, after, limit=7)
                told += events
        events, after = await follow(reader, after)
        told += events
    check_told(told)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT account_id, account_seq FROM brokerd.events").fetchall()
    assert sorted((event.account_id, event.account_seq) for event in told) == sorted(rows)
    assert len(told) > 500


async def run(*words):
    """Run one of the server's own programs; fail with what it says."""
    process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_a_backup_in_a_fresh_cluster_is_followed_from_the_same_cursor(
    database_url, shared_engines, tmp_path
):
    """Transaction ids start again below; the cursor goes on through the old events to the new."""
    fences = await register(database_url, range(3))
    with psycopg.connect(database_url, autocommit=True) as connection:  # an old cluster
        connection.execute(
            "DO $$ BEGIN FOR i IN 1..5000 LOOP"
            " PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
        )
    async with opened(database_url) as database:
        await write_at_random(database, fences, random=Random(1), batches=10)
        early, _ = await follow(PostgresFeedReader(database))
        cursor = early[len(early) // 2].cursor
    binaries, dump = shared_engines.postgres._bin, tmp_path / "dump"
    await run(binaries / "pg_dump", "-Fc", "-f", dump, "-d", database_url)
    async with engines(is_durable=False) as fresh:
        url = fresh.postgres_url
        await run(binaries / "pg_restore", "--exit-on-error", "-d", url, dump)
        async with opened(url) as database:
            metrics = Metrics(CollectorRegistry())
            keeper = Partitions(database, retention_days=14, clock=SystemClock(), metrics=metrics)
            await keeper.prepare()
            await write_at_random(database, fences, random=Random(2), batches=10)
            later, _ = await follow(PostgresFeedReader(database), cursor)
            again, _ = await follow(PostgresFeedReader(database))
            await keeper.prepare()
            assert (await PostgresFeedReader(database).end()).generation == (
                later[-1].cursor.generation
            ), "the generation rises once"
    told = early[: len(early) // 2 + 1] + later
    check_told(told)
    assert [event.cursor for event in again] == [event.cursor for event in told]
    assert later[-1].cursor.generation > cursor.generation
    assert later[-1].cursor.xid < cursor.xid, "the fresh cluster counts from below"


async def test_a_generation_is_raised_by_hand_above_all_there_were(database_url):
    """Whoever restores over the same database says so; events go on behind those there are."""
    (fence,) = await register(database_url, range(1))
    async with opened(database_url) as database:
        store, reader = PostgresLedgerStore(database), PostgresFeedReader(database)
        for _ in range(3):
            await store.commit([numbered(fence, deal())])
            await raise_generation(database)
        await store.commit([numbered(fence, deal())])
        events, _ = await follow(reader)
    check_told(events)
    assert len({event.cursor.generation for event in events}) == 4


async def test_who_holds_the_feed_is_measured(database_url):
    """An open transaction that wrote keeps later events waiting; its age and kind are shown."""
    (fence,) = await register(database_url, range(1))
    metrics = Metrics(CollectorRegistry())
    async with opened(database_url) as database:
        watch, reader = FeedWatch(database, metrics=metrics), PostgresFeedReader(database)
        with psycopg.connect(database_url) as holder:
            holder.execute("SELECT pg_current_xact_id()")
            await PostgresLedgerStore(database).commit([numbered(fence, deal())])
            await asyncio.sleep(0.2)
            await watch.look()
            assert (await follow(reader))[0] == []
            sample = metrics.registry.get_sample_value
            assert sample("brokerd_feed_stall_seconds") >= 0.2
            assert sample("brokerd_feed_holder_age_seconds", {"holder": "other"}) >= 0.2
        await watch.look()
        assert sample("brokerd_feed_stall_seconds") == 0
        assert len((await follow(reader))[0]) == 1


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (EVERYTHING, "pkey"),
        (FeedFilter(user_id=UserId("u-7")), "user_id"),
        (FeedFilter(link_id=LinkId("l-7")), "link_id"),
    ],
    ids=["all", "user", "link"],
)
async def test_a_page_is_read_by_index(database_url, wanted, index):
    """With 100,000 events of 1,000 users no page is read by a scan of the table."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO brokerd.events (generation, xid, account_id, account_seq, link_id,"
            " user_id, type, payload) SELECT 1, n::text::xid8, n % 1000, n, 'l-' || n % 1000,"
            " 'u-' || n % 1000, 'deal.added', '{}' FROM generate_series(1, 100000) n"
        )
        connection.execute("ANALYZE brokerd.events")
        asked = {**parameters(BEGINNING, wanted), "limit": 100}
        bound = str(statement(wanted)).replace("::", "§")
        for name in asked:
            bound = bound.replace(f":{name}", f"%({name})s")
        bound = bound.replace("§", "::")
        rows = connection.execute(f"EXPLAIN {bound}", asked).fetchall()
    plan = "\n".join(line for (line,) in rows)
    today = datetime.now(UTC).strftime("events_%Y%m%d")
    assert f"{today}_{index}" in plan, plan
    assert f"Seq Scan on {today}" not in plan, plan


async def test_a_write_overtaken_by_a_report_is_numbered_behind_it_everywhere(database_url):
    """A batch waits for one account while another of its accounts reports: the batch comes later.

    Its transaction began first, so had it gone on, the feed would show it before the report.
    """
    held, overtaken = await register(database_url, range(2))
    async with opened(database_url) as database:
        store, reader = PostgresLedgerStore(database), PostgresFeedReader(database)
        await store.commit([numbered(held, deal()), numbered(overtaken, deal())])
        async with asyncio.TaskGroup() as group:
            with psycopg.connect(database_url) as holder:
                holder.execute(
                    "SELECT 1 FROM brokerd.heads WHERE account_id = %s FOR UPDATE",
                    [held.account_id],
                )
                batch = [numbered(held, deal()), numbered(overtaken, deal())]
                group.create_task(store.commit(batch))
                await blocked(database_url)
                await leases_of(database).report(overtaken, status(Phase.LIVE))
        events, _ = await follow(reader)
    check_told(events)
    mine = [event.type for event in events if event.account_id == overtaken.account_id]
    assert mine == [EventType.DEAL_ADDED, EventType.LINK_CHANGED, EventType.DEAL_ADDED]


async def blocked(url):
    """Wait until a statement of brokerd's waits for a lock."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while True:
            cursor = await connection.execute(
                "SELECT 1 FROM pg_stat_activity WHERE application_name = 'brokerd'"
                " AND datname = current_database() AND wait_event_type = 'Lock'"
            )
            if await cursor.fetchone():
                return
            await asyncio.sleep(0.01)
