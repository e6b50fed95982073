"""The queue in Postgres: an ordering of lease rows that are wanted and owned by nobody."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa
from psycopg import sql

from brokerd.domain import (
    AccountId,
    Backoff,
    Claim,
    Desired,
    Fence,
    Identity,
    Incarnation,
    LinkId,
    LinkSpec,
    Platform,
    Priority,
    UserId,
)
from brokerd.errors import Fenced
from brokerd.queue.fleet_lock import run_locked
from brokerd.queue.ports import QueueDepth
from brokerd.store.engine import Database
from brokerd.store.place import place_of
from brokerd.store.tables import accounts, leases, links

_IS_OPEN = sql.SQL(
    "SELECT 1 FROM brokerd.nodes WHERE incarnation = %(incarnation)s AND closed_at IS NULL"
)

# A row that somebody is changing just now is left for the next claim: waiting for it could
# deadlock, because others lock by account and the queue is read by deadline.
_END_BACKOFFS = sql.SQL("""
UPDATE brokerd.leases SET not_before = NULL
WHERE account_id IN (
  SELECT account_id FROM brokerd.leases WHERE not_before <= now() FOR UPDATE SKIP LOCKED)
""")

# The node's own row bounds the claim as well, should the caller have miscounted. It does so behind
# the LIMIT: with a number there the planner walks the index, with an expression it sorts the queue.
_TAKE = sql.SQL("""
WITH node AS (
  SELECT max_links - (
      SELECT count(*) FROM brokerd.leases WHERE owner = %(incarnation)s) AS free
  FROM brokerd.nodes
  WHERE incarnation = %(incarnation)s AND closed_at IS NULL
), next AS (
  SELECT account_id, deadline FROM brokerd.leases
  WHERE owner IS NULL AND is_wanted AND not_before IS NULL
  ORDER BY deadline, account_id
  LIMIT %(limit)s
  FOR UPDATE SKIP LOCKED
), turns AS (
  SELECT account_id, row_number() OVER (ORDER BY deadline, account_id) AS turn FROM next
), taken AS (
  UPDATE brokerd.leases AS lease SET owner = %(incarnation)s, epoch = lease.epoch + 1
  FROM turns, node WHERE lease.account_id = turns.account_id AND turns.turn <= node.free
  RETURNING lease.account_id, lease.owner, lease.epoch, lease.attempt, lease.backoff_bound,
    lease.deadline
)
SELECT taken.account_id, taken.owner, taken.epoch, taken.attempt, taken.backoff_bound,
  link_id, user_id, platform, login, server, currency, token, metaapi_account_id,
  created_account_id, region, desired, priority, sync_from, max_staleness_seconds, labels,
  generation, credential_version, deleted_at, removes_remote
FROM taken JOIN brokerd.accounts USING (account_id)
ORDER BY taken.deadline, taken.account_id
""")

# They need no slot: a fleet that is full must still be able to stop what costs money.
_TAKE_ERRANDS = sql.SQL("""
WITH next AS (
  SELECT account_id FROM brokerd.leases
  WHERE owner IS NULL AND has_errand AND not_before IS NULL
  ORDER BY queued_at, account_id
  LIMIT %(errands)s
  FOR UPDATE SKIP LOCKED
), taken AS (
  UPDATE brokerd.leases AS lease SET owner = node.incarnation, epoch = lease.epoch + 1
  FROM next, brokerd.nodes AS node
  WHERE lease.account_id = next.account_id
    AND node.incarnation = %(incarnation)s AND node.closed_at IS NULL
  RETURNING lease.account_id, lease.owner, lease.epoch, lease.attempt, lease.backoff_bound,
    lease.queued_at
)
SELECT taken.account_id, taken.owner, taken.epoch, taken.attempt, taken.backoff_bound,
  link_id, user_id, platform, login, server, currency, token, metaapi_account_id,
  created_account_id, region, desired, priority, sync_from, max_staleness_seconds, labels,
  generation, credential_version, deleted_at, removes_remote
