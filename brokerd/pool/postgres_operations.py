"""What was asked of links in Postgres; what an owner notes is a single fenced statement."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec
import sqlalchemy as sa

from brokerd.domain import AccountId, Fence, Incarnation, LinkId
from brokerd.errors import Fenced
from brokerd.operations import (
    AuditResult,
    Operation,
    OperationFailure,
    OperationId,
    OperationKind,
    OperationState,
    Progress,
)
from brokerd.store.engine import Database
from brokerd.store.tables import leases, operations

Row = sa.Row[tuple[object, ...]]

_OPEN = (
    sa.select(*operations.c)
    .join_from(operations, leases, leases.c.account_id == operations.c.account_id)
    .where(operations.c.finished_at.is_(None), leases.c.owner == sa.bindparam("incarnation"))
    .order_by(operations.c.asked_at)
)

_NOTED = """
WITH owned AS MATERIALIZED (
    SELECT account_id FROM brokerd.leases
    WHERE account_id = %(account_id)s AND owner = %(owner)s AND epoch = %(epoch)s
    FOR SHARE
),
noted AS (
    UPDATE brokerd.operations o
    SET started_at = coalesce(started_at, clock_timestamp()), {changes}
    FROM owned w
    WHERE o.account_id = w.account_id AND o.operation_id = %(operation_id)s
        AND o.finished_at IS NULL
    RETURNING 1
)
SELECT EXISTS (SELECT FROM owned) AS is_owned, EXISTS (SELECT FROM noted) AS is_open
"""
_ADVANCE = _NOTED.format(changes="state = 'running', progress = %(noted)s::jsonb")
_FINISH = _NOTED.format(
    changes="state = 'done', finished_at = clock_timestamp(), result = %(noted)s::jsonb,"
    ' progress = progress || \'{"note": ""}\''
)

_FAIL = sa.text("""
UPDATE brokerd.operations o
SET state = 'failed', finished_at = clock_timestamp(),
  failure = CASE WHEN has_link THEN 'expired' ELSE 'link_deleted' END
FROM (
  SELECT operation_id, EXISTS (
      SELECT FROM brokerd.accounts a
      WHERE a.account_id = p.account_id AND a.link_id = p.link_id AND a.deleted_at IS NULL
    ) AS has_link
  FROM brokerd.operations p WHERE finished_at IS NULL
) AS judged
WHERE o.operation_id = judged.operation_id AND o.finished_at IS NULL
  AND (NOT has_link OR o.expires_at <= clock_timestamp())
RETURNING o.*
""")
_FORGET = sa.text("""
DELETE FROM brokerd.operations WHERE operation_id IN (
  SELECT operation_id FROM brokerd.operations
  WHERE finished_at < now() - make_interval(days => :keep_days)  -- not volatile: an index helps
  LIMIT 10000)
""")


class PostgresOperations:
    """An `OperationStore` over table `operations`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_of(self, incarnation: Incarnation) -> Sequence[Operation]:
        """Return what is open for links we own, in the order in which it was asked."""
        async with self._database.statement() as connection:
            rows = await connection.execute(_OPEN, {"incarnation": incarnation})
            return [operation_of(row) for row in rows]

    async def advance(self, fence: Fence, operation_id: OperationId, progress: Progress) -> bool:
        """Note how far we came; False when the operation is not open any more."""
        return await self._note(_ADVANCE, fence, operation_id, progress)

    async def finish(self, fence: Fence, operation_id: OperationId, result: AuditResult) -> bool:
        """Close it as done; False when it is not open any more."""
        return await self._note(_FINISH, fence, operation_id, result)

    async def sweep(self, *, keep_days: int) -> Sequence[Operation]:
        """Fail what is past its time or asked of a deleted link; forget what is old."""
        async with self._database.statement() as connection:
            failed = [operation_of(row) for row in await connection.execute(_FAIL)]
            await connection.execute(_FORGET, {"keep_days": keep_days})
        return failed

    async def _note(
        self, statement: str, fence: Fence, operation_id: OperationId, noted: Progress | AuditResult
    ) -> bool:
        values: Mapping[str, object] = {
            "account_id": fence.account_id,
            "owner": fence.incarnation,
            "epoch": fence.epoch,
            "operation_id": operation_id,
            "noted": msgspec.json.encode(noted).decode(),
        }
        async with self._database.statement() as connection:
            row = (await connection.exec_driver_sql(statement, dict(values))).one()
        if not row.is_owned:
            raise Fenced(f"account {fence.account_id} is no longer ours")
        return bool(row.is_open)


def operation_of(row: Row) -> Operation:
    """Make the value of a row of table `operations`."""
    return Operation(
        operation_id=OperationId(row.operation_id),
        kind=OperationKind(row.kind),
        account_id=AccountId(row.account_id),
        link_id=LinkId(row.link_id),
        state=OperationState(row.state),
        asked_at=row.asked_at.astimezone(UTC),
        expires_at=row.expires_at.astimezone(UTC),
        started_at=_utc(row.started_at),
        finished_at=_utc(row.finished_at),
        progress=msgspec.convert(row.progress, Progress, strict=False),
        result=None if row.result is None else msgspec.convert(row.result, AuditResult),
        failure=None if row.failure is None else OperationFailure(row.failure),
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
