"""The quarantine as operators see it, in Postgres."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from brokerd.api.ports import QuarantinedRecord
from brokerd.domain import (
    BadReason,
    BadRecord,
    DealId,
    LinkId,
    Platform,
    QuarantineState,
    Source,
)
from brokerd.errors import StoreUnavailable
from brokerd.store.engine import Database
from brokerd.store.tables import accounts, quarantine
from brokerd.telemetry import Metrics

_Row = sa.Row[tuple[object, ...]]
_RECORDS: sa.Select[tuple[object, ...]] = sa.select(
    *quarantine.c, accounts.c.link_id, accounts.c.platform
).join_from(quarantine, accounts, accounts.c.account_id == quarantine.c.account_id)


class PostgresQuarantineReader:
    """A `QuarantineReader` over table `quarantine`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, link_id: LinkId, *, state: QuarantineState | None, after: int, limit: int
    ) -> Sequence[QuarantinedRecord] | None:
        """Read records behind `after`; None when no link ever had that id."""
        query = _RECORDS.where(accounts.c.link_id == link_id, quarantine.c.quarantine_id > after)
        if state is not None:
            query = query.where(quarantine.c.state == state)
        query = query.order_by(quarantine.c.quarantine_id).limit(limit)
        known = sa.select(sa.exists().where(accounts.c.link_id == link_id))
        async with self._database.statement() as connection:
            rows = (await connection.execute(query)).all()
            if not rows and not await connection.scalar(known):
                return None
        return [_record(row) for row in rows]

    async def read(self, link_id: LinkId, quarantine_id: int) -> QuarantinedRecord | None:
        """Read one record."""
        query = _RECORDS.where(
            accounts.c.link_id == link_id, quarantine.c.quarantine_id == quarantine_id
        )
        async with self._database.statement() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _record(row)

    async def ask_replay(self, link_id: LinkId, quarantine_id: int) -> QuarantinedRecord | None:
        """Have the owner write an open record; None when it is open no more."""
        values = {"replay_asked_at": sa.func.clock_timestamp()}
        return await self._change(link_id, quarantine_id, values)

    async def discard(
        self, link_id: LinkId, quarantine_id: int, *, note: str
    ) -> QuarantinedRecord | None:
        """Close an open record for a reason; None when it is open no more."""
        values = {
            "state": QuarantineState.DISCARDED,
            "closed_at": sa.func.clock_timestamp(),
            "replay_asked_at": None,
            "note": note,
        }
        return await self._change(link_id, quarantine_id, values)

    async def _change(
        self, link_id: LinkId, quarantine_id: int, values: Mapping[str, object]
    ) -> QuarantinedRecord | None:
        change = (
            sa.update(quarantine)
            .where(
                quarantine.c.quarantine_id == quarantine_id,
                quarantine.c.state == QuarantineState.OPEN,
            )
            .values(**values)
        )
        async with self._database.statement() as connection:
            changed = await connection.execute(change)
        return await self.read(link_id, quarantine_id) if changed.rowcount else None


class QuarantineSize:
    """The metric of what is open, asked of Postgres when metrics are scraped."""

    def __init__(self, database: Database, *, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics

    async def refresh(self) -> None:
        """Count the open records; without Postgres the last count stays."""
        query = (
            sa.select(quarantine.c.reason, sa.func.count().label("records"))
            .where(quarantine.c.state == QuarantineState.OPEN)
            .group_by(quarantine.c.reason)
        )
        try:
            async with self._database.statement() as connection:
                counts = {row.reason: row.records for row in await connection.execute(query)}
        except StoreUnavailable:
            return
        for reason in BadReason:
            self._metrics.quarantine_size.labels(reason=reason).set(counts.get(reason, 0))


def _record(row: _Row) -> QuarantinedRecord:
    return QuarantinedRecord(
        quarantine_id=row.quarantine_id,
        link_id=LinkId(row.link_id),
        platform=Platform(row.platform),
        record=BadRecord(
            digest=row.digest,
            reason=BadReason(row.reason),
            problem=row.problem,
            deal_id=None if row.deal_id is None else DealId(row.deal_id),
            time=_utc(row.time),
            raw=row.raw,
            raw_bytes=row.raw_bytes,
            is_cut=row.is_cut,
        ),
        source=Source(row.source),
        state=QuarantineState(row.state),
        times=row.times,
        first_seen_at=row.first_seen_at.astimezone(UTC),
        last_seen_at=row.last_seen_at.astimezone(UTC),
        replay_asked_at=_utc(row.replay_asked_at),
        closed_at=_utc(row.closed_at),
        note=row.note,
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
