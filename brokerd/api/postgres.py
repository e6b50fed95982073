"""The registry of links in Postgres."""

import asyncio
from collections.abc import Sequence

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from brokerd.api import postgres_passwords as passwords
from brokerd.api import postgres_rows as rows
from brokerd.api import postgres_writes as writes
from brokerd.api.ports import (
    LinkRecord,
    PutResult,
    QueuePlace,
    SubmitResult,
    SubmittedPassword,
)
from brokerd.api.registration import Put, Registered, Registration, decide
from brokerd.api.standing import Standing
from brokerd.api.submission import decide_submission
from brokerd.clock import Clock
from brokerd.config.settings import QueueSettings
from brokerd.domain import AccountId, LinkId, LinkSpec, UserId
from brokerd.errors import QueueFull, StoreUnavailable
from brokerd.store.engine import Database
from brokerd.store.tables import accounts, leases

_JOIN_LOCK_KEY = 0x62726F6B65726402
"""Excludes two that would join the queue at once: "brokerd", 2; claims hold 1, migrations 0."""

_WRITERS = 4
"""Connections that PUTs may hold at once, so that many of them cannot starve the ledger."""

_PUT_ATTEMPTS = 3
"""How often a PUT looks again after another one took its link id or identity before it."""

_STANDING_AGE_SECONDS = 1.0
_STANDING_TURNS = 1_000

_STANDING = sa.text("""
SELECT deadline, account_id, rank FROM (
  SELECT deadline, account_id, row_number() OVER (ORDER BY deadline, account_id) AS rank,
    count(*) OVER () AS length
  FROM brokerd.leases
  WHERE owner IS NULL AND is_wanted AND (not_before IS NULL OR not_before <= now())
) AS ready
WHERE rank % greatest(1, length / :turns) = 0 OR rank = length
ORDER BY rank
""")


