"""The quarantine in Postgres; its writes are single fenced statements, as the ledger's are."""

from collections.abc import Mapping, Sequence
from datetime import UTC

import sqlalchemy as sa

from brokerd.domain import (
    AccountId,
    BadRecord,
    DealId,
    Fence,
    OpenRecord,
    QuarantineState,
    Source,
)
from brokerd.errors import Fenced
from brokerd.store.engine import Database
from brokerd.store.tables import quarantine

_KEEP = """
WITH owned AS MATERIALIZED (
    SELECT account_id FROM brokerd.leases
    WHERE account_id = %(account_id)s AND owner = %(owner)s AND epoch = %(epoch)s
    FOR SHARE
),
kept AS (
    INSERT INTO brokerd.quarantine AS q (
        account_id, source, digest, reason, problem, deal_id, time, raw, raw_bytes, is_cut
    )
    SELECT o.account_id, %(source)s, r.* FROM owned o CROSS JOIN unnest(
        %(digests)s::text[], %(reasons)s::text[], %(problems)s::text[], %(deal_ids)s::text[],
        %(times)s::timestamptz[], %(raws)s::text[], %(raw_bytes)s::bigint[], %(cuts)s::boolean[]
    ) AS r
    ON CONFLICT (account_id, digest) DO UPDATE SET
        last_seen_at = clock_timestamp(), times = q.times + 1,
        reason = excluded.reason, problem = excluded.problem,
        -- unreadable again: only an operator's word outlasts that
        state = CASE q.state WHEN 'replayed' THEN 'open' ELSE q.state END,
        closed_at = CASE q.state WHEN 'replayed' THEN NULL ELSE q.closed_at END
    RETURNING digest, xmax = 0 AS is_new
)
SELECT EXISTS (SELECT FROM owned) AS is_owned,
    ARRAY(SELECT digest FROM kept WHERE is_new) AS fresh
"""

_CLOSE = """
WITH owned AS MATERIALIZED (
    SELECT account_id FROM brokerd.leases
    WHERE account_id = %(account_id)s AND owner = %(owner)s AND epoch = %(epoch)s
    FOR SHARE
),
closed AS (
    UPDATE brokerd.quarantine q
    SET state = 'replayed', closed_at = clock_timestamp(), replay_asked_at = NULL
    FROM owned o
    WHERE q.account_id = o.account_id AND q.state = 'open'
        AND q.quarantine_id = ANY(%(ids)s::bigint[])
)
SELECT EXISTS (SELECT FROM owned) AS is_owned
"""


class PostgresQuarantine:
    """A `QuarantineStore` over table `quarantine`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(
        self, fence: Fence, records: Sequence[BadRecord], *, source: Source
    ) -> Sequence[str]:
        """Keep the records and return the digests of those that are new."""
        values: dict[str, object] = {
            **_fence_values(fence),
            "source": source.value,
            "digests": [each.digest for each in records],
            "reasons": [each.reason.value for each in records],
            "problems": [each.problem for each in records],
            "deal_ids": [each.deal_id for each in records],
            "times": [each.time for each in records],
            "raws": [each.raw for each in records],
            "raw_bytes": [each.raw_bytes for each in records],
            "cuts": [each.is_cut for each in records],
        }
        async with self._database.statement() as connection:
            row = (await connection.exec_driver_sql(_KEEP, values)).one()
        if not row.is_owned:
            raise Fenced(f"account {fence.account_id} is no longer ours")
        return tuple(row.fresh)

    async def open_records(self, account_id: AccountId) -> Sequence[OpenRecord]:
        """Return the records of an account that are still open, oldest first."""
        columns = quarantine.c
        asked = sa.case((columns.replay_asked_at.is_not(None), columns.raw)).label("raw")
        query = (
            sa.select(columns.quarantine_id, columns.deal_id, columns.last_seen_at, asked)
            .where(columns.account_id == account_id, columns.state == QuarantineState.OPEN)
            .order_by(columns.quarantine_id)
        )
        async with self._database.statement() as connection:
            rows = (await connection.execute(query)).all()
        return [
            OpenRecord(
                quarantine_id=row.quarantine_id,
                deal_id=None if row.deal_id is None else DealId(row.deal_id),
                seen_at=row.last_seen_at.astimezone(UTC),
                raw=row.raw,
            )
            for row in rows
        ]

    async def close(self, fence: Fence, quarantine_ids: Sequence[int]) -> None:
        """Note that what these records say is in the ledger now."""
        values = {**_fence_values(fence), "ids": list(quarantine_ids)}
        async with self._database.statement() as connection:
            is_owned = (await connection.exec_driver_sql(_CLOSE, values)).scalar_one()
        if not is_owned:
            raise Fenced(f"account {fence.account_id} is no longer ours")


def _fence_values(fence: Fence) -> Mapping[str, object]:
    return {
        "account_id": fence.account_id,
        "owner": fence.incarnation,
        "epoch": fence.epoch,
    }
