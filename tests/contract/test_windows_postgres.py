"""What only a real Postgres can show of the windows: a write that they did not see begin."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest
from ledger_rig import DAY, PostgresRig
from prometheus_client import CollectorRegistry

from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.domain import AccountId, Fence, Incarnation
from brokerd.ledger.postgres_windows import PostgresWindows
from brokerd.store.engine import Database, open_database
from brokerd.telemetry import Metrics

FENCE = Fence(account_id=AccountId(80_001), incarnation=Incarnation(1), epoch=1)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Open a pool."""
    settings = DatabaseSettings(url=Secret(database_url))
    metrics = Metrics(CollectorRegistry())
    async with open_database(settings, metrics=metrics, max_connections=4) as opened:
        yield opened


@pytest.mark.parametrize("what", ["merge", "verify"])
async def test_a_write_under_way_is_not_forgotten(
    database: Database, database_url: str, what: str
) -> None:
    """A statement that waited for another write of the account sees what that one wrote."""
    rig, windows = PostgresRig(database), PostgresWindows(database)
    await rig.lease(FENCE)
    for days in (1, 2):
        await rig.store.close_window(FENCE, start=DAY, end=DAY.replace(day=DAY.day + days))
    async with await psycopg.AsyncConnection.connect(database_url) as writer:
        await writer.execute(
            "UPDATE brokerd.heads SET writes = writes + 1 WHERE account_id = %s",
            [FENCE.account_id],
        )
        await writer.execute(
            "UPDATE brokerd.windows SET deals = deals + 1 WHERE account_id = %s",
            [FENCE.account_id],
        )
        if what == "merge":
            call = windows.merge(FENCE, start=DAY, end=DAY.replace(day=DAY.day + 2))
        else:
            call = windows.verify(FENCE, start=DAY)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(call)
            await asyncio.sleep(0.5)
            assert not task.done()
            await writer.commit()
    found = await windows.closed(FENCE.account_id)
    if what == "merge":
        assert task.result()
        assert [window.receipt.count for window in found] == [2]
    else:
        assert not task.result()  # it says one deal, and there is none
        assert [window.receipt.count for window in found] == [0, 1]
