"""The daemon around the contained SDK: it ends in time with a mute server, and starts afresh."""

import asyncio
import json
from contextlib import closing
from datetime import datetime, timedelta

import psycopg
import pytest
from daemon_process import running_daemon

from brokerd.app.run import EXIT_RECYCLE
from brokerd.sandbox.faults import Fault, FaultKind
from brokerd.sandbox.server import SandboxSettings, running_sandbox

pytestmark = pytest.mark.e2e

LINKS = 5


def held(database_url: str) -> int:
    """Count the leases that have an owner."""
    with closing(psycopg.connect(database_url)) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM brokerd.leases WHERE owner IS NOT NULL"
        ).fetchone()
    return count


def time_of(log: str, event: str) -> datetime:
    """Return when a daemon logged an event."""
    (entry,) = (json.loads(line) for line in log.splitlines() if f'"{event}"' in line)
    return datetime.fromisoformat(entry["timestamp"])


async def test_it_shuts_down_within_two_seconds_with_a_mute_server(tmp_path, database_url):
    """No farewell is answered, no socket closes in order: the leases are released all the same."""
    async with (
        running_sandbox(SandboxSettings(accounts=LINKS)) as sandbox,
        running_daemon(tmp_path, sandbox, database_url) as daemon,
    ):
        for i, account in enumerate(sandbox.broker.accounts.values()):
            await daemon.register(f"l-{i}", account)
        for i in range(LINKS):
            await daemon.wait_phase(f"l-{i}", "live")
        sandbox.faults.switch_on(Fault(kind=FaultKind.MUTE))
        assert await daemon.stop() == 0
        took = time_of(daemon.log, "app.stopped") - time_of(daemon.log, "app.draining")
        print(f"{took.total_seconds():.2f} s")  # noqa: T201  # pytest -rP shows it
        assert took < timedelta(seconds=2)
        assert held(database_url) == 0


async def test_past_its_budget_it_drains_and_asks_to_be_started_again(tmp_path, database_url):
    """The third connection is one too many: exit 75, nothing held; the next start serves all."""
    extra = "[health]\nmax_connections_made = 2\nrecycle_spread_seconds = 0\n"
    async with (
        running_sandbox(SandboxSettings(accounts=LINKS)) as sandbox,
        running_daemon(tmp_path, sandbox, database_url, extra=extra) as daemon,
    ):
        for i, account in enumerate(sandbox.broker.accounts.values()):
            await daemon.register(f"l-{i}", account)
        async with asyncio.timeout(20):
            assert await daemon.process.wait() == EXIT_RECYCLE
        assert "app.recycle_wanted" in daemon.log
        assert held(database_url) == 0
        daemon.extra = ""
        await daemon.start()
        for i in range(LINKS):
            await daemon.wait_phase(f"l-{i}", "live")
