"""Run statements one caller at a time in the whole fleet, without a transaction that waits.

Theory. What some statements may do depends on rows that others of their kind change: claims, births
and deaths of nodes, spending. They exclude each other by an advisory lock. The lock lives
as long as the transaction, and a transaction that waits for its client would stop the whole fleet
when that client is stopped. So lock and statements travel in one message, which PostgreSQL runs as
one transaction of its own to the end. Each statement in it takes a new snapshot: behind the lock it
sees all that was committed before.
"""

from collections.abc import Mapping, Sequence

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from brokerd.store.engine import Database


def taking(lock_key: int) -> sql.Composed:
    """Return the statement that waits for a lock and holds it to the end of the transaction."""
    return sql.SQL("SELECT pg_advisory_xact_lock({})").format(lock_key)


async def run_behind(
    lock_key: int,
    database: Database,
    *statements: sql.Composable,
    parameters: Mapping[str, object],
) -> Sequence[Sequence[TupleRow]]:
    """Run the statements behind a lock, whole or not at all; return each one's rows.

    Raises `StoreUnavailable`; whether they were committed is then unknown.
    """
    async with database.statement() as connection:
        raw = (await connection.get_raw_connection()).driver_connection
        if not isinstance(raw, psycopg.AsyncConnection):
            raise TypeError(f"not a connection of psycopg: {type(raw)}")
        # Parameters bound on our side are what lets several statements share one message.
        async with psycopg.AsyncClientCursor(raw) as cursor:
            await cursor.execute(sql.SQL("; ").join([taking(lock_key), *statements]), parameters)
            return [await _rows_of_next(cursor) for _ in statements]


async def _rows_of_next(cursor: psycopg.AsyncClientCursor[TupleRow]) -> Sequence[TupleRow]:
    cursor.nextset()
    return await cursor.fetchall() if cursor.description is not None else ()
