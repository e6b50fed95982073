"""One control API over the memory adapters, called through ASGI."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from decimal import Decimal

import httpx
import pytest
from litestar.types import ASGIApp
from prometheus_client import CollectorRegistry

from brokerd.api.app import Routes, create_app
from brokerd.api.budgets import Books, BudgetGauges, BudgetRoutes
from brokerd.api.credentials import CredentialRoutes, Purse
from brokerd.api.events import EventRoutes
from brokerd.api.explain import ExplainRoutes
from brokerd.api.feed import Feed, Limits
from brokerd.api.hints import LocalHints
from brokerd.api.links import LinkRoutes
from brokerd.api.memory import MemoryRegistry
from brokerd.api.memory_deals import MemoryDealReader
from brokerd.api.memory_operations import MemoryOperationRegistry
from brokerd.api.memory_quarantine import MemoryQuarantineReader
from brokerd.api.memory_totals import MemoryTotalsReader
from brokerd.api.operations import OperationRoutes
from brokerd.api.quarantine import QuarantineRoutes
from brokerd.api.readiness import READY, Readiness
from brokerd.api.reads import DealRoutes, ProbeRoutes, TotalsRoutes
from brokerd.api.replica import Copy, Reads
from brokerd.api.snapshots import NoSnapshots
from brokerd.clock import SystemClock
from brokerd.config.settings import (
    BudgetSettings,
    MoneySettings,
    QueueSettings,
    Secret,
    SecretsSettings,
)
from brokerd.connector.governor.memory import MemoryCensus
from brokerd.connector.provisioning.budgets import limits_of
from brokerd.connector.provisioning.memory import MemoryMoney, MemorySpend
from brokerd.connector.provisioning.prices import prices_of
from brokerd.connector.provisioning.sealing import Vault
from brokerd.demo.folder import EngineFolder, engine_user
from brokerd.demo.valkey import Valkey
from brokerd.domain import Incarnation, Phase
from brokerd.health.calendar import Calendar
from brokerd.health.memory_past import MemoryPast
from brokerd.ledger.memory_feed import MemoryFeedReader
from brokerd.store.memory import MemoryState, NodeRow
from brokerd.telemetry import Metrics

KEY = "0123456789abcdef0123456789abcdef"
NODE = Incarnation(7)
SECRETS = SecretsSettings(keys={"k1": Secret("s" * 64)}, current="k1")


def put_body(login="5016", **spec):
    """Build the body of a PUT; keywords replace parts of the spec."""
    return {
        "spec": {
            "userId": "u-17",
            "desired": "live",
            "priority": "normal",
            "metaapi": {"token": "main", "accountId": "a-1", "region": "london"},
            "identity": {
                "platform": "mt5",
                "login": login,
                "server": "Broker-Demo",
                "currency": "USD",
            },
            "syncFrom": "2024-01-01T00:00:00Z",
            "maxStalenessSeconds": None,
            "labels": {"tier": "gold"},
            **spec,
        }
    }


@dataclass
class Api:
    """The application with everything behind it at hand."""

    put_body = staticmethod(put_body)
    secrets = SECRETS
    app: ASGIApp
    client: httpx.AsyncClient
    state: MemoryState
    registry: MemoryRegistry
    readiness: Readiness
    metrics: Metrics
    wake: asyncio.Event
    money: MemoryMoney

    def account(self, link_id):
        """Return the account that bears a link id."""
        return next(a.account_id for a in self.state.accounts.values() if a.link_id == link_id)

    def own(self, link_id, phase=Phase.LIVE):
        """Let a node run the link and report a phase."""
        account_id = self.account(link_id)
        lease = self.state.leases[account_id]
        now = self.state.clock.now()
        self.state.nodes[NODE] = NodeRow(
            incarnation=NODE, name="n7", max_links=9, started_at=now, heartbeat_at=now
        )
        self.state.leases[account_id] = replace(lease, owner=NODE, epoch=lease.epoch + 1)
        status = self.state.links[account_id]
        self.state.links[account_id] = replace(
            status, phase=phase, reason=phase.capitalize(), since=now
        )

    def release(self, link_id):
        """Let the node give the link back."""
        account_id = self.account(link_id)
        self.state.leases[account_id] = replace(self.state.leases[account_id], owner=None)


def make_feed(state, *, metrics=None, reader=None, **limits):
    """Build a feed; whoever wants it to move must run it."""
    values = {"max_streams": 9, "buffer_bytes": 262_144, "poll_seconds": 0.02, **limits}
    return Feed(
        reader or MemoryFeedReader(state),
        wake=asyncio.Event(),
        limits=Limits(**values),
        metrics=metrics or Metrics(CollectorRegistry()),
    )


def make_books(money, **budgets):
    """Build what reads everything about money."""
    return Books(
        spend=MemorySpend(money),
        census=MemoryCensus(money.state),
        limits=limits_of(BudgetSettings(**budgets)),
        prices=prices_of(MoneySettings()),
    )


def make_api(  # a builder of test values has many keywords
    state,
    *,
    feed=None,
    max_length=100,
    snapshots=None,
    hints=None,
    replica=None,
    calendar=None,
    secrets=SECRETS,
    money=None,
    **budgets,
):
    """Build the application over the rows of `state`."""
    money = money or MemoryMoney(state=state)
    registry = MemoryRegistry(state, settings=QueueSettings(max_length=max_length), money=money)
    metrics = feed._metrics if feed else Metrics(CollectorRegistry())
    books = make_books(money, **budgets)
    wake = asyncio.Event()
    readiness = Readiness(registry, clock=state.clock)
    readiness.enter(READY)

    def reads(reader):
        copy = None if replica is None else Copy(reader=reader, replica=replica)
        return Reads(primary=reader, copy=copy)

    made_feed = feed or make_feed(state, metrics=metrics)
    made_hints = hints or LocalHints(wake.set)
    if feed is None:
        made_feed.stop()  # nobody runs it, so nobody should wait for it
    routes = Routes(
        links=LinkRoutes(
            registry=registry,
            pages=reads(registry),
            snapshots=snapshots or NoSnapshots(),
            hints=made_hints,
            clock=state.clock,
            calendar=calendar or Calendar(),
            tokens=frozenset({"main"}),
            can_create=bool(secrets.keys),
        ),
        explain=ExplainRoutes(
            registry=registry, past=MemoryPast(state), calendar=calendar or Calendar()
        ),
        credentials=CredentialRoutes(
            registry=registry,
            book=registry,
            purse=Purse(
                spend=books.spend, limits=books.limits, failed_attempt_usd=Decimal("0.105")
            ),
            vault=Vault(secrets, random_bytes=os.urandom),
            snapshots=snapshots or NoSnapshots(),
            hints=made_hints,
            metrics=metrics,
        ),
        budgets=BudgetRoutes(books=books),
        deals=DealRoutes(reads=reads(MemoryDealReader(state))),
        totals=TotalsRoutes(reads=reads(MemoryTotalsReader(state))),
        events=EventRoutes(feed=made_feed, metrics=metrics),
        quarantine=QuarantineRoutes(records=MemoryQuarantineReader(state)),
        operations=OperationRoutes(
            operations=MemoryOperationRegistry(state, expire_seconds=60.0),
            registry=registry,
            hints=made_hints,
        ),
        probes=ProbeRoutes(
            readiness=readiness,
            metrics=metrics.registry,
            sampled=[BudgetGauges(books, metrics=metrics), *([replica] if replica else [])],
        ),
    )
    app = create_app(routes, key=Secret(KEY), metrics=metrics)
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app),
        base_url="http://brokerd",
        headers={"Authorization": f"Bearer {KEY}"},
    )
    return Api(app, client, state, registry, readiness, metrics, wake, money)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """Give an API over an empty store."""
    made = make_api(MemoryState(clock=SystemClock()))
    async with made.client:
        yield made


@pytest.fixture
def new_api():
    """Give the way to build more of them, over other stores or with snapshots."""
    return make_api


@pytest.fixture
def new_feed():
    """Give the way to build a feed."""
    return make_feed


@pytest.fixture
async def valkey() -> AsyncIterator[Valkey]:
    """Run a Valkey that the test may kill."""
    folder = EngineFolder(user=engine_user())
    server = Valkey(folder=folder)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
        await folder.remove()
