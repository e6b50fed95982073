"""Table sizes and the dearest statements are metrics, read seldom and never waited for."""

import asyncio
from contextlib import asynccontextmanager

import psycopg
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.demo.engines import engines
from brokerd.store.engine import Database, open_database
from brokerd.store.migrate import upgrade
from brokerd.store.statistics import INTERVAL_SECONDS, TOP_STATEMENTS, DatabaseStatistics
from brokerd.store.tables import metadata
from brokerd.telemetry import Metrics


class Jumping(SystemClock):
    """A clock that a test moves on."""

    offset_seconds = 0.0

    def monotonic(self):
        """Return the loop's clock, moved on."""
        return super().monotonic() + self.offset_seconds


class World:
    """The statistics of one database."""

    def __init__(self, database: Database, registry: CollectorRegistry, metrics: Metrics) -> None:
        self.database, self.registry, self.clock = database, registry, Jumping()
        self.statistics = DatabaseStatistics(database, clock=self.clock, metrics=metrics)

    async def refresh(self):
        """Read them as if enough time had passed."""
        self.clock.offset_seconds += INTERVAL_SECONDS
        await self.statistics.refresh()

    async def run(self, statement):
        """Run one statement."""
        async with self.database.statement() as connection:
            await connection.execute(sa.text(statement))

    def series(self, name):
        """Return the samples of a metric by label."""
        return {
            next(iter(sample.labels.values())): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == name
        }


@asynccontextmanager
async def opened(url, **settings):
    """Open a database with its statistics."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    settings = DatabaseSettings(url=Secret(url), **settings)
    async with open_database(settings, metrics=metrics) as database:
        yield World(database, registry, metrics)


async def test_every_table_has_its_size(database_url: str) -> None:
    """Partitions count for their parent, and rows make a table larger."""
    async with opened(database_url) as world:
        await world.refresh()
        before = world.series("brokerd_db_table_bytes")
        assert set(before) == {table.name for table in metadata.tables.values()} | {
            "alembic_version"
        }
        await world.run(
            "INSERT INTO brokerd.deals (account_id, deal_id, user_id, type, time, broker_time,"
            " profit, commission, swap, book, raw, content_hash, source, write_id)"
            " SELECT n, '1', 'ann', 'DEAL_TYPE_BUY', now(), '', 1, 0, 0, 'balance',"
            " repeat('x', 500), 1, 'pull', 1 FROM generate_series(1, 5000) AS n"
        )
        await world.statistics.refresh()
        assert world.series("brokerd_db_table_bytes") == before  # read a moment ago
        await world.refresh()
        after = world.series("brokerd_db_table_bytes")
        assert after["deals"] > before["deals"] + 2_500_000
        assert after["leases"] == before["leases"]


async def test_without_the_extension_there_are_no_statements(database_url: str) -> None:
    """Nothing is shown, and nothing fails; also when only its view is there, not its library."""
    async with opened(database_url) as world:
        await world.refresh()
        assert world.series("brokerd_db_statement_seconds") == {}
        await world.run("CREATE EXTENSION pg_stat_statements")
        await world.refresh()
        assert world.series("brokerd_db_statement_seconds") == {}
        assert world.series("brokerd_db_table_bytes")


async def test_a_server_that_is_away_is_no_error(database_url: str) -> None:
    """What was read stays, and the next scrape does not try again at once."""
    async with opened(database_url, acquire_seconds=0.2) as world:
        await world.refresh()
        sizes = world.series("brokerd_db_table_bytes")
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("LOCK TABLE brokerd.heads")
            world.database._timeout_seconds = 0.2
            await world.refresh()
            failed = world.series("brokerd_db_failures_total")
            await world.statistics.refresh()
            assert world.series("brokerd_db_failures_total") == failed == {"timeout": 1}
        assert world.series("brokerd_db_table_bytes") == sizes


async def test_the_dearest_statements_are_shown_and_no_more() -> None:
    """By query id, at most ten, of this database alone; who falls behind is shown no more."""
    async with engines(is_durable=False) as running:
        with psycopg.connect(running.postgres_url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
        await running.postgres.restart()
        await upgrade(Secret(running.postgres_url))
        async with opened(running.postgres_url) as world:
            await world.run('CREATE SCHEMA "odd one"')
            await world.run('CREATE EXTENSION pg_stat_statements SCHEMA "odd one"')
            await world.run("SELECT pg_sleep(0.2)")
            await world.run("SELECT pg_sleep(0.1)")
            async with opened(running.postgres.url("postgres")) as other:
                await other.run("SELECT pg_sleep(0.6), 'of another database'")
            await world.refresh()
            seconds = world.series("brokerd_db_statement_seconds")
            calls = world.series("brokerd_db_statement_calls")
            assert len(seconds) == TOP_STATEMENTS
            assert set(calls) == set(seconds)
            dearest = max(seconds, key=seconds.get)
            int(dearest)
            assert 0.3 <= seconds[dearest] < 0.6
            assert calls[dearest] == 2

            await world.run('SELECT "odd one".pg_stat_statements_reset()')
            await world.refresh()
            assert dearest not in world.series("brokerd_db_statement_seconds")

            # a role that may not read it gets nothing, and no error
            await world.run("CREATE ROLE plain LOGIN PASSWORD 'secret'")
            await world.run("GRANT USAGE ON SCHEMA brokerd TO plain")
            host = running.postgres_url.partition("?")[2]
            async with opened(f"postgresql://plain:secret@/brokerd?{host}") as plain:
                await plain.refresh()
                assert plain.series("brokerd_db_statement_seconds") == {}
                assert plain.series("brokerd_db_table_bytes")


async def test_a_scrape_is_not_held_up_by_a_lock(database_url: str) -> None:
    """A table that is being altered makes the statistics late, not the scrape."""
    async with opened(database_url) as world:
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("LOCK TABLE brokerd.heads")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await world.refresh()
            await world.statistics.refresh()  # not again at once
        await world.refresh()
        assert world.series("brokerd_db_table_bytes")
