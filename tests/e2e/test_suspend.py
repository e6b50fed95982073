"""F8: a daemon that stands still, as under a suspended machine, while another takes its links."""

import asyncio
import os
import signal
import sys
import time
from contextlib import closing

import psycopg
import pytest
from daemon_process import running_daemon

from brokerd.sandbox.bill import ChargeKind
from brokerd.sandbox.habits import Past
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

LINKS = 3
STILL_SECONDS = float(os.environ.get("BROKERD_SUSPEND_SECONDS", "6"))
CONFIG = """
[pool]
heartbeat_seconds = 0.5
freeze_seconds = 1.5
lease_seconds = 3.0
"""


def read(url: str, sql: str) -> list[tuple]:
    """Read rows."""
    with closing(psycopg.connect(url)) as connection:
        return connection.execute(sql).fetchall()


def owners(url: str) -> set[str | None]:
    """Return the nodes that hold the leases."""
    sql = "SELECT name FROM brokerd.leases LEFT JOIN brokerd.nodes ON incarnation = owner"
    return {name for (name,) in read(url, sql)}


def attempts(sandbox: Sandbox) -> list[int]:
    """Return how often each thing was bought that is charged by the piece."""
    kinds = (ChargeKind.ACCOUNT_ADDED, ChargeKind.DEPLOYMENT, ChargeKind.FAILED_ATTEMPT)
    return [sandbox.state.bill.count(kind) for kind in kinds]


async def test_f8_a_daemon_that_wakes_up_writes_opens_and_buys_nothing(tmp_path, database_url):
    """Its first round trip to the database fences it; the ledger is exact all along."""
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    settings = SandboxSettings(
        accounts=LINKS, past=Past(deals=40, days=10), deals_per_account_minute=60
    )
    async with (
        running_sandbox(settings) as sandbox,
        running_daemon(tmp_path / "1", sandbox, database_url, extra=CONFIG) as first,
    ):
        accounts = list(sandbox.broker.accounts.values())
        for number, account in enumerate(accounts):
            await first.register(f"l-{number}", account)
        for number in range(LINKS):
            await first.wait_phase(f"l-{number}", "live")
        async with running_daemon(
            tmp_path / "2", sandbox, database_url, node_name="node-2", extra=CONFIG
        ) as second:
            await asyncio.sleep(4)  # a lease of its own, before it may bury anybody
            stopped = time.monotonic()
            first.process.send_signal(signal.SIGSTOP)
            while owners(database_url) != {"node-2"}:
                assert time.monotonic() - stopped < 25
                await asyncio.sleep(0.05)
            taken = time.monotonic() - stopped
            for number in range(LINKS):
                await second.wait_phase(f"l-{number}", "live")
            await asyncio.sleep(max(0.0, stopped + STILL_SECONDS - time.monotonic()))
            knocked, spent = len(sandbox.sockets.attempts_at), attempts(sandbox)
            woken = time.monotonic()
            first.process.send_signal(signal.SIGCONT)
            async with asyncio.timeout(20):
                code = await first.process.wait()
            ended = time.monotonic() - woken
            sys.stdout.write(f"taken={taken:.2f} ended={ended:.2f} code={code}\n")
            assert code != 0
            assert "incarnation" in first.log.partition('"app.failed"')[0].splitlines()[-1]
            assert len(sandbox.sockets.attempts_at) == knocked
            assert attempts(sandbox) == spent
            sandbox.market.freeze()
            truth = {
                (f"l-{number}", deal.deal_id)
                for number, account in enumerate(accounts)
                for deal in account.deals()
            }
            held = (
                "SELECT link_id, deal_id FROM brokerd.deals"
                " JOIN brokerd.accounts USING (account_id)"
            )
            for _ in range(100):
                if set(read(database_url, held)) == truth:
                    break
                await asyncio.sleep(0.1)
            assert sorted(read(database_url, held)) == sorted(truth)
            told = (
                "SELECT account_id, deal_id, revision FROM brokerd.events WHERE deal_id IS NOT NULL"
            )
            assert len(read(database_url, told)) == len(set(read(database_url, told)))
