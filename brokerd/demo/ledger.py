"""The ledger as it stands in PostgreSQL, read without brokerd in between."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal

import psycopg

from brokerd.demo.spans import Transition
from brokerd.demo.tally import DealKey, EventKey, Facts, LedgerRow

_CREDIT_TYPES = ("DEAL_TYPE_CREDIT",)

_DEALS = """
SELECT a.link_id, d.deal_id, d.source, d.committed_at, d.type, d.entry, d.symbol, d.volume,
       d.price, d.time, d.profit, d.commission, d.swap, d.order_id, d.position_id
FROM brokerd.deals d JOIN brokerd.accounts a USING (account_id)
WHERE d.removed_at IS NULL AND a.link_id = ANY(%s)
"""
_EVENTS = """
SELECT a.link_id, e.deal_id, e.revision
FROM brokerd.events e JOIN brokerd.accounts a USING (account_id) WHERE e.deal_id IS NOT NULL
"""
_TRANSITIONS = """
SELECT a.link_id, t.at, t.phase
FROM brokerd.link_transitions t JOIN brokerd.accounts a USING (account_id)
ORDER BY t.transition_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """An account's two sums."""

    balance: Decimal
    credit: Decimal


class LedgerReader:
    """Reads over a connection of its own that cannot write."""

    def __init__(self, connection: psycopg.AsyncConnection) -> None:
        self._connection = connection

    async def deals(self, link_ids: Collection[str]) -> dict[DealKey, LedgerRow]:
        """Return the deals of these links that are not removed."""
        cursor = await self._connection.execute(_DEALS, [list(link_ids)])
        return {
            (row[0], row[1]): LedgerRow(
                source=row[2],
                committed_at=row[3],
                facts=Facts(
                    type=row[4],
                    entry=row[5],
                    symbol=row[6],
                    volume=row[7],
                    price=row[8],
                    time=row[9],
                    profit=row[10],
                    commission=row[11],
                    swap=row[12],
                    order_id=row[13],
                    position_id=row[14],
                ),
            )
            for row in await cursor.fetchall()
        }

    async def events(self) -> list[EventKey]:
        """Return what was told, one entry a time."""
        cursor = await self._connection.execute(_EVENTS)
        return [(row[0], row[1], row[2]) for row in await cursor.fetchall()]

    async def transitions(self) -> list[Transition]:
        """Return every phase change, oldest first."""
        cursor = await self._connection.execute(_TRANSITIONS)
        return [Transition(link=row[0], at=row[1], phase=row[2]) for row in await cursor.fetchall()]


@asynccontextmanager
async def open_ledger(url: str) -> AsyncIterator[LedgerReader]:
    """Connect for as long as the block runs."""
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    async with connection:
        await connection.set_read_only(True)
        yield LedgerReader(connection)


def sums_of(rows: Collection[LedgerRow]) -> Sums:
    """Add up one account's deals."""
    balance = credit = Decimal(0)
    for row in rows:
        amount = row.facts.profit + row.facts.commission + row.facts.swap
        if row.facts.type in _CREDIT_TYPES:
            credit += amount
        else:
            balance += amount
    return Sums(balance=balance, credit=credit)
