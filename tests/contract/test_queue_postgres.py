"""What only a real Postgres can show of the queue: concurrency, and clients that stop midway."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import psycopg
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from psycopg import sql

from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.domain import AccountId, Claim, Incarnation
from brokerd.errors import Fenced
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.queue.fleet_lock import FLEET_LOCK
from brokerd.queue.postgres import _TAKE, PostgresQueue
from brokerd.store import tables
from brokerd.store.engine import Database, open_database
from brokerd.store.locked import taking
from brokerd.telemetry import Metrics

NOW = datetime(2026, 3, 2, tzinfo=UTC)

_CLAIMER = """
import asyncio, os
from prometheus_client import CollectorRegistry
from psycopg import sql
from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.queue.postgres import _TAKE, PostgresQueue
from brokerd.store.engine import open_database
from brokerd.telemetry import Metrics

async def main():
    settings = DatabaseSettings(url=Secret(os.environ["DATABASE_URL"]))
    async with open_database(settings, metrics=Metrics(CollectorRegistry())) as database:
        await PostgresQueue(database).claim(int(os.environ["INCARNATION"]), limit=1)

asyncio.run(main())
"""


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """Open an engine of its own."""
    settings = DatabaseSettings(url=Secret(url))
    metrics = Metrics(CollectorRegistry())
    async with open_database(settings, metrics=metrics, max_connections=3) as database:
        yield database


async def fill(database: Database, accounts: int) -> None:
    """Register so many waiting links."""
    async with database.transaction() as connection:
        for number in range(accounts):
            account = await connection.execute(
                sa.insert(tables.accounts)
                .values(
                    link_id=f"link-{number}",
                    user_id="u",
                    platform="mt5",
                    login=str(number),
                    server="Demo",
                    currency="USD",
                    token="main",
                    metaapi_account_id="m",
                    region="london",
                    desired="live",
                    priority="normal",
                )
                .returning(tables.accounts.c.account_id)
            )
            await connection.execute(
                sa.insert(tables.leases).values(
                    account_id=account.scalar_one(), is_wanted=True, deadline=NOW
                )
            )


async def owners(database: Database) -> dict[AccountId, Incarnation | None]:
    """Return who owns what."""
    async with database.statement() as connection:
        rows = await connection.execute(sa.select(tables.leases.c["account_id", "owner"]))
        return {AccountId(account): owner for account, owner in rows}


@asynccontextmanager
async def locked_fleet(url: str) -> AsyncIterator[None]:
    """Hold the fleet's lock, as a claim under way does."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(taking(FLEET_LOCK))
        yield


async def until_waiting(url: str, clients: int) -> None:
    """Wait until so many clients queue for an advisory lock."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while True:
            found = await (await connection.execute(query)).fetchone()
            if found == (clients,):
                return
            await asyncio.sleep(0.01)


async def test_concurrent_claims_take_each_link_once_and_stay_within_the_limits(
    database_url: str,
) -> None:
    """Three nodes, two engines each, all claiming at once, ask for more than there is room for."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(opened(database_url)) for _ in range(2)]
        await fill(engines[0], 40)
        nodes = PostgresNodes(engines[0], heartbeats=engines[0])
        limits = {await nodes.register(f"n{n}", max_links=n): n for n in (3, 5, 8)}
        for _ in range(20):
            claims = await claim_at_once(engines, limits)
            assert len({claim.fence.account_id for claim in claims}) == len(claims) == 3 + 5 + 8
            held = list((await owners(engines[0])).values())
            assert {incarnation: held.count(incarnation) for incarnation in limits} == limits
            async with engines[0].statement() as connection:
                await connection.execute(sa.update(tables.leases).values(owner=None))


async def claim_at_once(
    engines: Sequence[Database], limits: Mapping[Incarnation, int]
) -> Sequence[Claim]:
    """Let every node claim all it may, through every engine."""
    answers = await asyncio.gather(
        *(
            PostgresQueue(engine).claim(incarnation, limit=limit)
            for incarnation, limit in limits.items()
            for engine in engines
        )
    )
    return [claim for answer in answers for claim in answer]


async def test_a_claim_reads_no_more_of_the_queue_than_it_takes(database_url: str) -> None:
    """A claim out of a long queue walks the index from its front, and sorts nothing of it."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO brokerd.leases (account_id, is_wanted, deadline)"
            " SELECT i, true, now() + make_interval(secs => i % 600)"
            " FROM generate_series(1, 9000) AS i"
        )
        await connection.execute("ANALYZE brokerd.leases")
        cursor = psycopg.AsyncClientCursor(connection)
        await cursor.execute(sql.SQL("EXPLAIN ") + _TAKE, {"incarnation": 1, "limit": 10})
        lines = [line for (line,) in await cursor.fetchall()]
    queue_reads = [line for line in lines if "leases_queue" in line or "Seq Scan on leases" in line]
    assert len(queue_reads) == 1
    assert "Index Scan using leases_queue" in queue_reads[0]


async def test_a_claim_does_not_wait_for_a_row_that_somebody_holds(database_url: str) -> None:
    """A link whose lease is being changed is passed over until the next claim."""
    async with opened(database_url) as database:
        await fill(database, 2)
        held, free = sorted(await owners(database))
        node = await PostgresNodes(database, heartbeats=database).register("a", max_links=9)
        queue = PostgresQueue(database)
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute(
                "SELECT 1 FROM brokerd.leases WHERE account_id = %s FOR SHARE", (held,)
            )
            async with asyncio.timeout(5):
                passed_over = await queue.claim(node, limit=9)
        assert [claim.fence.account_id for claim in passed_over] == [free]
        assert [c.fence.account_id for c in await queue.claim(node, limit=9)] == [held]


@pytest.mark.parametrize("is_claim_first", [True, False], ids=["claim first", "burial first"])
async def test_a_claim_under_way_gives_nothing_to_a_node_that_is_being_buried(
    database_url: str, *, is_claim_first: bool
) -> None:
    """Whoever comes first behind the lock, no closed incarnation is left with a lease."""
    async with opened(database_url) as database:
        await fill(database, 3)
        nodes = PostgresNodes(database, heartbeats=database)
        queue = PostgresQueue(database)
        zombie = await nodes.register("zombie", max_links=9)
        witness = await nodes.register("witness", max_links=9)
        acts = [queue.claim(zombie, limit=9), nodes.bury(witness, silent_seconds=-1)]
        tasks = []
        async with locked_fleet(database_url):
            for act in acts if is_claim_first else reversed(acts):
                tasks.append(asyncio.ensure_future(act))
                await until_waiting(database_url, len(tasks))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert is_claim_first or isinstance(results[1], Fenced)
        assert set((await owners(database)).values()) == {None}
        assert len(await queue.claim(witness, limit=9)) == 3


async def test_a_client_stopped_within_its_claim_holds_up_nobody(database_url: str) -> None:
    """SIGSTOP while the claim waits for the lock: it is carried out, and the next one too."""
    async with opened(database_url) as database:
        await fill(database, 2)
        nodes = PostgresNodes(database, heartbeats=database)
        stopped = await nodes.register("stopped", max_links=1)
        other = await nodes.register("other", max_links=9)
        environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "INCARNATION": str(stopped),
        }
        async with locked_fleet(database_url):
            client = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _CLAIMER, env=environment
            )
            await until_waiting(database_url, 1)
            client.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(5):
                (claim,) = await PostgresQueue(database).claim(other, limit=9)
            held = await owners(database)
            assert sorted(held.values(), key=str) == [stopped, other]
            assert held[claim.fence.account_id] == other
        finally:
            client.kill()
            await client.wait()
