"""The fleet's three ports over memory and over Postgres, with ways to arrange and to look behind.

Test modules import nothing from each other, so what they need comes as fixtures of plain types.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Protocol

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.connector.ports import LeaseHandle
from brokerd.domain import (
    AccountId,
    Desired,
    Identity,
    Incarnation,
    LinkId,
    LinkSpec,
    LinkStatus,
    MetaApiRef,
    Phase,
    Platform,
    Priority,
    Proof,
    UserAction,
    UserId,
)
from brokerd.pool.memory_leases import MemoryLeases
from brokerd.pool.memory_nodes import MemoryNodes
from brokerd.pool.ports import Nodes
from brokerd.pool.postgres_leases import PostgresLeases
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.queue.memory import MemoryQueue
from brokerd.queue.ports import Queue
from brokerd.queue.postgres import PostgresQueue
from brokerd.store import tables
from brokerd.store.engine import Database, open_database
from brokerd.store.memory import AccountRow, LeaseRow, MemoryState
from brokerd.telemetry import Metrics

PATIENCE = {Priority.HIGH: 5.0, Priority.NORMAL: 60.0, Priority.LOW: 600.0}
_BASE = datetime.now(UTC)
_numbers = count(1)


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What a test registers: times in seconds from now; equal `due_seconds` are equal deadlines."""

    number: int
    due_seconds: float = 60.0
    waited_seconds: float = 0.0
    not_before_seconds: float | None = None
    attempt: int = 0
    bound_seconds: float = 0.0
    is_wanted: bool = True
    priority: Priority = Priority.NORMAL

    @property
    def spec(self) -> LinkSpec:
        """Build the spec."""
        return LinkSpec(
            user_id=UserId(f"user-{self.number}"),
            desired=Desired.LIVE if self.is_wanted else Desired.PAUSED,
            priority=self.priority,
            metaapi=MetaApiRef(token="main", account_id=f"m-{self.number}", region="london"),
            identity=Identity(
                platform=Platform.MT5, login=str(self.number), server="Demo", currency="USD"
            ),
            sync_from=datetime(2024, 1, 1, tzinfo=UTC),
            max_staleness_seconds=30,
            labels={"tier": "gold"},
        )

    def lease(self, account_id: AccountId) -> LeaseRow:
        """Build the lease row."""
        now = datetime.now(UTC)
        delay = self.not_before_seconds
        return LeaseRow(
            account_id=account_id,
            is_wanted=self.is_wanted,
            deadline=_BASE + timedelta(seconds=self.due_seconds),
            queued_at=now - timedelta(seconds=self.waited_seconds),
            not_before=None if delay is None else now + timedelta(seconds=delay),
            attempt=self.attempt,
            backoff_bound_seconds=self.bound_seconds,
        )


class Fleet(Protocol):
    """The ports, and the rows behind them."""

    queue: Queue
    nodes: Nodes
    leases: LeaseHandle

    async def add(self, registration: Registration) -> AccountId:
        """Register a link as the control API does."""

    async def alter(self, account_id: AccountId, *, is_wanted: bool, is_deleted: bool) -> None:
        """Store a newer spec as the control API does."""

    async def lease(self, account_id: AccountId) -> LeaseRow:
        """Return the lease row."""

    async def status(self, account_id: AccountId) -> LinkStatus | None:
        """Return what was last reported."""

    async def transitions(self, account_id: AccountId) -> Sequence[tuple[Phase, str]]:
        """Return (phase, reason) in the order written."""

    async def silence(self, incarnation: Incarnation, seconds: float) -> None:
        """Let a node's last heartbeat be so long ago."""


