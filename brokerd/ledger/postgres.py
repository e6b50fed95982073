"""The ledger in Postgres: one fenced statement per batch, and what is read of it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

import psycopg
import sqlalchemy as sa

from brokerd.connector.ports import HeldDeal
from brokerd.domain import (
    AccountId,
    Anchor,
    Book,
    DealId,
    Fence,
    QuarantineState,
    Totals,
    WriteOutcome,
)
from brokerd.errors import BadDeal, Fenced, LedgerRewound, StoreUnavailable
from brokerd.ledger import statements
from brokerd.ledger.arrays import arrays_of
from brokerd.ledger.ports import NumberedWrite
from brokerd.ledger.postgres_quarantine import PostgresQuarantine
from brokerd.store.engine import Database
from brokerd.store.tables import deals, heads, quarantine

_STALE_ATTEMPTS = 5
"""How often a write that met another of the same fence is sent again at once."""

_DATA_ERRORS = ("22", "23", "54")
"""Classes of SQLSTATE that blame the data: exceptions, constraints, sizes."""

_Answer = tuple[AccountId, str, Sequence[DealId], Sequence[DealId], Sequence[DealId]]


class PostgresLedgerStore:
    """A `LedgerStore` over schema `brokerd`."""

    def __init__(self, database: Database, *, told: Callable[[], None] = lambda: None) -> None:
        """Write to a database; `told` is called whenever there is something new in the feed."""
        self._database = database
        self._told = told
        self.quarantine = PostgresQuarantine(database)

    async def commit(self, writes: Sequence[NumberedWrite]) -> Mapping[AccountId, WriteOutcome]:
        """Commit all writes at once, each under its fence; at most one per account."""
        waiting = {each.write.fence.account_id: each for each in writes}
        if len(waiting) < len(writes):
            raise ValueError("two writes of one account in one batch")
        outcomes: dict[AccountId, WriteOutcome] = {}
        for _ in range(_STALE_ATTEMPTS):
            stale = set()
            rows = await self._send(tuple(waiting.values()))
            if any(row.inserted or row.revised or row.removed for row in rows):
                self._told()
            for row in rows:
                match row.verdict:
                    case "written":
                        outcomes[row.account_id] = _outcome(row)
                    case "stale":
                        stale.add(row.account_id)
            if not stale:
                return outcomes
            waiting = {account_id: waiting[account_id] for account_id in stale}
        raise StoreUnavailable("another write of the same accounts does not come to an end")

    async def close_window(
        self, fence: Fence, *, start: datetime, end: datetime, is_continuation: bool = False
    ) -> None:
        """Record that [start, end) was pulled whole, and move the watermark to `end`."""
        values = {
            "account_id": fence.account_id,
            "owner": fence.incarnation,
            "epoch": fence.epoch,
            "start": start,
            "end": end,
            "is_continuation": is_continuation,
        }
        for _ in range(_STALE_ATTEMPTS):
            async with self._database.statement() as connection:
                result = await connection.exec_driver_sql(statements.CLOSE_WINDOW, values)
                verdict = result.scalar_one()
            match verdict:
                case "written":
                    return
                case "fenced":
                    raise Fenced(f"account {fence.account_id} is no longer ours")
                case "hole":
                    raise LedgerRewound(f"a window from {start} leaves a hole behind the watermark")
        raise StoreUnavailable("another write of the same account does not come to an end")

    async def watermark(self, account_id: AccountId) -> datetime | None:
        """Return the time through which the ledger is complete."""
        query = sa.select(heads.c.watermark).where(heads.c.account_id == account_id)
        async with self._database.statement() as connection:
            watermark = await connection.scalar(query)
        return None if watermark is None else watermark.astimezone(UTC)

    async def held(
        self, account_id: AccountId, *, start: datetime, end: datetime
    ) -> Mapping[DealId, HeldDeal]:
        """Return the deals that are not removed with start <= time < end."""
        query = sa.select(deals.c.deal_id, deals.c.book, _AMOUNT.label("amount")).where(
            deals.c.account_id == account_id,
            deals.c.time >= start,
            deals.c.time < end,
            deals.c.removed_at.is_(None),
        )
        async with self._database.statement() as connection:
            rows = (await connection.execute(query)).all()
        return {
            DealId(row.deal_id): HeldDeal(book=Book(row.book), amount=row.amount) for row in rows
        }

    async def totals(self, account_id: AccountId) -> Totals:
        """Sum all deals of the account that are not removed."""
        query = sa.select(
            sa.func.count().label("deals"),
            _sum_of(Book.BALANCE).label("balance"),
            _sum_of(Book.CREDIT).label("credit"),
            sa.func.array_agg(deals.c.type.distinct())
            .filter(deals.c.book == Book.UNMAPPED)
            .label("unmapped"),
            sa.select(sa.func.count())
            .where(quarantine.c.account_id == account_id)
            .where(quarantine.c.state == QuarantineState.OPEN)
            .scalar_subquery()
            .label("quarantined"),
            *(
                sa.select(column).where(heads.c.account_id == account_id).scalar_subquery()
                for column in (heads.c.anchor_balance, heads.c.anchor_credit)
            ),
        ).where(deals.c.account_id == account_id, deals.c.removed_at.is_(None))
        async with self._database.statement() as connection:
            row = (await connection.execute(query)).one()
        anchor_balance, anchor_credit = row[-2:]
        return Totals(
            deals=row.deals,
            balance=row.balance,
            credit=row.credit,
            unmapped_types=frozenset(row.unmapped or ()),
            quarantined=row.quarantined,
            anchor=(
                None
                if anchor_balance is None
                else Anchor(balance=anchor_balance, credit=anchor_credit)
            ),
        )

    async def _send(self, writes: Sequence[NumberedWrite]) -> Sequence[sa.Row[_Answer]]:
        """Run the one statement; blame the data when Postgres does."""
        try:
            async with self._database.statement() as connection:
                result = await connection.exec_driver_sql(statements.COMMIT, arrays_of(writes))
                return result.all()
        except (sa.exc.DBAPIError, UnicodeEncodeError) as error:
            if _lacks_partition(error):
                raise StoreUnavailable("the feed has no partition for today") from error
            if not _blames_data(error):
                raise
            raise BadDeal("Postgres refuses the data of this batch") from error


_AMOUNT = deals.c.profit + deals.c.commission + deals.c.swap


def _sum_of(book: Book) -> sa.ColumnElement[Decimal]:
    return sa.func.coalesce(sa.func.sum(_AMOUNT).filter(deals.c.book == book), Decimal(0))


def _outcome(row: sa.Row[_Answer]) -> WriteOutcome:
    return WriteOutcome(
        inserted=frozenset(row.inserted),
        revised=frozenset(row.revised),
        removed=frozenset(row.removed),
    )


def _blames_data(error: sa.exc.DBAPIError | UnicodeEncodeError) -> bool:
    if isinstance(error, UnicodeEncodeError):
        return True
    if not isinstance(error.orig, psycopg.Error):
        return False
    state = error.orig.sqlstate
    if state is None:
        return isinstance(error.orig, psycopg.DataError)  # refused before it was sent
    return state.startswith(_DATA_ERRORS)


def _lacks_partition(error: sa.exc.DBAPIError | UnicodeEncodeError) -> bool:
    """Say whether the feed has no partition for today: then every deal is refused alike."""
    fault = error.orig if isinstance(error, sa.exc.DBAPIError) else None
    if not isinstance(fault, psycopg.errors.CheckViolation):
        return False
    return fault.diag.table_name == "events"
