"""Intents, spending and sealed passwords in Postgres: each write one message, fenced and whole."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

import sqlalchemy as sa

from brokerd.connector.provisioning import statements
from brokerd.connector.provisioning.budgets import BudgetName, Limit, Spent, refusal_of
from brokerd.connector.provisioning.ports import (
    Auth,
    Call,
    Charge,
    CredentialState,
    Intent,
    IntentKind,
    KnownCredentials,
    Outcome,
    Refusal,
    Sealed,
    Standing,
)
from brokerd.domain import AccountId, Fence, LinkId
from brokerd.errors import BudgetExhausted, Fenced
from brokerd.store.engine import Database
from brokerd.store.locked import run_behind
from brokerd.store.tables import credentials

SPENDING_LOCK = 0x62726F6B65726403
"""Spending is counted and added to by one caller at a time; see `queue.fleet_lock`."""


class _Opened(NamedTuple):
    """What came of opening an intent; the sums are those before it."""

    is_held: bool
    intent_id: int | None
    opened_at: datetime | None
    is_busy: bool
    attempts: Sequence[int]
    usd: Sequence[Decimal]
    frees_seconds: Sequence[float | None]


class PostgresIntents:
    """`Intents` over the tables `intents`, `spend`, `credentials` and `accounts`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def standing(self, account_id: AccountId, *, generation: int) -> Standing:
        """Read what is known of an account's life at MetaApi."""
        values = {"account_id": account_id, "generation": generation}
        async with self._database.statement() as connection:
            row = (await connection.execute(statements.STANDING, values)).one()
        return Standing(
            now=_utc(row.now),
            created_id=row.created_account_id,
            credentials=_known_credentials(row),
            intent=_intent(row),
            refusal=_refusal(row),
            auth=Auth(row.auth),
            auth_at=_utc_or_none(row.auth_at),
            locked_until=_utc_or_none(row.validation_locked_until),
            deployed_at=_utc_or_none(row.deployed_at),
            watermark=_utc_or_none(row.watermark),
        )

    async def open(self, fence: Fence, call: Call, *, limits: Sequence[Limit]) -> Intent:
        """Commit the intent and its reserve."""
        (rows,) = await run_behind(
            SPENDING_LOCK,
            self._database,
            statements.OPEN,
            parameters={
                **_fence(fence),
                **_limits(limits),
                "kind": call.kind,
                "transaction_id": call.transaction_id,
                "generation": call.generation,
                "credential_version": call.credential_version,
                "reserve": call.reserve_usd,
            },
        )
        opened = _Opened._make(rows[0])
        if opened.intent_id is None or opened.opened_at is None:
            raise _refused(opened, call, limits)
        return Intent(
            intent_id=opened.intent_id,
            kind=call.kind,
            transaction_id=call.transaction_id,
            credential_version=call.credential_version,
            opened_at=_utc(opened.opened_at),
        )

    async def close(self, fence: Fence, intent: Intent, outcome: Outcome) -> None:
        """Note how the call ended, with all that follows."""
        values = {
            **_fence(fence),
            "intent_id": intent.intent_id,
            "credential_version": intent.credential_version,
            "code": outcome.code,
            "problem": outcome.problem,
            "charge": outcome.charge,
            "usd": outcome.usd,
            "created_id": outcome.created_id,
            "state": outcome.credentials,
            "auth": outcome.auth,
            "remembers_seconds": outcome.remembers_seconds,
            "locked_seconds": outcome.locked_seconds,
        }
        await self._fenced(statements.CLOSE, values)

    async def adopt(self, fence: Fence, created_id: str | None) -> None:
        """Note which MetaApi account is the link's."""
        await self._fenced(statements.ADOPT, {**_fence(fence), "created_id": created_id})

    async def sealed(self, account_id: AccountId, *, version: int) -> Sealed | None:
        """Return a password that still waits."""
        query = sa.select(credentials.c.key_id, credentials.c.sealed).where(
            credentials.c.account_id == account_id, credentials.c.version == version
        )
        async with self._database.statement() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None or row.sealed is None:
            return None
        return Sealed(key_id=row.key_id, box=bytes(row.sealed))

    async def _fenced(self, statement: sa.TextClause, values: Mapping[str, object]) -> None:
        async with self._database.statement() as connection:
            is_held = (await connection.execute(statement, values)).scalar_one()
        if not is_held:
            raise Fenced("the lease is no longer ours")


