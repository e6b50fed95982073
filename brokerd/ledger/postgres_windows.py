"""The windows in Postgres: where a span ends, what is closed, merging and verifying it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from brokerd.domain import AccountId, Anchor, Fence, Receipt, Window
from brokerd.errors import Fenced, StoreUnavailable
from brokerd.ledger import window_statements
from brokerd.store.engine import Database
from brokerd.store.tables import deals, windows

_STALE_ATTEMPTS = 5
"""How often a statement that met another write of the account is sent again at once."""


class PostgresWindows:
    """The connector's `Windows` over schema `brokerd`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def span_end(
        self, account_id: AccountId, *, start: datetime, end: datetime, max_deals: int
    ) -> datetime:
        """Return `end`, or the earlier time at which the ledger's deals exceed `max_deals`."""
        present = sa.and_(
            deals.c.account_id == account_id,
            deals.c.time >= start,
            deals.c.time < end,
            deals.c.removed_at.is_(None),
        )
        query = sa.select(deals.c.time).where(present)
        one_more = query.order_by(deals.c.time).offset(max_deals).limit(1)
        later = query.where(deals.c.time > start).order_by(deals.c.time).limit(1)
        async with self._database.statement() as connection:
            found = await connection.scalar(one_more)
            if found == start:  # more deals of this very time than a span may hold
                found = await connection.scalar(later)
        return end if found is None else found.astimezone(UTC)

    async def closed(self, account_id: AccountId) -> Sequence[Window]:
        """Return the account's windows in order."""
        query = sa.select(windows).where(windows.c.account_id == account_id)
        async with self._database.statement() as connection:
            rows = (await connection.execute(query.order_by(windows.c.start))).all()
        return [
            Window(
                start=row.start.astimezone(UTC),
                end=row.end.astimezone(UTC),
                receipt=Receipt(
                    count=row.deals,
                    content_hash=row.content_hash,
                    balance=row.balance,
                    credit=row.credit,
                ),
                verified_at=row.verified_at.astimezone(UTC),
            )
            for row in rows
        ]

    async def merge(self, fence: Fence, *, start: datetime, end: datetime) -> bool:
        """Make one window of those that tile [start, end); False when they do not, any more."""
        values = {**_fenced(fence), "start": start, "end": end}
        return await self._send(window_statements.MERGE, values) is not None

    async def verify(self, fence: Fence, *, start: datetime) -> bool:
        """Note that the window was compared with the broker; say whether its receipt was true."""
        is_true = await self._send(window_statements.VERIFY, {**_fenced(fence), "start": start})
        if is_true is None:
            raise ValueError(f"account {fence.account_id} has no window from {start}")
        return is_true

    async def anchor(self, fence: Fence, anchor: Anchor) -> None:
        """Store what the account held before its partial history; the first one stays."""
        values = {**_fenced(fence), "balance": anchor.balance, "credit": anchor.credit}
        await self._send(window_statements.ANCHOR, values)

    async def _send(self, statement: str, values: Mapping[str, object]) -> bool | None:
        """Run a statement until no other write was in its way; None when its rows are absent."""
        for _ in range(_STALE_ATTEMPTS):
            async with self._database.statement() as connection:
                row = (await connection.exec_driver_sql(statement, dict(values))).one()
            match row.verdict:
                case "written":
                    return bool(row.is_true)
                case "absent":
                    return None
                case "fenced":
                    raise Fenced(f"account {values['account_id']} is no longer ours")
        raise StoreUnavailable("another write of the same account does not come to an end")


def _fenced(fence: Fence) -> Mapping[str, object]:
    return {
        "account_id": fence.account_id,
        "owner": fence.incarnation,
        "epoch": fence.epoch,
    }
