"""A replica of Postgres for reads: its own bounded pool, and how far it is behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import sqlalchemy as sa

from brokerd.config.settings import DatabaseSettings
from brokerd.store.engine import Database, conninfo, open_database
from brokerd.telemetry import Metrics

ACQUIRE_SECONDS = 0.5
STATEMENT_SECONDS = 5.0
"""A read that the replica does not answer in these is the primary's; its client still waits."""

# A replica that has replayed all it received is only up to date while it still receives: cut off
# from the primary it would call itself so for ever. Its receiver's status is shown to members of
# pg_read_all_stats alone; to others the mere presence of a receiver must do.
_LAG = sa.text("""
SELECT CASE
  WHEN NOT pg_is_in_recovery() THEN 0
  WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AND EXISTS (
    SELECT FROM pg_stat_wal_receiver WHERE coalesce(status, 'streaming') = 'streaming') THEN 0
  ELSE greatest(0, extract(epoch FROM clock_timestamp()
    - coalesce(pg_last_xact_replay_timestamp(), pg_postmaster_start_time())))
END
""")


@asynccontextmanager
async def open_replica(
    settings: DatabaseSettings, *, metrics: Metrics
) -> AsyncIterator[Database | None]:
    """Open the pool of `read_url`, if there is one; does not wait for the replica to be there."""
    if settings.read_url is None:
        yield None
        return
    conninfo(settings.read_url, key="database.read_url")
    reading = replace(
        settings,
        url=settings.read_url,
        pool_size=settings.read_pool_size,
        acquire_seconds=min(ACQUIRE_SECONDS, settings.acquire_seconds),
        statement_timeout_seconds=min(STATEMENT_SECONDS, settings.statement_timeout_seconds),
    )
    async with open_database(reading, metrics=metrics) as database:
        yield database


async def lag_seconds(database: Database) -> float:
    """Return the age of what the replica shows; 0 of a primary. Raises `StoreUnavailable`."""
    async with database.statement() as connection:
        return float((await connection.execute(_LAG)).scalar_one())
