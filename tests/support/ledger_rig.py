"""A ledger store over memory or Postgres, and a look behind it."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Protocol

import sqlalchemy as sa

from brokerd.clock import SystemClock
from brokerd.domain import AccountId, Deal, DealId, Fence, Receipt, Source, Window
from brokerd.ledger.content import receipt_of
from brokerd.ledger.memory import MemoryLedgerStore
from brokerd.ledger.ports import LedgerStore
from brokerd.ledger.postgres import PostgresLedgerStore
from brokerd.store import tables
from brokerd.store.engine import Database
from brokerd.store.memory import LeaseRow, MemoryState

DAY = datetime(2026, 3, 2, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    """What a test sees of a deal's row."""

    deal: Deal
    revision: int
    source: Source
    is_removed: bool


@dataclass(frozen=True)
class Event:
    """What a test sees of an event."""

    seq: int
    type: str
    deal_id: str
    revision: int


class Rig(Protocol):
    """A store, and a look behind it."""

    store: LedgerStore

    async def lease(self, fence: Fence) -> None:
        """Give the lease to that owner and epoch."""

    async def release(self, account_id: AccountId) -> None:
        """Let nobody own the lease."""

    async def rows(self, account_id: AccountId) -> dict[str, Row]:
        """Return all rows, removed ones too."""

    async def events(self, account_id: AccountId) -> Sequence[Event]:
        """Return the events in the order they were written."""

    async def revisions(self, account_id: AccountId) -> Sequence[tuple[str, str, int]]:
        """Return (deal, kind, replaced revision), sorted."""

    async def windows(self, account_id: AccountId) -> Sequence[Window]:
        """Return the windows in order."""


class MemoryRig:
    """Look into the memory adapter's rows."""

    def __init__(self) -> None:
        self.state = MemoryState(clock=SystemClock())
        self.store = MemoryLedgerStore(self.state)

    async def lease(self, fence: Fence) -> None:
        """Give the lease to that owner and epoch."""
        self.state.leases[fence.account_id] = LeaseRow(
            account_id=fence.account_id,
            owner=fence.incarnation,
            epoch=fence.epoch,
            is_wanted=True,
            deadline=DAY,
            queued_at=DAY,
        )

    async def release(self, account_id: AccountId) -> None:
        """Let nobody own the lease."""
        self.state.leases[account_id] = replace(self.state.leases[account_id], owner=None)

    async def rows(self, account_id: AccountId) -> dict[str, Row]:
        """Return all rows, removed ones too."""
        return {
            row.deal.deal_id: Row(row.deal, row.revision, row.source, row.removed_at is not None)
            for row in self.state.deals.values()
            if row.account_id == account_id
        }

    async def events(self, account_id: AccountId) -> Sequence[Event]:
        """Return the events in the order they were written."""
        return [
            Event(e.account_seq, e.type, e.deal_id, e.revision)
            for e in self.state.events
            if e.account_id == account_id
        ]

    async def revisions(self, account_id: AccountId) -> Sequence[tuple[str, str, int]]:
        """Return (deal, kind, replaced revision), sorted."""
        return sorted(
            (r.replaced.deal.deal_id, str(r.kind), r.replaced.revision)
            for r in self.state.revisions
            if r.replaced.account_id == account_id
        )

    async def windows(self, account_id: AccountId) -> Sequence[Window]:
        """Return the windows in order."""
        return self.state.windows.get(account_id, [])