class MemoryFleet:
    """Everything over one `MemoryState`."""

    def __init__(self) -> None:
        self.state = MemoryState(clock=SystemClock())
        self.queue: Queue = MemoryQueue(self.state)
        self.nodes: Nodes = MemoryNodes(self.state)
        self.leases: LeaseHandle = MemoryLeases(self.state, patience_seconds=PATIENCE)

    async def add(self, registration: Registration) -> AccountId:
        """Register a link as the control API does."""
        account_id = AccountId(len(self.state.accounts) + 1)
        now = self.state.clock.now()
        self.state.accounts[account_id] = AccountRow(
            account_id=account_id,
            link_id=LinkId(f"link-{registration.number}"),
            spec=registration.spec,
            generation=1,
            created_at=now,
            updated_at=now,
        )
        self.state.leases[account_id] = registration.lease(account_id)
        return account_id

    async def alter(self, account_id: AccountId, *, is_wanted: bool, is_deleted: bool) -> None:
        """Store a newer spec as the control API does."""
        account = self.state.accounts[account_id]
        desired = Desired.LIVE if is_wanted else Desired.PAUSED
        self.state.accounts[account_id] = replace(
            account,
            spec=replace(account.spec, desired=desired),
            generation=account.generation + 1,
            deleted_at=self.state.clock.now() if is_deleted else None,
        )
        self.state.leases[account_id] = replace(
            self.state.leases[account_id], is_wanted=is_wanted and not is_deleted
        )

    async def lease(self, account_id: AccountId) -> LeaseRow:
        """Return the lease row."""
        return self.state.leases[account_id]

    async def status(self, account_id: AccountId) -> LinkStatus | None:
        """Return what was last reported."""
        return self.state.links.get(account_id)

    async def transitions(self, account_id: AccountId) -> Sequence[tuple[Phase, str]]:
        """Return (phase, reason) in the order written."""
        return [
            (row.phase, row.reason)
            for row in self.state.transitions
            if row.account_id == account_id
        ]

    async def silence(self, incarnation: Incarnation, seconds: float) -> None:
        """Let a node's last heartbeat be so long ago."""
        self.state.nodes[incarnation] = replace(
            self.state.nodes[incarnation],
            heartbeat_at=self.state.clock.now() - timedelta(seconds=seconds),
        )


class PostgresFleet:
    """Everything over one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.queue: Queue = PostgresQueue(database)
        self.nodes: Nodes = PostgresNodes(database, heartbeats=database)
        self.leases: LeaseHandle = PostgresLeases(database, patience_seconds=PATIENCE)

    async def add(self, registration: Registration) -> AccountId:
        """Register a link as the control API does."""
        spec = registration.spec
        new_account = (
            sa.insert(tables.accounts)
            .values(
                link_id=f"link-{registration.number}",
                user_id=spec.user_id,
                platform=spec.identity.platform,
                login=spec.identity.login,
                server=spec.identity.server,
                currency=spec.identity.currency,
                token=spec.metaapi.token,
                metaapi_account_id=spec.metaapi.account_id,
                region=spec.metaapi.region,
                desired=spec.desired,
                priority=spec.priority,
                sync_from=spec.sync_from,
                max_staleness_seconds=spec.max_staleness_seconds,
                labels=dict(spec.labels),
            )
            .returning(tables.accounts.c.account_id)
        )
        async with self.database.transaction() as connection:
            account_id = AccountId((await connection.execute(new_account)).scalar_one())
            lease = registration.lease(account_id)
            await connection.execute(
                sa.insert(tables.leases).values(
                    account_id=account_id,
                    is_wanted=lease.is_wanted,
                    deadline=lease.deadline,
                    queued_at=lease.queued_at,
                    not_before=lease.not_before,
                    attempt=lease.attempt,
                    backoff_bound=lease.backoff_bound_seconds,
                )
            )
        return account_id

    async def alter(self, account_id: AccountId, *, is_wanted: bool, is_deleted: bool) -> None:
        """Store a newer spec as the control API does."""
        accounts, leases = tables.accounts, tables.leases
        async with self.database.transaction() as connection:
            await connection.execute(
                sa.update(accounts)
                .where(accounts.c.account_id == account_id)
                .values(
                    desired=Desired.LIVE if is_wanted else Desired.PAUSED,
                    generation=accounts.c.generation + 1,
                    deleted_at=sa.func.now() if is_deleted else None,
                )
            )
            await connection.execute(
                sa.update(leases)
                .where(leases.c.account_id == account_id)
                .values(is_wanted=is_wanted and not is_deleted)
            )

    async def _rows(self, table: sa.Table, account_id: AccountId) -> Sequence[sa.Row]:
        query = sa.select(table).where(table.c.account_id == account_id)
        async with self.database.statement() as connection:
            return (await connection.execute(query)).all()

    async def lease(self, account_id: AccountId) -> LeaseRow:
        """Return the lease row."""
        (row,) = await self._rows(tables.leases, account_id)
        return LeaseRow(
            account_id=account_id,
            owner=row.owner,
            epoch=row.epoch,
            is_wanted=row.is_wanted,
            deadline=row.deadline,
            queued_at=row.queued_at,
            not_before=row.not_before,
            attempt=row.attempt,
            backoff_bound_seconds=row.backoff_bound,
        )

    async def status(self, account_id: AccountId) -> LinkStatus | None:
        """Return what was last reported."""
        for row in await self._rows(tables.links, account_id):
            return LinkStatus(
                phase=Phase(row.phase),
                reason=row.reason,
                message=row.message,
                observed_generation=row.observed_generation,
                since=row.since,
                next_attempt_at=row.next_attempt_at,
                attempt=row.attempt,
                user_action=UserAction(row.user_action),
                proof=Proof(row.proof),
                proof_detail=row.proof_detail,
                proven_at=row.proven_at,
            )
        return None

    async def transitions(self, account_id: AccountId) -> Sequence[tuple[Phase, str]]:
        """Return (phase, reason) in the order written."""
        rows = await self._rows(tables.link_transitions, account_id)
        ordered = sorted(rows, key=lambda row: row.transition_id)
        return [(Phase(row.phase), row.reason) for row in ordered]

    async def silence(self, incarnation: Incarnation, seconds: float) -> None:
        """Let a node's last heartbeat be so long ago."""
        update = (
            sa.update(tables.nodes)
            .where(tables.nodes.c.incarnation == incarnation)
            .values(heartbeat_at=datetime.now(UTC) - timedelta(seconds=seconds))
        )
        async with self.database.statement() as connection:
            await connection.execute(update)