class PostgresSpend:
    """`SpendReader` over table `spend`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def spent(self, limits: Sequence[Limit]) -> Mapping[BudgetName, Spent]:
        """Return by budget what was spent in its window; of links and users, the most of any."""
        async with self._database.statement() as connection:
            rows = (await connection.execute(statements.SPENT, _windows(limits))).all()
        return {BudgetName(row.name): Spent(attempts=row.attempts, usd=row.usd) for row in rows}

    async def spent_by(
        self, link_id: LinkId, limits: Sequence[Limit]
    ) -> Mapping[BudgetName, Spent]:
        """Return by budget what was spent in its window of what one link may spend."""
        values = {**_windows(limits), "link_id": link_id, "reserve": 0}
        statement = statements.SPENT_BY.as_string()
        async with self._database.statement() as connection:
            row = (await connection.exec_driver_sql(statement, values)).one()
        return _spent(row.attempts, row.usd, row.frees_seconds)

    async def charges(self, *, window_seconds: float) -> Mapping[Charge, Spent]:
        """Return what was spent in the window by what it was for."""
        values = {"window_seconds": window_seconds}
        async with self._database.statement() as connection:
            rows = (await connection.execute(statements.CHARGES, values)).all()
        return {Charge(row.charge): Spent(attempts=row.attempts, usd=row.usd) for row in rows}


def _refused(opened: _Opened, call: Call, limits: Sequence[Limit]) -> Fenced | BudgetExhausted:
    """Return why no intent was opened."""
    if not opened.is_held or opened.is_busy:
        return Fenced("the lease is no longer ours, or another intent of the account is open")
    spent = _spent(opened.attempts, opened.usd, opened.frees_seconds)
    refusal = refusal_of(limits, spent, cost_usd=call.reserve_usd or Decimal(0))
    assert refusal is not None, f"refused within every budget: {spent}"
    return refusal


def _spent(
    attempts: Sequence[int], usd: Sequence[Decimal], frees_seconds: Sequence[float | None]
) -> Mapping[BudgetName, Spent]:
    return {
        name: Spent(attempts=count, usd=dollars, frees_seconds=seconds)
        for name, count, dollars, seconds in zip(
            BudgetName, attempts, usd, frees_seconds, strict=True
        )
    }


def _limits(limits: Sequence[Limit]) -> dict[str, object]:
    values: dict[str, object] = dict(_windows(limits))
    for limit in limits:
        values[f"{limit.name}_attempts"] = limit.max_attempts
        values[f"{limit.name}_usd"] = limit.max_usd
    return values


def _windows(limits: Sequence[Limit]) -> dict[str, float]:
    return {f"{limit.name}_seconds": limit.window_seconds for limit in limits}


def _known_credentials(row: sa.Row[tuple[object, ...]]) -> KnownCredentials | None:
    if row.version is None:
        return None
    return KnownCredentials(
        version=row.version,
        state=CredentialState(row.state),
        is_known_bad=row.is_known_bad,
    )


def _intent(row: sa.Row[tuple[object, ...]]) -> Intent | None:
    if row.intent_id is None:
        return None
    return Intent(
        intent_id=row.intent_id,
        kind=IntentKind(row.kind),
        transaction_id=row.transaction_id,
        credential_version=row.intent_version,
        opened_at=_utc(row.opened_at),
    )


def _refusal(row: sa.Row[tuple[object, ...]]) -> Refusal | None:
    if row.refused_at is None:
        return None
    return Refusal(code=row.code, problem=row.problem, at=_utc(row.refused_at))


def _fence(fence: Fence) -> dict[str, int]:
    return {
        "account_id": fence.account_id,
        "owner": fence.incarnation,
        "epoch": fence.epoch,
    }


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _utc_or_none(moment: datetime | None) -> datetime | None:
    return None if moment is None else _utc(moment)
