"""What Postgres knows of itself: the sizes of our tables, and which statements cost it most."""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from brokerd.clock import Clock
from brokerd.errors import StoreUnavailable
from brokerd.store.engine import Database
from brokerd.telemetry import Metrics

INTERVAL_SECONDS = 30.0
"""Sizes are read from the file system, file by file: however often one scrapes, no more than so."""
TOP_STATEMENTS = 10
"""How many series there may be: query ids are no closed set."""

_TABLES = sa.text("""
SELECT relname AS name, CASE relkind
  WHEN 'p' THEN (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree(oid))
  ELSE pg_total_relation_size(oid) END AS bytes
FROM pg_class
WHERE relnamespace = 'brokerd'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
""")
# The view is there without its library as well, and then raises: so the library's setting is asked.
_VIEW = sa.text("""
SELECT n.nspname FROM pg_extension AS e
JOIN pg_namespace AS n ON n.oid = e.extnamespace
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'pg_stat_statements'
WHERE e.extname = 'pg_stat_statements'
  AND current_setting('pg_stat_statements.max', true) IS NOT NULL
  AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
""")

Row = sa.Row[tuple[object, ...]]


class _Statement(NamedTuple):
    """A line of pg_stat_statements."""

    queryid: str
    seconds: float
    calls: int


class DatabaseStatistics:
    """Shows the metrics `brokerd_db_table_bytes` and `brokerd_db_statement_*`."""

    def __init__(self, database: Database, *, clock: Clock, metrics: Metrics) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._next_at: float | None = None

    async def refresh(self) -> None:
        """Read them anew unless that was done a moment ago; while Postgres is away they stay."""
        now = self._clock.monotonic()
        if self._next_at is not None and now < self._next_at:
            return
        self._next_at = now + INTERVAL_SECONDS
        try:
            async with self._database.statement() as connection:
                tables = (await connection.execute(_TABLES)).all()
                statements = await _top_statements(connection)
        except StoreUnavailable:
            return  # counted where it happened; a scrape is no place to wait for Postgres
        self._show(tables, statements)

    def _show(
        self,
        tables: Sequence[Row],
        statements: Sequence[_Statement],
    ) -> None:
        """Replace all series at once: no statement stays that is not at the top any more."""
        metrics = self._metrics
        for metric in (metrics.table_bytes, metrics.statement_seconds, metrics.statement_calls):
            metric.clear()
        for table in tables:
            metrics.table_bytes.labels(table=table.name).set(table.bytes or 0)  # null: just dropped
        for each in statements:
            metrics.statement_seconds.labels(queryid=each.queryid).set(each.seconds)
            metrics.statement_calls.labels(queryid=each.queryid).set(each.calls)


async def _top_statements(
    connection: AsyncConnection,
) -> Sequence[_Statement]:
    """Return the dearest statements of this database; none where the extension is not in use."""
    schema = await connection.scalar(_VIEW)
    if schema is None:
        return []
    view = sa.table(
        "pg_stat_statements",
        sa.column("dbid", sa.BigInteger),
        sa.column("queryid", sa.BigInteger),
        sa.column("calls", sa.BigInteger),
        sa.column("total_exec_time", sa.Double),  # milliseconds
        schema=schema,
    )
    here = sa.text("dbid = (SELECT oid FROM pg_database WHERE datname = current_database())")
    seconds = (sa.func.sum(view.c.total_exec_time) / 1000).label("seconds")
    query = (
        sa.select(
            view.c.queryid.cast(sa.Text).label("queryid"),
            seconds,
            sa.func.sum(view.c.calls).label("calls"),
        )
        .where(here, view.c.queryid.is_not(None))  # null: another role's, which we may not see
        .group_by(view.c.queryid)
        .order_by(seconds.desc())
        .limit(TOP_STATEMENTS)
    )
    return [
        _Statement(row.queryid, seconds=float(row.seconds), calls=int(row.calls))
        for row in await connection.execute(query)
    ]
