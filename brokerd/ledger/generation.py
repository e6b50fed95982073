"""Which history of the database the feed is in: its generation, raised when history was changed.

Transaction ids order the feed only within one history. A promoted replica raises the WAL's
timeline, which `brokerd.feed_generation()` adds by itself, at once. A backup that is restored
brings its `feed` row into another cluster or database: that row then names another origin.
"""

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from brokerd.store.engine import Database

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_ORIGIN = """(
    SELECT system_identifier || '/' || d.oid FROM pg_control_system(), pg_database d
    WHERE d.datname = current_database()
)"""
_IS_OURS = sa.text(f"SELECT origin = {_ORIGIN} FROM brokerd.feed")  # noqa: S608  # a constant

# Waits for the writers of the old generation and keeps new ones out: readers trust every event of
# a generation that is over.
_KEEP_OUT_WRITERS = sa.text("LOCK TABLE brokerd.events IN SHARE ROW EXCLUSIVE MODE")
_RAISE = sa.text(f"""
UPDATE brokerd.feed SET origin = {_ORIGIN}, base = greatest(
    base + 1, extract(epoch FROM clock_timestamp())::bigint,
    (SELECT generation FROM brokerd.events ORDER BY generation DESC, xid DESC, seq DESC LIMIT 1) + 1
)
WHERE :is_forced OR origin <> {_ORIGIN}
RETURNING brokerd.feed_generation()
""")  # noqa: S608  # a constant


async def follow_history(database: Database) -> None:
    """Raise the feed's generation if this database was restored from another's backup."""
    async with database.statement() as connection:
        is_ours = (await connection.execute(_IS_OURS)).scalar_one()
    if not is_ours:
        await _raise(database, is_forced=False)


async def raise_generation(database: Database) -> None:
    """Raise it whatever the database looks like; for whoever has just restored a backup."""
    await _raise(database, is_forced=True)


async def _raise(database: Database, *, is_forced: bool) -> None:
    async with database.transaction() as connection:
        raised = await _raised(connection, is_forced=is_forced)
    if raised:
        log.warning("feed.generation_raised")


async def _raised(connection: AsyncConnection, *, is_forced: bool) -> bool:
    await connection.execute(_KEEP_OUT_WRITERS)
    answer = await connection.execute(_RAISE, {"is_forced": is_forced})
    return answer.one_or_none() is not None