class PostgresRig:
    """Look into the database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = PostgresLedgerStore(database)

    async def lease(self, fence: Fence) -> None:
        """Give the lease to that owner and epoch."""
        async with self.database.transaction() as connection:
            await connection.execute(
                sa.delete(tables.leases).where(tables.leases.c.account_id == fence.account_id)
            )
            await connection.execute(
                sa.insert(tables.leases).values(
                    account_id=fence.account_id,
                    owner=fence.incarnation,
                    epoch=fence.epoch,
                    is_wanted=True,
                    deadline=DAY,
                )
            )

    async def release(self, account_id: AccountId) -> None:
        """Let nobody own the lease."""
        leases = tables.leases
        async with self.database.statement() as connection:
            await connection.execute(
                sa.update(leases).where(leases.c.account_id == account_id).values(owner=None)
            )

    async def _all(self, table: sa.Table, account_id: AccountId) -> Sequence[sa.Row]:
        query = sa.select(table).where(table.c.account_id == account_id)
        async with self.database.statement() as connection:
            return (await connection.execute(query)).all()

    async def rows(self, account_id: AccountId) -> dict[str, Row]:
        """Return all rows, removed ones too."""
        return {
            row.deal_id: Row(
                Deal(
                    deal_id=row.deal_id,
                    type=row.type,
                    entry=row.entry,
                    symbol=row.symbol,
                    volume=row.volume,
                    price=row.price,
                    time=row.time.astimezone(UTC),
                    broker_time=row.broker_time,
                    profit=row.profit,
                    commission=row.commission,
                    swap=row.swap,
                    order_id=row.order_id,
                    position_id=row.position_id,
                    raw=row.raw,
                ),
                row.revision,
                Source(row.source),
                row.removed_at is not None,
            )
            for row in await self._all(tables.deals, account_id)
        }

    async def events(self, account_id: AccountId) -> Sequence[Event]:
        """Return the events in the order they were written."""
        rows = sorted(await self._all(tables.events, account_id), key=lambda row: row.seq)
        return [Event(row.account_seq, row.type, row.deal_id, row.revision) for row in rows]

    async def revisions(self, account_id: AccountId) -> Sequence[tuple[str, str, int]]:
        """Return (deal, kind, replaced revision), sorted."""
        rows = await self._all(tables.deal_revisions, account_id)
        assert all(row.replaced["deal_id"] == row.deal_id for row in rows)
        return sorted((row.deal_id, row.kind, row.replaced["revision"]) for row in rows)

    async def windows(self, account_id: AccountId) -> Sequence[Window]:
        """Return the windows in order."""
        rows = sorted(await self._all(tables.windows, account_id), key=lambda row: row.start)
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
            )
            for row in rows
        ]


def deal(number: int, *, hour: float = 1, profit: str = "1.50", **fields: object) -> Deal:
    """Build a deal; the same arguments make an equal one."""
    values: dict[str, object] = {
        "deal_id": DealId(f"d{number}"),
        "type": "DEAL_TYPE_SELL",
        "entry": "DEAL_ENTRY_OUT",
        "symbol": "EURUSD",
        "volume": Decimal("0.10"),
        "price": Decimal("1.08123"),
        "time": DAY + timedelta(hours=hour),
        "broker_time": "2026-03-02 03:00:00.000",
        "profit": Decimal(profit),
        "commission": Decimal("-0.07"),
        "swap": Decimal("-0.30"),
        "order_id": f"o{number}",
        "position_id": f"p{number}",
        "raw": f'{{"id":"d{number}","comment":"привіт \\"\\\\ {{}}"}}',
        **fields,
    }
    return Deal(**values)


def recount(rows: dict[str, Row], window: Window) -> Receipt:
    """Count a window from the rows themselves."""
    return receipt_of(
        row.deal
        for row in rows.values()
        if not row.is_removed and window.start <= row.deal.time < window.end
    )


async def check_ledger(rig: Rig, account_id: AccountId) -> None:
    """Hold an account's ledger against itself: what must be true of it at any moment.

    Windows touch each other, each receipt equals a recount, events are numbered without a gap,
    and every revision of every deal has one event and, once replaced, one kept copy.
    """
    rows = await rig.rows(account_id)
    windows = await rig.windows(account_id)
    for window in windows:
        assert window.receipt == recount(rows, window), window
    assert all(one.end == two.start for one, two in itertools.pairwise(windows)), windows
    events = await rig.events(account_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1)), events
    told = {(event.deal_id, event.revision) for event in events}
    assert len(told) == len(events), events
    assert told == {(deal_id, n) for deal_id, row in rows.items() for n in range(row.revision + 1)}
    kept = sorted((deal_id, number) for deal_id, _, number in await rig.revisions(account_id))
    assert kept == sorted((d, n) for d, row in rows.items() for n in range(row.revision))
