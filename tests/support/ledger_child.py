"""A process that writes a small ledger story and ends, or stops, itself at a chosen step.

Reads orders `SIGNAL STEP NODE` from stdin and forks for each: the fork claims two links, writes
their story, and sends itself the signal when the loop is about to run its STEP-th callback,
which is wherever a coroutine of ours is resumed. What was answered as durable it tells at once.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random

from ledger_rig import DAY, deal
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, LedgerSettings, Secret
from brokerd.domain import Claim, Deal, LinkWrite, Source
from brokerd.errors import Fenced
from brokerd.ledger.postgres import PostgresLedgerStore
from brokerd.ledger.writer import Writer
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.queue.postgres import PostgresQueue
from brokerd.store.engine import Database, open_database
from brokerd.telemetry import Metrics

WINDOW_END = DAY + timedelta(hours=12)
TRUTH = (deal(2, profit="9"), deal(3), deal(4, hour=9), deal(5, hour=13))
"""What the broker says in the end: deal 1 was taken back, deal 2 amended."""
EXIT_FENCED = 3

Tell = Callable[..., None]


def say(*words: object) -> None:
    """Tell the test, past every buffer."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def arm(number: signal.Signals, step: int) -> None:
    """Send ourselves the signal before the step-th callback from now."""
    run, count = asyncio.Handle._run, 0

    def counted(handle: asyncio.Handle) -> None:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), number)
        run(handle)

    asyncio.Handle._run = counted


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


def obey(number: signal.Signals, step: int, node: str) -> None:
    """Fork, and tell when the fork stopped and how it ended."""
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(live(number, step, node))
        except* Fenced:
            os._exit(EXIT_FENCED)
        os._exit(0)
    status = os.waitpid(pid, os.WUNTRACED)[1]
    if os.WIFSTOPPED(status):
        say("stopped", pid)
        status = os.waitpid(pid, 0)[1]
    say("ended", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    for line in sys.stdin:
        name, at, of = line.split()
        obey(signal.Signals[name], int(at), of)