FROM taken JOIN brokerd.accounts USING (account_id)
ORDER BY taken.queued_at, taken.account_id
""")


class _ClaimRow(NamedTuple):
    """The columns a claim is made of, in the order in which they are read."""

    account_id: int
    owner: int
    epoch: int
    attempt: int
    backoff_bound: float
    link_id: str
    user_id: str
    platform: str
    login: str
    server: str
    currency: str
    token: str
    metaapi_account_id: str | None
    created_account_id: str | None
    region: str
    desired: str
    priority: str
    sync_from: datetime | None
    max_staleness_seconds: int | None
    labels: Mapping[str, str]
    generation: int
    credential_version: int
    deleted_at: datetime | None
    removes_remote: bool


_OWNED = (
    sa.select(*((leases if name in leases.c else accounts).c[name] for name in _ClaimRow._fields))
    .join_from(leases, accounts, leases.c.account_id == accounts.c.account_id)
    .where(leases.c.owner == sa.bindparam("incarnation"))
    .order_by(leases.c.account_id)
)
_CHANGED = _OWNED.outerjoin(links, links.c.account_id == leases.c.account_id).where(
    # without a first report there is nothing to compare: the claim is as new as can be
    (accounts.c.generation > links.c.observed_generation)
    | accounts.c.deleted_at.is_not(None)
    | ~leases.c.is_wanted
)

_DEPTH = sa.text("""
SELECT queue.length + late.ready, late.waiting,
  coalesce(extract(epoch FROM clock_timestamp() - least(queue.oldest, late.oldest))::float8, 0),
  errands.ready
FROM (
  SELECT count(*) AS length, min(queued_at) AS oldest FROM brokerd.leases
  WHERE owner IS NULL AND is_wanted AND not_before IS NULL
) AS queue, (
  SELECT count(*) FILTER (WHERE not_before <= now()) AS ready,
    count(*) FILTER (WHERE not_before > now()) AS waiting,
    min(queued_at) FILTER (WHERE not_before <= now()) AS oldest
  FROM brokerd.leases WHERE owner IS NULL AND is_wanted AND not_before IS NOT NULL
) AS late, (
  SELECT count(*) AS ready FROM brokerd.leases
  WHERE owner IS NULL AND has_errand AND (not_before IS NULL OR not_before <= now())
) AS errands
""")


class PostgresQueue:
    """A `Queue` over the tables `leases`, `accounts` and `links`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(
        self, incarnation: Incarnation, *, limit: int, errands: int = 0
    ) -> Sequence[Claim]:
        """Take up to `limit` waiting links, earliest deadline first, and errands beside them."""
        is_open, _, taken, sent = await run_locked(
            self._database,
            _IS_OPEN,
            _END_BACKOFFS,
            _TAKE,
            _TAKE_ERRANDS,
            parameters={"incarnation": incarnation, "limit": limit, "errands": errands},
        )
        if not is_open:
            raise Fenced("this incarnation was closed")
        return [_claim(_ClaimRow._make(row)) for row in (*taken, *sent)]

    async def changed(self, incarnation: Incarnation) -> Sequence[Claim]:
        """Return the links we own whose spec is newer than what their owner reported."""
        return await self._claims(_CHANGED, incarnation)

    async def owned(self, incarnation: Incarnation) -> Sequence[Claim]:
        """Return all links we own."""
        return await self._claims(_OWNED, incarnation)

    async def depth(self) -> QueueDepth:
        """Count what waits."""
        async with self._database.statement() as connection:
            row = (await connection.execute(_DEPTH)).one()
        ready, in_backoff, oldest_seconds, errands = row
        return QueueDepth(
            ready=ready,
            in_backoff=in_backoff,
            oldest_seconds=max(0.0, oldest_seconds),
            errands=errands,
        )

    async def _claims(
        self, query: sa.Select[tuple[object, ...]], incarnation: Incarnation
    ) -> Sequence[Claim]:
        async with self._database.statement() as connection:
            rows = await connection.execute(query, {"incarnation": incarnation})
            return [_claim(_ClaimRow._make(row)) for row in rows]


def _claim(row: _ClaimRow) -> Claim:
    return Claim(
        fence=Fence(
            account_id=AccountId(row.account_id),
            incarnation=Incarnation(row.owner),
            epoch=row.epoch,
        ),
        link_id=LinkId(row.link_id),
        spec=_spec(row),
        generation=row.generation,
        is_deleted=row.deleted_at is not None,
        backoff=Backoff(attempt=row.attempt, bound_seconds=row.backoff_bound),
        created_id=row.created_account_id,
        removes_remote=row.removes_remote,
        credential_version=row.credential_version,
    )


def _spec(row: _ClaimRow) -> LinkSpec:
    return LinkSpec(
        user_id=UserId(row.user_id),
        desired=Desired(row.desired),
        priority=Priority(row.priority),
        metaapi=place_of(row.token, row.metaapi_account_id, row.region),
        identity=Identity(
            platform=Platform(row.platform),
            login=row.login,
            server=row.server,
            currency=row.currency,
        ),
        sync_from=row.sync_from.astimezone(UTC) if row.sync_from else None,
        max_staleness_seconds=row.max_staleness_seconds,
        labels=row.labels,
    )
