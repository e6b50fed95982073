"""One suite for every `Census`: who shares the budgets, and for how many accounts."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.connector.governor.fleet import Fleet
from brokerd.connector.governor.memory import MemoryCensus
from brokerd.connector.governor.ports import Census, Demand
from brokerd.connector.governor.postgres import PostgresCensus
from brokerd.domain import (
    AccountId,
    Desired,
    Identity,
    LinkId,
    LinkSpec,
    MetaApiPlace,
    MetaApiRef,
    Platform,
    Priority,
    UserId,
)
from brokerd.store import tables
from brokerd.store.engine import open_database
from brokerd.store.memory import AccountRow, MemoryState, NodeRow
from brokerd.telemetry import Metrics

ACCOUNTS = [
    # token, region, account, desired, is deleted
    ("main", "london", "b", "live", False),
    ("main", "london", "a", "paused", False),
    ("main", "tokyo", "c", "live", False),
    ("other", "london", "d", "live", False),
    ("other", "london", "0", "live", True),
    ("other", "tokyo", None, "live", False),
]
NODES = [
    # name, max_links, is closed
    ("one", 10, False),
    ("two", 10, False),
    ("dead", 10, True),
    ("api", 0, False),
]


@dataclass
class World:
    """A census, and a way to fill what it counts."""

    census: Census
    fill: Callable[[], Awaitable[None]]


async def in_memory() -> AsyncIterator[World]:
    """Count plain values."""
    state = MemoryState(clock=SystemClock())
    now = state.clock.now()

    async def fill() -> None:
        for number, (token, region, account, desired, is_deleted) in enumerate(ACCOUNTS, 1):
            spec = LinkSpec(
                user_id=UserId("u"),
                desired=Desired(desired),
                priority=Priority.NORMAL,
                metaapi=(
                    MetaApiRef(token=token, account_id=account, region=region)
                    if account
                    else MetaApiPlace(token=token, region=region)
                ),
                identity=Identity(
                    platform=Platform.MT5, login=str(number), server="Demo", currency="USD"
                ),
                sync_from=None,
            )
            state.accounts[AccountId(number)] = AccountRow(
                account_id=AccountId(number),
                link_id=LinkId(f"l-{number}"),
                spec=spec,
                generation=1,
                created_at=now,
                updated_at=now,
                deleted_at=now if is_deleted else None,
            )
        for number, (name, max_links, is_closed) in enumerate(NODES, 1):
            state.nodes[number] = NodeRow(
                incarnation=number,
                name=name,
                max_links=max_links,
                started_at=now,
                heartbeat_at=now,
                closed_at=now if is_closed else None,
            )

    yield World(census=MemoryCensus(state), fill=fill)


async def in_postgres(url: str) -> AsyncIterator[World]:
    """Count rows."""
    metrics = Metrics(CollectorRegistry())
    async with open_database(DatabaseSettings(url=Secret(url)), metrics=metrics) as database:

        async def fill() -> None:
            async with database.transaction() as connection:
                for number, (token, region, account, desired, is_deleted) in enumerate(ACCOUNTS):
                    await connection.execute(
                        sa.insert(tables.accounts).values(
                            link_id=f"l-{number}",
                            user_id="u",
                            platform="mt5",
                            login=str(number),
                            server="Demo",
                            currency="USD",
                            token=token,
                            metaapi_account_id=account,
                            region=region,
                            desired=desired,
                            priority="normal",
                            deleted_at=sa.func.now() if is_deleted else None,
                        )
                    )
                for name, max_links, is_closed in NODES:
                    await connection.execute(
                        sa.insert(tables.nodes).values(
                            name=name,
                            max_links=max_links,
                            closed_at=sa.func.now() if is_closed else None,
                        )
                    )

        yield World(census=PostgresCensus(database), fill=fill)


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[World]:
    """Give each census in turn."""
    made = in_memory() if request.param == "memory" else in_postgres(database_url)
    async for each in made:
        yield each


def demand(token: str, region: str, accounts: int, example: str) -> Demand:
    """Describe accounts that all exist."""
    return Demand(
        token=token, region=region, wanted=accounts, accounts=accounts, example_account_id=example
    )


async def test_an_empty_fleet(world: World) -> None:
    """Nobody lives and nothing is wanted."""
    assert await world.census.live_nodes() == 0
    assert list(await world.census.demands()) == []


async def test_who_lives_and_what_is_wanted(world: World) -> None:
    """Closed nodes and those without links share nothing; deleted accounts count for nothing."""
    await world.fill()
    assert await world.census.live_nodes() == 2
    assert list(await world.census.demands()) == [
        demand("main", "london", 2, "a"),
        demand("main", "tokyo", 1, "c"),
        demand("other", "london", 1, "d"),
        Demand(token="other", region="tokyo", wanted=1, accounts=0, example_account_id=None),
    ]


async def test_the_fleet_remembers(world: World) -> None:
    """Before it is asked there is one node; then what was counted, by token."""
    fleet = Fleet(world.census, node_count_seconds=5.0)
    assert (fleet.live_nodes, fleet.accounts("main")) == (1, 0)
    await fleet.prepare()
    assert fleet.live_nodes == 1
    await world.fill()
    await fleet.prepare()
    assert fleet.live_nodes == 2
    assert {token: fleet.accounts(token) for token in ("main", "other", "none")} == {
        "main": 3,
        "other": 1,
        "none": 0,
    }
