"""Deals to subscribers: thousands of event streams on one process, each filtered to one user.

A process of its own serves the feed over a fresh PostgreSQL. This one writes deals through the
ledger's own statement and reads all streams; all three share the machine's cores. In a second turn
every client leaves once, all of them about the same moment, and returns with its Last-Event-ID.
"""

import argparse
import asyncio
import multiprocessing
import resource
import time
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from multiprocessing.connection import Connection

import psycopg
import uvloop
from litestar import Litestar, get
from prometheus_client import CollectorRegistry

from brokerd.api.events import EventRoutes
from brokerd.api.feed import Feed, Limits
from brokerd.api.server import ApiServer, bind
from brokerd.config.settings import ApiSettings, DatabaseSettings, Secret
from brokerd.demo.engines import engines
from brokerd.domain import Deal, DealId, Fence, Incarnation, LinkId, LinkWrite, Source, UserId
from brokerd.ledger.ports import NumberedWrite
from brokerd.ledger.postgres import PostgresLedgerStore
from brokerd.ledger.postgres_feed import PostgresFeedReader
from brokerd.store.engine import open_database
from brokerd.store.migrate import upgrade
from brokerd.telemetry import Metrics

USERS = 200
BATCH_SECONDS = 0.05
LEAVES_AFTER, AWAY_SECONDS = 5, 0.5


def serve(url: str, port_to: Connection, streams: int) -> None:
    """Serve the feed alone, and say on which port."""
    uvloop.run(_serve(url, port_to, streams))


async def _serve(url: str, port_to: Connection, streams: int) -> None:
    metrics = Metrics(CollectorRegistry())
    settings = DatabaseSettings(url=Secret(url))
    async with open_database(settings, metrics=metrics, max_connections=6) as database:
        limits = Limits(max_streams=streams, buffer_bytes=262_144, poll_seconds=0.25)
        reader = PostgresFeedReader(database)
        feed = Feed(reader, wake=asyncio.Event(), limits=limits, metrics=metrics)
        events = EventRoutes(feed=feed, metrics=metrics).events
        app = Litestar([get("/v1/events")(events)], openapi_config=None, logging_config=None)
        with bind(ApiSettings(key=Secret("k" * 32), port=0)) as listener:
            server = ApiServer(app, listener=listener)
            port_to.send(server.port)
            async with asyncio.TaskGroup() as group:
                group.create_task(feed.run())
                group.create_task(server.run())
                group.create_task(_report(port_to))


async def _report(port_to: Connection) -> None:
    """Tell what the process used, whenever asked."""
    while True:
        await asyncio.sleep(0.1)
        if port_to.poll():
            port_to.recv()
            used = resource.getrusage(resource.RUSAGE_SELF)
            port_to.send((used.ru_utime + used.ru_stime, used.ru_maxrss / 1024))


def deal(number: int) -> Deal:
    """Build a deal whose id says when it was sent."""
    return Deal(
        deal_id=DealId(f"{time.monotonic():.6f}-{number}"),
        type="DEAL_TYPE_SELL",
        entry="DEAL_ENTRY_OUT",
        symbol="EURUSD",
        volume=Decimal("0.07"),
        price=Decimal("1.08423"),
        time=datetime.now(UTC),
        broker_time="2026-01-01 02:00:00.000",
        profit=Decimal("-3.25"),
        commission=Decimal("-0.25"),
        swap=Decimal(0),
        order_id="46871",
        position_id="46870",
        raw="{}",
    )


class Subscriber:
    """One stream of one user; keeps how late each deal came, and notices strangers and doubles.

    With `leaves_after` it leaves once, after so many events, and returns a moment later.
    """

    def __init__(self, user: str, *, leaves_after: int) -> None:
        self._user = user
        self._leaves_after = leaves_after
        self._last_id = "latest"
        self._seen: set[bytes] = set()
        self.seconds: list[float] = []
        self.strangers = 0
        self.doubles = 0
        self.is_open = asyncio.Event()

    async def run(self, port: int, is_open: asyncio.Semaphore) -> None:
        """Read until cancelled; whenever the stream ends, return as browsers do."""
        with suppress(asyncio.CancelledError):
            while True:
                with suppress(asyncio.IncompleteReadError, ConnectionError):
                    await self._read(port, is_open)
                await asyncio.sleep(AWAY_SECONDS)

    async def _read(self, port: int, is_open: asyncio.Semaphore) -> None:
        """Read one connection until it ends, or until it is time to leave."""
        async with is_open:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                f"GET /v1/events?user={self._user} HTTP/1.1\r\nHost: b\r\n"
                f"Accept: text/event-stream\r\nLast-Event-ID: {self._last_id}\r\n\r\n".encode()
            )
            await reader.readuntil(b"retry: 1000")
            self.is_open.set()
        own, event_id = f'"userId":"{self._user}"'.encode(), self._last_id
        try:
            while line := await reader.readline():
                if line.startswith(b"id: "):
                    event_id = line[4:].strip().decode()
                elif line.startswith(b"data: "):
                    self._note(line, own)
                elif line == b"\n":
                    self._last_id = event_id  # only now the event is whole
                    if 0 < self._leaves_after <= len(self.seconds):
                        self._leaves_after = 0
                        return
        finally:
            writer.close()

    def _note(self, line: bytes, own: bytes) -> None:
        self.strangers += own not in line
        deal_id = line.split(b'"dealId":"', 1)[1].split(b'"', 1)[0]
        self.doubles += deal_id in self._seen
        self._seen.add(deal_id)
        self.seconds.append(time.monotonic() - float(deal_id.split(b"-", 1)[0]))