@pytest.fixture(params=["memory", "postgres"])
def fleet_url(request: pytest.FixtureRequest) -> str | None:
    """Name the database, if it is to be one; the engines start outside any running loop."""
    return None if request.param == "memory" else request.getfixturevalue("database_url")


@pytest.fixture
async def fleet(fleet_url: str | None) -> AsyncIterator[Fleet]:
    """Give each implementation in turn."""
    if fleet_url is None:
        yield MemoryFleet()
        return
    settings = DatabaseSettings(url=Secret(fleet_url))
    async with open_database(
        settings, metrics=Metrics(CollectorRegistry()), max_connections=4
    ) as database:
        yield PostgresFleet(database)


@pytest.fixture
def queue(fleet: Fleet) -> Queue:
    """Give the queue."""
    return fleet.queue


@pytest.fixture
def nodes(fleet: Fleet) -> Nodes:
    """Give the register of nodes."""
    return fleet.nodes


@pytest.fixture
def leases(fleet: Fleet) -> LeaseHandle:
    """Give a link's way to speak of itself."""
    return fleet.leases


@pytest.fixture
def add(fleet: Fleet) -> Callable[..., Awaitable[AccountId]]:
    """Register a link; keywords as in `Registration`."""

    async def _add(**values: object) -> AccountId:
        return await fleet.add(Registration(number=next(_numbers), **values))

    return _add


@pytest.fixture
def alter(fleet: Fleet) -> Callable[..., Awaitable[None]]:
    """Store a newer spec."""

    async def _alter(
        account_id: AccountId, *, is_wanted: bool = True, is_deleted: bool = False
    ) -> None:
        await fleet.alter(account_id, is_wanted=is_wanted, is_deleted=is_deleted)

    return _alter


@pytest.fixture
def lease_of(fleet: Fleet) -> Callable[[AccountId], Awaitable[LeaseRow]]:
    """Look at a lease."""
    return fleet.lease


@pytest.fixture
def status_of(fleet: Fleet) -> Callable[[AccountId], Awaitable[LinkStatus | None]]:
    """Look at what was reported."""
    return fleet.status


@pytest.fixture
def transitions_of(fleet: Fleet) -> Callable[[AccountId], Awaitable[Sequence[tuple[Phase, str]]]]:
    """Look at the history of phases."""
    return fleet.transitions


@pytest.fixture
def silence(fleet: Fleet) -> Callable[[Incarnation, float], Awaitable[None]]:
    """Let a node be silent."""
    return fleet.silence
