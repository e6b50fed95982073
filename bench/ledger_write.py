"""Deals per second of the fenced ledger statement, beside plain inserts and bare COPY.

The statement does all that the ledger promises: fence, upsert, receipts, heads, events. The plain
insert and the COPY only store the rows. All write into the same partitioned, indexed table of
one fresh PostgreSQL, in one run; `--durable` makes the server wait for its disk.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.demo.engines import engines
from brokerd.domain import (
    AccountId,
    Deal,
    DealId,
    Fence,
    Incarnation,
    LinkId,
    LinkWrite,
    Source,
    UserId,
)
from brokerd.ledger.content import content_hash
from brokerd.ledger.ports import NumberedWrite
from brokerd.ledger.postgres import PostgresLedgerStore
from brokerd.store import tables
from brokerd.store.engine import Database, open_database
from brokerd.store.migrate import upgrade
from brokerd.telemetry import Metrics

LINKS = 200
START = datetime(2026, 1, 1, tzinfo=UTC)
RAW = (
    '{"id":"%d","type":"DEAL_TYPE_SELL","entryType":"DEAL_ENTRY_OUT","symbol":"EURUSD","magic":0,'
    '"volume":0.07,"price":1.08423,"profit":-3.25,"commission":-0.25,"swap":0,"orderId":"46871",'
    '"positionId":"46870","time":"2026-01-01T00:00:00.000Z","brokerTime":"2026-01-01 02:00:00.000",'
    '"platform":"mt5","reason":"DEAL_REASON_CLIENT","accountCurrencyExchangeRate":1}'
)
COLUMNS = {
    "account_id": "int8",
    "deal_id": "text",
    "user_id": "text",
    "type": "text",
    "entry": "text",
    "symbol": "text",
    "volume": "numeric",
    "price": "numeric",
    "time": "timestamptz",
    "broker_time": "text",
    "profit": "numeric",
    "commission": "numeric",
    "swap": "numeric",
    "order_id": "text",
    "position_id": "text",
    "book": "text",
    "raw": "text",
    "content_hash": "int8",
    "source": "text",
    "write_id": "int8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A way to write deals, how many at a time, and how many in all."""

    name: str
    write: Callable[[Sequence[tuple[int, Deal]]], Awaitable[None]]
    batch_deals: int
    deals: int


def trade(number: int) -> tuple[int, Deal]:
    """Make the number-th deal of the fleet; links take turns."""
    deal = Deal(
        deal_id=DealId(str(10_000_000 + number)),
        type="DEAL_TYPE_SELL",
        entry="DEAL_ENTRY_OUT",
        symbol=("EURUSD", "XAUUSD", "GBPJPY")[number % 3],
        volume=Decimal("0.07"),
        price=Decimal("1.08423"),
        time=START + timedelta(seconds=number),
        broker_time="2026-01-01 02:00:00.000",
        profit=Decimal(number % 999) / 100,
        commission=Decimal("-0.25"),
        swap=Decimal(0),
        order_id=str(46_871 + number),
        position_id=str(46_870 + number),
        raw=RAW % number,
    )
    return 1 + number % LINKS, deal


def row(account_id: int, deal: Deal) -> tuple[object, ...]:
    """Return the deal as the columns of the table."""
    return (
        account_id,
        deal.deal_id,
        f"user-{account_id}",
        deal.type,
        deal.entry,
        deal.symbol,
        deal.volume,
        deal.price,
        deal.time,
        deal.broker_time,
        deal.profit,
        deal.commission,
        deal.swap,
        deal.order_id,
        deal.position_id,
        deal.book,
        deal.raw,
        content_hash(deal),
        "stream",
        1,
    )


class Fenced:
    """The ledger's own way."""

    def __init__(self, database: Database) -> None:
        self._store = PostgresLedgerStore(database)
        self._writes = 0

    async def write(self, batch: Sequence[tuple[int, Deal]]) -> None:
        """Commit one batch across all its links."""
        by_account: dict[int, list[Deal]] = {}
        for account_id, deal in batch:
            by_account.setdefault(account_id, []).append(deal)
        self._writes += 1
        done = await self._store.commit(
            [
                NumberedWrite(
                    write_id=self._writes,
                    write=LinkWrite(
                        fence=Fence(
                            account_id=AccountId(account_id), incarnation=Incarnation(1), epoch=1
                        ),
                        link_id=LinkId(f"link-{account_id}"),
                        user_id=UserId(f"user-{account_id}"),
                        source=Source.STREAM,
                        deals=tuple(deals),
                    ),
                )
                for account_id, deals in by_account.items()
            ]
        )
        assert sum(len(each.inserted) for each in done.values()) == len(batch)