class PostgresRegistry:
    """A `Registry` over the tables `accounts`, `leases` and `links`."""

    def __init__(self, database: Database, *, settings: QueueSettings, clock: Clock) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._writers = asyncio.Semaphore(_WRITERS)
        self._standing: Standing | None = None

    async def ping(self) -> None:
        """Ask the store for a sign of life; raises `StoreUnavailable`."""
        async with self._database.statement() as connection:
            await connection.execute(sa.text("SELECT 1"))

    async def put(
        self, link_id: LinkId, spec: LinkSpec, *, if_match: int | None, must_be_new: bool
    ) -> PutResult:
        """Create or replace a spec."""
        put = Put(link_id=link_id, spec=spec, if_match=if_match, must_be_new=must_be_new)
        async with self._writers:
            for _ in range(_PUT_ATTEMPTS):
                try:
                    return await self._put(put)
                except sa.exc.IntegrityError as error:
                    if not isinstance(error.orig, psycopg.errors.UniqueViolation):
                        raise
        raise StoreUnavailable(f"link {link_id} is being changed by others; try again")

    async def submit(self, link_id: LinkId, password: SubmittedPassword) -> SubmitResult | None:
        """Store a password for the link's owner to use."""
        async with self._writers, self._database.transaction() as connection:
            is_named = (accounts.c.link_id == link_id, accounts.c.deleted_at.is_(None))
            named = next(iter(await writes.find(connection, *is_named)), None)
            if named is None:
                return None
            found = await passwords.read(connection, named.account_id, password)
            decided = decide_submission(
                password,
                named=named,
                found=found,
                patience_seconds=self._settings.patience_seconds,
            )
            if decided is None:
                return SubmitResult(credential_version=found.version, is_changed=False)
            await writes.write(connection, Put(link_id=link_id, spec=named.spec), decided)
            version = await passwords.write(connection, named.account_id, password)
        self._forget_standing()
        return SubmitResult(credential_version=version, is_changed=True)

    async def get(self, link_id: LinkId) -> LinkRecord | None:
        """Read one link; the living one before one of the same id that still drains."""
        query = (
            rows.RECORDS.where(accounts.c.link_id == link_id, rows.IS_VISIBLE)
            .order_by(accounts.c.deleted_at.desc().nulls_first())
            .limit(1)
        )
        async with self._database.statement() as connection:
            found = await self._records(connection, query)
        return found[0] if found else None

    async def page(
        self, *, user_id: UserId | None, after: LinkId | None, limit: int
    ) -> Sequence[LinkRecord]:
        """Read links in the order of their ids, starting behind `after`."""
        chosen = (
            sa.select(accounts.c.account_id)
            .ext(distinct_on(accounts.c.link_id))
            .join_from(accounts, leases, leases.c.account_id == accounts.c.account_id)
            .where(rows.IS_VISIBLE)
            .order_by(accounts.c.link_id, accounts.c.deleted_at.desc().nulls_first())
            .limit(limit)
        )
        if user_id is not None:
            chosen = chosen.where(accounts.c.user_id == user_id)
        if after is not None:
            chosen = chosen.where(accounts.c.link_id > after)
        query = rows.RECORDS.where(accounts.c.account_id.in_(chosen)).order_by(accounts.c.link_id)
        async with self._database.statement() as connection:
            return await self._records(connection, query)

    async def delete(self, link_id: LinkId, *, removes_remote: bool = False) -> bool:
        """Ask the link to end; its ledger stays."""
        async with self._database.transaction() as connection:
            named = await writes.find(connection, accounts.c.link_id == link_id, rows.IS_VISIBLE)
            living = next((each for each in named if not each.is_deleted), None)
            if living is not None:
                await writes.end(connection, living, removes_remote=removes_remote)
        self._forget_standing()
        return bool(named)

    async def _put(self, put: Put) -> PutResult:
        async with self._database.transaction() as connection:
            decided = await self._decide(connection, put)
            if decided.joins_queue:
                await self._check_room(connection)
            account_id = await writes.write(connection, put, decided)
            self._forget_standing()
            query = rows.RECORDS.where(accounts.c.account_id == account_id)
            (record,) = await self._records(connection, query)
        self._forget_standing()  # what was read inside the transaction might not be committed
        return PutResult(record=record, is_new=decided.is_new, is_changed=decided.is_changed)

    async def _decide(self, connection: AsyncConnection, put: Put) -> Registration:
        identity = put.spec.identity
        is_named = sa.and_(accounts.c.link_id == put.link_id, accounts.c.deleted_at.is_(None))
        is_identified = sa.and_(
            accounts.c.platform == identity.platform,
            accounts.c.server == identity.server,
            accounts.c.login == identity.login,
        )
        found = await writes.find(connection, sa.or_(is_named, is_identified))
        key = (identity.platform, identity.server, identity.login)
        now = (await connection.execute(sa.select(sa.func.clock_timestamp()))).scalar_one()
        return decide(
            put,
            named=next((r for r in found if r.link_id == put.link_id and not r.is_deleted), None),
            identified=next((r for r in found if _key(r) == key), None),
            now=now,
            patience_seconds=self._settings.patience_seconds,
        )

    async def _check_room(self, connection: AsyncConnection) -> None:
        """Refuse whoever would make the queue longer than allowed; one asks at a time."""
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_JOIN_LOCK_KEY)))
        waiting = (
            sa.select(leases.c.account_id)
            .where(leases.c.owner.is_(None), leases.c.is_wanted)
            .limit(self._settings.max_length)
        )
        length = await connection.scalar(sa.select(sa.func.count()).select_from(waiting.subquery()))
        if length is not None and length >= self._settings.max_length:
            raise QueueFull(f"{length} links wait already, and queue.max_length allows no more")

    async def _records(
        self, connection: AsyncConnection, query: sa.Select[tuple[object, ...]]
    ) -> Sequence[LinkRecord]:
        found = (await connection.execute(query)).all()
        standing = await self._read_standing(connection) if any(map(rows.is_ready, found)) else None
        return [rows.record(row, self._place(row, standing)) for row in found]

    def _place(self, row: rows.Row, standing: Standing | None) -> QueuePlace | None:
        if standing is None or not rows.is_ready(row):
            return None
        return QueuePlace(
            position=standing.position((row.deadline, AccountId(row.account_id))),
            age_seconds=max(0.0, self._clock.monotonic() - standing.read_at_seconds),
            waiting_seconds=max(0.0, (row.read_at - row.queued_at).total_seconds()),
        )

    def _forget_standing(self) -> None:
        """Have the queue read anew after a change of ours, while that is cheap."""
        if self._standing is not None and self._standing.is_whole:
            self._standing = None

    async def _read_standing(self, connection: AsyncConnection) -> Standing:
        now = self._clock.monotonic()
        kept = self._standing
        if kept is not None and now - kept.read_at_seconds < _STANDING_AGE_SECONDS:
            return kept
        found = (await connection.execute(_STANDING, {"turns": _STANDING_TURNS})).all()
        self._standing = Standing(
            turns=rows.ready_turns(found),
            ranks=[row.rank for row in found],
            read_at_seconds=now,
        )
        return self._standing


def _key(row: Registered) -> tuple[str, str, str]:
    return row.spec.identity.platform, row.spec.identity.server, row.spec.identity.login
