"""What only a real Postgres can show of a fence: it holds against changes that are under way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.connector.ports import LeaseHandle
from brokerd.domain import AccountId, Backoff, Fence, Incarnation, LinkStatus, Phase, Priority
from brokerd.errors import Fenced
from brokerd.pool.postgres_leases import PostgresLeases
from brokerd.store.engine import open_database
from brokerd.telemetry import Metrics

FENCE = Fence(account_id=AccountId(1), incarnation=Incarnation(1), epoch=1)
STATUS = LinkStatus(
    phase=Phase.LIVE,
    reason="Live",
    message="",
    observed_generation=1,
    since=datetime(2026, 3, 2, tzinfo=UTC),
)
Write = Callable[[LeaseHandle], Awaitable[object]]
WRITES: dict[str, Write] = {
    "report": lambda leases: leases.report(FENCE, STATUS),
    "release": lambda leases: leases.release(FENCE, backoff=Backoff(), delay_seconds=1.0),
    "save_backoff": lambda leases: leases.save_backoff(FENCE, Backoff(attempt=9)),
    "record_modes": lambda leases: leases.record_modes(
        FENCE, margin_mode="hedging", trade_mode="demo"
    ),
}
_BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


@asynccontextmanager
async def handle(url: str) -> AsyncIterator[LeaseHandle]:
    """Open a lease handle."""
    metrics = Metrics(CollectorRegistry())
    async with open_database(DatabaseSettings(url=Secret(url)), metrics=metrics) as database:
        yield PostgresLeases(database, patience_seconds=dict.fromkeys(Priority, 60.0))


async def fill(url: str) -> None:
    """Register the one account, leased as `FENCE` says."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO brokerd.accounts (link_id, user_id, platform, login, server, currency,"
            " token, metaapi_account_id, region, desired, priority)"
            " VALUES ('l', 'u', 'mt5', '1', 's', 'USD', 't', 'm', 'r', 'live', 'normal')"
        )
        await connection.execute(
            "INSERT INTO brokerd.leases (account_id, owner, epoch, is_wanted, deadline)"
            " VALUES (1, 1, 1, true, now())"
        )


async def until_blocked(url: str) -> None:
    """Wait until a statement waits for a row."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        blocked = 0
        while not blocked:
            await asyncio.sleep(0.01)
            ((blocked,),) = await (await connection.execute(_BLOCKED)).fetchall()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_write_that_meets_a_takeover_under_way_is_fenced(
    database_url: str, write: Write
) -> None:
    """A zombie that looked before the takeover was committed writes nothing after it."""
    await fill(database_url)
    async with (
        handle(database_url) as leases,
        await psycopg.AsyncConnection.connect(database_url) as connection,
    ):
        await connection.execute("UPDATE brokerd.leases SET owner = 2, epoch = 2")
        async with asyncio.TaskGroup() as group:
            zombie = group.create_task(expect_fenced(write(leases)))
            await until_blocked(database_url)
            assert not zombie.done()
            await connection.commit()
        found = await connection.execute(
            "SELECT owner, epoch, attempt, margin_mode,"
            " (SELECT count(*) FROM brokerd.links),"
            " (SELECT count(*) FROM brokerd.link_transitions)"
            " FROM brokerd.leases JOIN brokerd.accounts USING (account_id)"
        )
        assert await found.fetchall() == [(2, 2, 0, None, 0, 0)]


async def expect_fenced(write: Awaitable[object]) -> None:
    """Run a write that must be refused."""
    with pytest.raises(Fenced):
        await write