@asynccontextmanager
async def rivals(url: str, *, deals: int) -> AsyncIterator[Sequence[Rival]]:
    """Open a connection for each way."""
    settings = DatabaseSettings(url=Secret(url))
    engine = sa.ext.asyncio.create_async_engine(
        "postgresql+psycopg://",
        async_creator=lambda: psycopg.AsyncConnection.connect(url),
        pool_size=1,
    )
    async with (
        open_database(settings, metrics=Metrics(CollectorRegistry())) as database,
        await psycopg.AsyncConnection.connect(url) as connection,
    ):

        async def insert(batch: Sequence[tuple[int, Deal]]) -> None:
            for account_id, deal in batch:
                values = dict(zip(COLUMNS, row(account_id, deal), strict=True))
                async with engine.begin() as plain:
                    await plain.execute(sa.insert(tables.deals).values(values))

        async def copy(batch: Sequence[tuple[int, Deal]]) -> None:
            names = ", ".join(COLUMNS)
            async with (
                connection.transaction(),
                connection.cursor() as cursor,
                cursor.copy(f"COPY brokerd.deals ({names}) FROM STDIN (FORMAT BINARY)") as stream,
            ):
                stream.set_types(list(COLUMNS.values()))
                for account_id, deal in batch:
                    await stream.write_row(row(account_id, deal))

        yield (
            Rival(name="insert", write=insert, batch_deals=1_000, deals=max(1_000, deals // 10)),
            Rival(name="COPY", write=copy, batch_deals=1_000, deals=deals),
            Rival(name="fenced 200", write=Fenced(database).write, batch_deals=200, deals=deals),
            Rival(name="fenced", write=Fenced(database).write, batch_deals=1_000, deals=deals),
            Rival(name="fenced 4000", write=Fenced(database).write, batch_deals=4_000, deals=deals),
        )
    await engine.dispose()


async def prepare(url: str) -> None:
    """Make the schema, and a lease for every link."""
    await upgrade(Secret(url))
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO brokerd.leases (account_id, owner, epoch, is_wanted, deadline)"
            " SELECT n, 1, 1, true, now() FROM generate_series(1, %s) n",
            [LINKS],
        )


async def measure(rival: Rival, *, first: int) -> tuple[float, float]:
    """Write `rival.deals` new deals; return deals and our own CPU seconds per second."""
    batches = [
        [trade(number) for number in range(at, at + rival.batch_deals)]
        for at in range(first, first + rival.deals, rival.batch_deals)
    ]
    started, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        await rival.write(batch)
    seconds = time.perf_counter() - started
    return len(batches) * rival.batch_deals / seconds, (time.process_time() - cpu) / seconds


async def main() -> None:
    """Measure in turns, so that whatever else the machine does hits all alike."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deals", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--durable", action="store_true")
    arguments = parser.parse_args()
    first = 0
    rates: dict[str, list[tuple[float, float]]] = {}
    async with engines(is_durable=arguments.durable) as running:
        await prepare(running.postgres_url)
        async with rivals(running.postgres_url, deals=arguments.deals) as all_rivals:
            for _ in range(arguments.rounds):
                for rival in all_rivals:
                    measured = await measure(rival, first=first)
                    rates.setdefault(rival.name, []).append(measured)
                    first += rival.deals + rival.batch_deals
    median = {name: statistics.median(rate for rate, _ in each) for name, each in rates.items()}
    print(f"{'':12} {'deals/s':>8} {'client':>7} {'x insert':>9} {'x COPY':>7}")
    for name, rate in median.items():
        cores = statistics.median(cpu for _, cpu in rates[name])
        print(
            f"{name:12} {rate:8.0f} {cores:7.2f}"
            f" {rate / median['insert']:9.1f} {rate / median['COPY']:7.2f}"
        )


if __name__ == "__main__":
    asyncio.run(main())
