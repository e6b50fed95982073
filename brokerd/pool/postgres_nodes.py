"""The register of process starts in Postgres, and the freeing of what dead ones held.

Births and deaths run behind the fleet's lock: no claim is under way while they look, so none can
give leases to an incarnation that is closed already.
"""

import sqlalchemy as sa
from psycopg import sql

from brokerd.domain import Incarnation
from brokerd.errors import Fenced
from brokerd.queue.fleet_lock import run_locked
from brokerd.store.engine import Database
from brokerd.store.tables import nodes

# Freed links keep their deadline and are free at once: their node failed, not they. The rows are
# locked by account, as a ledger write locks them, so that the two cannot deadlock.
_CLOSE = """
WITH closed AS (
  UPDATE brokerd.nodes SET closed_at = clock_timestamp()
  WHERE closed_at IS NULL AND {}
  RETURNING incarnation
), held AS (
  SELECT account_id FROM brokerd.leases
  WHERE owner IN (SELECT incarnation FROM closed)
  ORDER BY account_id FOR UPDATE
), freed AS (
  UPDATE brokerd.leases AS lease
  SET owner = NULL, not_before = NULL, queued_at = clock_timestamp()
  FROM held WHERE lease.account_id = held.account_id
)
SELECT incarnation FROM closed
"""
_CLOSE_NAMESAKES = sql.SQL(_CLOSE).format(sql.SQL("name = %(name)s"))
_CLOSE_SILENT = sql.SQL(_CLOSE).format(
    sql.SQL(
        "incarnation <> %(incarnation)s"
        " AND heartbeat_at < clock_timestamp() - make_interval(secs => %(silent_seconds)s)"
    )
)
_CLOSE_OURS = sql.SQL(_CLOSE).format(sql.SQL("incarnation = %(incarnation)s"))
# From the clock and not from the column's sequence, which a restored backup or the failover to a
# replica sets back: an incarnation that comes twice would be a zombie's key.
_OPEN = sql.SQL("""
INSERT INTO brokerd.nodes (incarnation, name, max_links) OVERRIDING SYSTEM VALUE
SELECT greatest(max(incarnation) + 1, (extract(epoch FROM clock_timestamp()) * 1e6)::bigint),
  %(name)s, %(max_links)s
FROM brokerd.nodes
RETURNING incarnation
""")

_BEAT = (
    sa.update(nodes)
    .where(nodes.c.incarnation == sa.bindparam("ours"), nodes.c.closed_at.is_(None))
    .values(heartbeat_at=sa.func.clock_timestamp())
)
_ANY_SILENT = sa.select(
    sa.exists().where(
        nodes.c.closed_at.is_(None),
        nodes.c.incarnation != sa.bindparam("ours"),
        nodes.c.heartbeat_at
        < sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, sa.bindparam("silent_seconds")),
    )
)


class PostgresNodes:
    """`Nodes` over the tables `nodes` and `leases`.

    `heartbeats` has a connection that nothing else uses: a heartbeat never waits for its turn.
    """

    def __init__(self, database: Database, *, heartbeats: Database) -> None:
        self._database = database
        self._heartbeats = heartbeats

    async def register(self, name: str, *, max_links: int) -> Incarnation:
        """Open a new incarnation in the place of older ones of the same name."""
        _, opened = await run_locked(
            self._database,
            _CLOSE_NAMESAKES,
            _OPEN,
            parameters={"name": name, "max_links": max_links},
        )
        return Incarnation(opened[0][0])

    async def heartbeat(self, incarnation: Incarnation) -> None:
        """Note by the database's clock that we live."""
        async with self._heartbeats.statement() as connection:
            noted = await connection.execute(_BEAT, {"ours": incarnation})
        if noted.rowcount == 0:
            raise Fenced("this incarnation was closed")

    async def bury(self, incarnation: Incarnation, *, silent_seconds: float) -> int:
        """Close silent incarnations; looks first, without the lock that claims need."""
        parameters = {"silent_seconds": silent_seconds}
        async with self._database.statement() as connection:
            looked = await connection.execute(_ANY_SILENT, {"ours": incarnation, **parameters})
        if not looked.scalar_one():
            return 0
        (closed,) = await run_locked(
            self._database, _CLOSE_SILENT, parameters={"incarnation": incarnation, **parameters}
        )
        return len(closed)

    async def retire(self, incarnation: Incarnation) -> None:
        """Close our own incarnation and free whatever lease it still holds."""
        await run_locked(self._database, _CLOSE_OURS, parameters={"incarnation": incarnation})