async def write(url: str, *, deals_per_second: int, seconds: float) -> int:
    """Commit deals of all users at a steady pace; return how many."""
    settings = DatabaseSettings(url=Secret(url))
    metrics = Metrics(CollectorRegistry())
    batch, number = round(deals_per_second * BATCH_SECONDS), 0
    async with open_database(settings, metrics=metrics, max_connections=2) as database:
        store = PostgresLedgerStore(database)
        began = time.monotonic()
        for turn in range(round(seconds / BATCH_SECONDS)):
            await asyncio.sleep(began + turn * BATCH_SECONDS - time.monotonic())
            accounts = [(number + n) % USERS + 1 for n in range(batch)]
            writes = [_write(account, number + n) for n, account in enumerate(accounts)]
            await store.commit(writes)
            number += batch
    return number


def _write(account: int, number: int) -> NumberedWrite:
    return NumberedWrite(
        write_id=number,
        write=LinkWrite(
            fence=Fence(account_id=account, incarnation=Incarnation(1), epoch=1),
            link_id=LinkId(f"link-{account}"),
            user_id=UserId(f"user-{account}"),
            source=Source.STREAM,
            deals=(deal(number),),
        ),
    )


async def measure(
    url: str, arguments: argparse.Namespace, *, streams: int, leaves_after: int
) -> None:
    """Open the streams, write, and print a row."""
    deals_per_second, seconds = arguments.deals_per_second, arguments.seconds
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(url, theirs, streams), daemon=True
    )
    process.start()
    port = await asyncio.to_thread(ours.recv)
    subscribers = [
        Subscriber(f"user-{n % USERS + 1}", leaves_after=leaves_after) for n in range(streams)
    ]
    is_open = asyncio.Semaphore(50)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each.run(port, is_open)) for each in subscribers]
        for each in subscribers:
            await each.is_open.wait()
        await asyncio.sleep(1)  # what they were sent first is with them
        ours.send("begin")
        cpu_before, _ = await asyncio.to_thread(ours.recv)
        written = await write(url, deals_per_second=deals_per_second, seconds=seconds)
        expected = written * streams // USERS
        for _ in range(600):
            await asyncio.sleep(0.1)
            if sum(len(each.seconds) for each in subscribers) >= expected:
                break
        ours.send("end")
        cpu_after, megabytes = await asyncio.to_thread(ours.recv)
        for task in tasks:
            task.cancel()
    process.terminate()
    late = sorted(second for each in subscribers for second in each.seconds)
    strangers = sum(each.strangers + each.doubles for each in subscribers)
    share = (cpu_after - cpu_before) / seconds
    print(
        f"{streams:8} {deals_per_second:8} {'leave' if leaves_after else 'stay':>7}"
        f" {len(late):10} of {expected:<9} {strangers:9}"
        f" {late[len(late) // 2]:7.3f} {late[int(len(late) * 0.99)]:7.3f} {share:6.2f}"
        f" {megabytes:6.0f}",
        flush=True,
    )


async def main() -> None:
    """Measure for each number of streams."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[2_000])
    parser.add_argument("--deals-per-second", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    print("streams  deals/s clients  delivered                 wrong    p50 s   p99 s  cores  MiB")
    async with engines(is_durable=False) as running:
        await upgrade(Secret(running.postgres_url))
        async with await psycopg.AsyncConnection.connect(
            running.postgres_url, autocommit=True
        ) as connection:
            await connection.execute(
                "INSERT INTO brokerd.leases (account_id, owner, epoch, is_wanted, deadline)"
                " SELECT n, 1, 1, true, now() FROM generate_series(1, %s) n",
                [USERS],
            )
        for streams in arguments.streams:
            for leaves_after in (0, LEAVES_AFTER):
                await measure(
                    running.postgres_url, arguments, streams=streams, leaves_after=leaves_after
                )


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(main())
