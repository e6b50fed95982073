"""Every reader of the ledger keeps the same promises: one suite over memory and Postgres."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from brokerd.api.memory import MemoryRegistry
from brokerd.api.memory_deals import MemoryDealReader
from brokerd.api.ports import DealQuery, DealReader, Registry
from brokerd.api.postgres import PostgresRegistry
from brokerd.api.postgres_deals import PostgresDealReader, statement
from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, QueueSettings, Secret
from brokerd.domain import (
    Claim,
    Deal,
    DealId,
    Desired,
    Identity,
    LinkId,
    LinkSpec,
    LinkWrite,
    MetaApiRef,
    Platform,
    Priority,
    Source,
    UserId,
)
from brokerd.ledger.memory import MemoryLedgerStore
from brokerd.ledger.ports import LedgerStore, NumberedWrite
from brokerd.ledger.postgres import PostgresLedgerStore
from brokerd.pool.memory_nodes import MemoryNodes
from brokerd.pool.ports import Nodes
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.queue.memory import MemoryQueue
from brokerd.queue.ports import Queue
from brokerd.queue.postgres import PostgresQueue
from brokerd.store.engine import Database, open_database
from brokerd.store.memory import MemoryState
from brokerd.telemetry import Metrics

DAY = datetime(2026, 3, 2, tzinfo=UTC)
ANN, BOB = UserId("ann"), UserId("bob")
_numbers = count(1)


def deal(number, *, at=0.0, symbol="EURUSD", kind="DEAL_TYPE_BUY"):
    """Build a deal `at` seconds into the day."""
    return Deal(
        deal_id=DealId(str(number)),
        type=kind,
        entry="DEAL_ENTRY_IN" if symbol else None,
        symbol=symbol,
        volume=Decimal("0.10") if symbol else None,
        price=Decimal("1.10234") if symbol else None,
        time=DAY + timedelta(seconds=at),
        broker_time="2026-03-02 02:00:00.000",
        profit=Decimal("-85.26"),
        commission=Decimal("-0.5"),
        swap=Decimal(0),
        order_id="7" if symbol else None,
        position_id="7" if symbol else None,
        raw="{}",
    )


@dataclass
class Rig:
    """The reader, and all it takes to fill a ledger."""

    reader: DealReader
    registry: Registry
    ledger: LedgerStore
    nodes: Nodes
    queue: Queue
    database: Database | None

    async def link(self, link_id, user_id, *, login=None) -> Claim:
        """Register a link and claim it."""
        spec = LinkSpec(
            user_id=user_id,
            desired=Desired.LIVE,
            priority=Priority.NORMAL,
            metaapi=MetaApiRef(token="main", account_id="a", region="london"),
            identity=Identity(
                platform=Platform.MT5,
                login=login or str(next(_numbers)),
                server="Demo",
                currency="USD",
            ),
        )
        await self.registry.put(LinkId(link_id), spec, if_match=None, must_be_new=False)
        node = await self.nodes.register(f"n{next(_numbers)}", max_links=9)
        (claim,) = await self.queue.claim(node, limit=1)
        return claim

    async def write(self, claim, *deals, removals=(), source=Source.STREAM):
        """Commit deals of a link."""
        write = LinkWrite(
            fence=claim.fence,
            link_id=claim.link_id,
            user_id=claim.spec.user_id,
            source=source,
            deals=deals,
            removals=removals,
            fetched_at=datetime.now(UTC) if source is Source.PULL else None,
        )
        await self.ledger.commit([NumberedWrite(write_id=next(_numbers), write=write)])

    async def read(self, **query) -> Sequence[str]:
        """Return the deal ids of one page."""
        return [stored.deal.deal_id for stored in await self.reader.deals(ask(**query))]


def ask(**query):
    """Build a query; unnamed conditions are open."""
    return replace(
        DealQuery(
            link_id=None,
            user_id=None,
            symbol=None,
            kind=None,
            start=None,
            end=None,
            is_newest_first=False,
            limit=100,
            after=None,
        ),
        **query,
    )


@pytest.fixture
async def rig(fleet_url: str | None) -> AsyncIterator[Rig]:
    """Give each implementation in turn."""
    if fleet_url is None:
        state = MemoryState(clock=SystemClock())
        yield Rig(
            MemoryDealReader(state),
            MemoryRegistry(state, settings=QueueSettings()),
            MemoryLedgerStore(state),
            MemoryNodes(state),
            MemoryQueue(state),
            None,
        )
        return
    settings = DatabaseSettings(url=Secret(fleet_url))
    async with open_database(settings, metrics=Metrics(CollectorRegistry())) as database:
        yield Rig(
            PostgresDealReader(database),
            PostgresRegistry(database, settings=QueueSettings(), clock=SystemClock()),
            PostgresLedgerStore(database),
            PostgresNodes(database, heartbeats=database),
            PostgresQueue(database),
            database,
        )


async def test_a_deal_is_read_as_it_was_written(rig):
    """Every field comes back equal, with the link, the user and who saw it first."""
    claim = await rig.link("a", ANN)
    written = deal(1)
    await rig.write(claim, written)
    (stored,) = await rig.reader.deals(ask(link_id=LinkId("a")))
    assert stored.deal == written
    assert (stored.link_id, stored.user_id, stored.revision) == ("a", ANN, 0)
    assert (stored.source, stored.removed_at) == (Source.STREAM, None)
    assert stored.account_id == claim.fence.account_id
    assert abs(datetime.now(UTC) - stored.committed_at) < timedelta(minutes=1)


async def test_deals_come_in_the_order_of_time_both_ways(rig):
    """Oldest or newest first; equal times by deal id, equal ids by account."""
    first, second = await rig.link("a", ANN), await rig.link("b", ANN)
    await rig.write(first, deal(2, at=5), deal(1, at=5), deal(3, at=1))
    await rig.write(second, deal(1, at=5), deal(9, at=9))
    oldest = ["3", "1", "1", "2", "9"]
    assert await rig.read(user_id=ANN) == oldest
    assert await rig.read(user_id=ANN, is_newest_first=True) == oldest[::-1]
    stored = await rig.reader.deals(ask(user_id=ANN))
    assert stored[1].account_id < stored[2].account_id


@pytest.mark.parametrize("is_newest_first", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_pages_join_without_gap_or_double(rig, limit, is_newest_first):
    """Reading page by page gives what one page would have given, ties included."""
    first, second = await rig.link("a", ANN), await rig.link("b", ANN)
    for claim in (first, second):
        await rig.write(claim, *(deal(n, at=n // 3) for n in range(7)))
    whole = await rig.reader.deals(ask(user_id=ANN, is_newest_first=is_newest_first))
    assert len(whole) == 14
    found, after = [], None
    while page := await rig.reader.deals(
        ask(user_id=ANN, is_newest_first=is_newest_first, limit=limit, after=after)
    ):
        found += page
        after = (page[-1].deal.time, page[-1].deal.deal_id, page[-1].account_id)
    assert found == list(whole)


async def test_deals_are_filtered(rig):
    """By link, user, symbol, kind and time: the start is inside, the end is not."""
    ann, bob = await rig.link("a", ANN), await rig.link("b", BOB)
    await rig.write(
        ann,
        deal(1, at=1),
        deal(2, at=2, symbol="XAUUSD"),
        deal(3, at=3, symbol=None, kind="DEAL_TYPE_BALANCE"),
        deal(4, at=4, kind="DEAL_TYPE_SELL"),
    )
    await rig.write(bob, deal(5, at=5))
    assert await rig.read(user_id=BOB) == ["5"]
    assert await rig.read(link_id=LinkId("b")) == ["5"]
    assert await rig.read(user_id=ANN, symbol="XAUUSD") == ["2"]
    assert await rig.read(link_id=LinkId("a"), symbol="EURUSD") == ["1", "4"]
    assert await rig.read(user_id=ANN, kind="cash") == ["3"]
    assert await rig.read(user_id=ANN, kind="trade") == ["1", "2", "4"]
    between = {"start": DAY + timedelta(seconds=2), "end": DAY + timedelta(seconds=4)}
    assert await rig.read(user_id=ANN, **between) == ["2", "3"]
    assert await rig.read(link_id=LinkId("nobody")) == []


async def test_removed_deals_are_left_out(rig):
    """What the broker took back is not shown, and not counted."""
    claim = await rig.link("a", ANN)
    await rig.write(claim, deal(1), deal(2, at=1), source=Source.PULL)
    await rig.write(claim, removals=(DealId("1"),), source=Source.PULL)
    assert await rig.read(link_id=LinkId("a")) == ["2"]
    assert (await rig.registry.get(LinkId("a"))).deals == 1


async def test_a_deleted_link_s_ledger_stays_readable(rig):
    """Its id finds the deals until another account bears it."""
    claim = await rig.link("a", ANN)
    await rig.write(claim, deal(1))
    await rig.registry.delete(LinkId("a"))
    assert await rig.read(link_id=LinkId("a")) == ["1"]
    await rig.nodes.retire(claim.fence.incarnation)
    assert await rig.registry.get(LinkId("a")) is None
    assert await rig.read(link_id=LinkId("a")) == ["1"]
    other = await rig.link("a", BOB)
    await rig.write(other, deal(7))
    assert await rig.read(link_id=LinkId("a")) == ["7"]
    assert await rig.read(user_id=ANN) == ["1"]


async def test_the_pages_are_served_by_indexes(rig):
    """With many rows Postgres answers each kind of page from the index made for it."""
    if rig.database is None:
        pytest.skip("memory has no indexes")
    claim = await rig.link("a", ANN)
    async with rig.database.transaction() as connection:
        await connection.execute(_many_deals(), {"account": claim.fence.account_id})
    async with rig.database.statement() as connection:
        await connection.execute(sa.text("ANALYZE brokerd.deals"))
    key = (DAY, DealId("5"), claim.fence.account_id)
    # ascending pages from far behind, where an index scan that ignores the key would be seen
    for query, index in (
        (ask(link_id=LinkId("a"), after=key, limit=10), "account_id_time_deal_id"),
        (ask(user_id=ANN, after=key, limit=10), "user_id_time_deal_id"),
        (ask(user_id=ANN, symbol="S3", limit=10, is_newest_first=True), "user_id_symbol_time"),
    ):
        plan = await _plan(rig.database, statement(query))
        assert index in plan
        assert "Seq Scan on deals" not in plan
        if query.after is not None:
            assert 'AND (ROW("time", deal_id, account_id) >' in plan


def _many_deals():
    return sa.text("""
        INSERT INTO brokerd.deals (account_id, deal_id, user_id, type, symbol, time, broker_time,
          profit, commission, swap, book, raw, content_hash, source, write_id)
        SELECT CASE WHEN n % 2 = 0 THEN :account ELSE 1000 + n % 50 END, n::text,
          CASE WHEN n % 2 = 0 THEN 'ann' ELSE 'u' || n % 50 END, 'DEAL_TYPE_BUY', 'S' || n % 7,
          '2026-03-01'::timestamptz + n * interval '1 minute', '', 0, 0, 0, 'balance', '{}', n,
          'pull', 1
        FROM generate_series(1, 6000) AS n
    """)


async def _plan(database, query):
    """Return the plan; sequential scans of small partitions are made dear, as large ones are."""
    async with database.transaction() as connection:
        await connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        await connection.execute(sa.text("SET LOCAL enable_bitmapscan = off"))
        compiled = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        rows = await connection.execute(sa.text(f"EXPLAIN {compiled}"))
        return "\n".join(row[0] for row in rows)
