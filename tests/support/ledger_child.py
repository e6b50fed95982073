"""A process that writes a small ledger story and ends, or stops, itself at a chosen step.

Each fork claims two links and writes their story. What was answered as durable it tells at once.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random

from forking import arm, obey, say
from ledger_rig import DAY, deal
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, LedgerSettings, Secret
from brokerd.domain import Claim, Deal, LinkWrite, Source
from brokerd.ledger.postgres import PostgresLedgerStore
from brokerd.ledger.writer import Writer
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.queue.postgres import PostgresQueue
from brokerd.store.engine import Database, open_database
from brokerd.telemetry import Metrics

WINDOW_END = DAY + timedelta(hours=12)
TRUTH = (deal(2, profit="9"), deal(3), deal(4, hour=9), deal(5, hour=13))
"""What the broker says in the end: deal 1 was taken back, deal 2 amended."""

Tell = Callable[..., None]


def write_of(
    claim: Claim, deals: Sequence[Deal], *, pulled_minutes: int | None = None
) -> LinkWrite:
    """Build a write of the stream, or of a pull; a pull proves deal 1 gone."""
    is_pull = pulled_minutes is not None
    return LinkWrite(
        fence=claim.fence,
        link_id=claim.link_id,
        user_id=claim.spec.user_id,
        source=Source.PULL if is_pull else Source.STREAM,
        deals=tuple(deals),
        removals=("d1",) if is_pull else (),
        fetched_at=DAY + timedelta(days=1, minutes=pulled_minutes) if is_pull else None,
    )


async def tell_story(writer: Writer, claim: Claim, *, tell: Tell) -> None:
    """Stream, pull, close a window, and stream again, as one link does."""

    async def write(each: LinkWrite) -> None:
        done = await writer.write(each)
        tell("durable", claim.fence.account_id, *sorted(done.inserted))

    await write(write_of(claim, [deal(1), deal(2)]))
    await write(write_of(claim, TRUTH[:3], pulled_minutes=1))
    start = await writer.watermark(claim.fence.account_id) or DAY
    await writer.close_window(claim.fence, start=start, end=WINDOW_END)
    await write(write_of(claim, [TRUTH[3], deal(2)]))


async def run_writer(database: Database, claims: Sequence[Claim], *, tell: Tell) -> None:
    """Let each link tell its story through one writer; raises the first `Fenced`."""
    writer = Writer(
        PostgresLedgerStore(database),
        settings=LedgerSettings(batch_age_seconds=0.001, retry_ceiling_seconds=0.05),
        clock=SystemClock(),
        random=Random(os.getpid()),
        metrics=Metrics(CollectorRegistry()),
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(writer.run())
        async with asyncio.TaskGroup() as links:
            for claim in claims:
                links.create_task(tell_story(writer, claim, tell=tell))
        running.cancel()


async def live(number: signal.Signals, step: int, node: str) -> None:
    """Start as a node does, claim, and write."""
    settings = DatabaseSettings(url=Secret(os.environ["TEST_DATABASE_URL"]))
    metrics = Metrics(CollectorRegistry())
    async with open_database(settings, metrics=metrics, max_connections=2) as database:
        incarnation = await PostgresNodes(database, heartbeats=database).register(node, max_links=2)
        claims = await PostgresQueue(database).claim(incarnation, limit=2)
        say("claimed", os.getpid(), *(claim.fence.account_id for claim in claims))
        arm(number, step)
        await run_writer(database, claims, tell=say)


if __name__ == "__main__":
    obey(live)
