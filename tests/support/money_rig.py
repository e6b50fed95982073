"""Intents over memory or Postgres, and a look behind them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Protocol

import sqlalchemy as sa

from brokerd.config.settings import BudgetSettings
from brokerd.connector.provisioning.budgets import Limit, limits_of
from brokerd.connector.provisioning.memory import (
    CredentialRow,
    MemoryIntents,
    MemoryMoney,
    MemorySpend,
)
from brokerd.connector.provisioning.ports import (
    Call,
    CredentialState,
    IntentKind,
    Intents,
    Sealed,
    SpendReader,
)
from brokerd.connector.provisioning.postgres import PostgresIntents, PostgresSpend
from brokerd.domain import AccountId
from brokerd.store import tables
from brokerd.store.engine import Database
from brokerd.store.memory import MemoryState

GENEROUS = limits_of(BudgetSettings())


@dataclass(frozen=True)
class Paid:
    """What a test sees of a row of spending."""

    charge: str
    usd: Decimal


@dataclass(frozen=True)
class Password:
    """What a test sees of a password's row."""

    version: int
    state: str
    is_sealed: bool


class MoneyRig(Protocol):
    """The ports, and the rows behind them."""

    intents: Intents
    spend: SpendReader

    async def submit(self, account_id: AccountId, *, digest: str) -> int:
        """Store a newer password, as the control API does; return its version."""

    async def paid(self, account_id: AccountId) -> Sequence[Paid]:
        """Return what was spent, in order."""

    async def passwords(self, account_id: AccountId) -> Sequence[Password]:
        """Return the passwords, oldest first."""


class MemoryMoneyRig:
    """Everything over one `MemoryState`."""

    def __init__(self, state: MemoryState) -> None:
        self.money = MemoryMoney(state=state)
        self.intents: Intents = MemoryIntents(self.money)
        self.spend: SpendReader = MemorySpend(self.money)

    async def submit(self, account_id: AccountId, *, digest: str) -> int:
        """Store a newer password."""
        account = self.money.state.accounts[account_id]
        version = account.credential_version + 1
        self.money.state.accounts[account_id] = replace(account, credential_version=version)
        sealed = Sealed(key_id="k", box=digest.encode())
        self.money.credentials[account_id, version] = CredentialRow(digest=digest, sealed=sealed)
        return version

    async def paid(self, account_id: AccountId) -> Sequence[Paid]:
        """Return what was spent."""
        rows = self.money.spend.values()
        return [Paid(row.charge, row.usd) for row in rows if row.account_id == account_id]

    async def passwords(self, account_id: AccountId) -> Sequence[Password]:
        """Return the passwords."""
        return [
            Password(version, row.state, row.sealed is not None)
            for (owner, version), row in self.money.credentials.items()
            if owner == account_id
        ]


class PostgresMoneyRig:
    """Everything over one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.intents: Intents = PostgresIntents(database)
        self.spend: SpendReader = PostgresSpend(database)

    async def submit(self, account_id: AccountId, *, digest: str) -> int:
        """Store a newer password."""
        accounts = tables.accounts
        raise_version = (
            sa.update(accounts)
            .where(accounts.c.account_id == account_id)
            .values(credential_version=accounts.c.credential_version + 1)
            .returning(accounts.c.credential_version)
        )
        async with self.database.transaction() as connection:
            version = (await connection.execute(raise_version)).scalar_one()
            await connection.execute(
                sa.insert(tables.credentials).values(
                    account_id=account_id,
                    version=version,
                    digest=digest,
                    key_id="k",
                    sealed=digest.encode(),
                )
            )
        return version

    async def paid(self, account_id: AccountId) -> Sequence[Paid]:
        """Return what was spent."""
        rows = await self._rows(tables.spend, account_id)
        return [Paid(r.charge, r.usd) for r in sorted(rows, key=lambda row: row.intent_id)]

    async def passwords(self, account_id: AccountId) -> Sequence[Password]:
        """Return the passwords."""
        rows = await self._rows(tables.credentials, account_id)
        return [
            Password(row.version, CredentialState(row.state), row.sealed is not None)
            for row in sorted(rows, key=lambda row: row.version)
        ]

    async def _rows(self, table: sa.Table, account_id: AccountId) -> Sequence[sa.Row]:
        query = sa.select(table).where(table.c.account_id == account_id)
        async with self.database.statement() as connection:
            return (await connection.execute(query)).all()


def call(
    kind: IntentKind = IntentKind.CREATE,
    *,
    usd: str | None = "2.172",
    version: int = 1,
    generation: int = 1,
    transaction_id: str = "t" * 32,
) -> Call:
    """Build a call."""
    return Call(
        kind=kind,
        transaction_id=transaction_id,
        generation=generation,
        credential_version=version,
        reserve_usd=None if usd is None else Decimal(usd),
    )


def bounded(**settings: float) -> Sequence[Limit]:
    """Build the limits, generous but for what is named as in the configuration."""
    return limits_of(replace(BudgetSettings(), **settings))
