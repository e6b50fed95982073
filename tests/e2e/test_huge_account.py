"""An account with a very long history joins a working fleet: memory is flat, nobody starves."""

import asyncio
import os
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path

import psycopg
import pytest
from daemon_process import NO_CREDITS, Daemon, running_daemon

from brokerd.sandbox.habits import Past
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox

DEALS = int(os.environ.get("BROKERD_HUGE_DEALS", "45000"))
"""Three spans; a million take minutes."""
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120 + DEALS // 200)]
OTHERS = 20
_LATENCIES = """
SELECT d.deal_id, d.committed_at FROM brokerd.deals d JOIN brokerd.accounts a USING (account_id)
WHERE a.link_id <> 'huge' AND d.source = 'stream' AND d.committed_at >= %s AND d.committed_at < %s
"""
_HUGE = """
SELECT (SELECT count(*) FROM brokerd.deals WHERE account_id = a.account_id),
  (SELECT count(*) FROM brokerd.windows WHERE account_id = a.account_id),
  (SELECT max(deals) FROM brokerd.windows WHERE account_id = a.account_id)
FROM brokerd.accounts a WHERE link_id = 'huge'
"""
_MOVES = """
SELECT count(*) FROM brokerd.link_transitions t JOIN brokerd.accounts a USING (account_id)
WHERE a.link_id <> 'huge'
"""


def ask(url: str, statement: str, *values: object) -> list[tuple]:
    """Run one statement beside the daemon."""
    with closing(psycopg.connect(url)) as connection:
        return connection.execute(statement, values).fetchall()


def now(url: str) -> datetime:
    """Return the time by the database's clock, which is the sandbox's too."""
    ((moment,),) = ask(url, "SELECT clock_timestamp()")
    return moment


def rss_mb(daemon: Daemon) -> float:
    """Return the daemon's resident memory."""
    pages = int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1_000_000


async def commits(daemon: Daemon) -> tuple[float, float]:
    """Return how many packets' deals were committed so far, and what that took in seconds."""
    async with daemon.client() as client:
        text = (await client.get("/metrics")).text
    name = "brokerd_deal_commit_latency_seconds"
    values = dict(line.split() for line in text.splitlines() if line.startswith(f"{name}_"))
    return float(values[f"{name}_count"]), float(values[f"{name}_sum"])


def p99_ms(url: str, sandbox: Sandbox, start: datetime, end: datetime) -> float:
    """Return from the broker's booking to our commit what most of the others' deals took at most.

    Of those that the stream brought between two moments.
    """
    booked = {
        deal.deal_id: deal.booked_at
        for account in list(sandbox.broker.accounts.values())[:OTHERS]
        for deal in account.deals(start=start)
    }
    took = sorted(
        (committed_at - booked[deal_id]).total_seconds()
        for deal_id, committed_at in ask(url, _LATENCIES, start, end)
        if deal_id in booked
    )
    assert len(took) > 50
    return 1_000 * took[int(0.99 * (len(took) - 1))]


async def test_a_huge_history_neither_bloats_the_node_nor_starves_the_others(
    tmp_path, database_url
):
    """Twenty links trade on while the twenty-first reads its years; then it is proven as well."""
    settings = SandboxSettings(accounts=OTHERS, deals_per_account_minute=60)
    async with (
        running_sandbox(settings) as sandbox,
        running_daemon(tmp_path, sandbox, database_url, extra=NO_CREDITS) as daemon,
    ):
        for i, account in enumerate(list(sandbox.broker.accounts.values())):
            await daemon.register(f"l-{i}", account)
        for i in range(OTHERS):
            await daemon.wait_phase(f"l-{i}", "live")
        huge = sandbox.add_account(past=Past(deals=DEALS, days=1_000))
        await asyncio.sleep(1)
        calm_at = now(database_url)
        await asyncio.sleep(8)
        moves = ask(database_url, _MOVES)
        memory = [rss_mb(daemon)]
        began_at = now(database_url)
        calm = await commits(daemon)
        await daemon.register("huge", huge)
        while (await daemon.status("huge"))["phase"] != "live":
            memory.append(rss_mb(daemon))
            await asyncio.sleep(0.2)
        ended_at = now(database_url)
        busy = await commits(daemon)
        sandbox.market.freeze()  # a busy account is not proven
        for _ in range(450):
            if (await daemon.status("huge"))["sync"]["balanceProof"] == "proven":
                break
            await asyncio.sleep(0.2)
        assert (await daemon.status("huge"))["sync"]["balanceProof"] == "proven"
        calm_ms = p99_ms(database_url, sandbox, calm_at, began_at)
        busy_ms = p99_ms(database_url, sandbox, began_at, ended_at)
        assert ask(database_url, _MOVES) == moves
        ((deals, windows, largest),) = ask(database_url, _HUGE)
        truth = huge.deal_count
        assert await daemon.stop() == 0
    seconds = (ended_at - began_at).total_seconds()
    calm_mean_ms = 1_000 * calm[1] / calm[0]
    busy_mean_ms = 1_000 * (busy[1] - calm[1]) / (busy[0] - calm[0])
    sys.stdout.write(
        f"{deals} deals in {seconds:.1f} s, {windows} windows; memory {memory[0]:.0f} ->"
        f" {max(memory):.0f} MB; the others' p99 {calm_ms:.0f} ms before and {busy_ms:.0f} ms"
        f" meanwhile, packet to commit {calm_mean_ms:.0f} and {busy_mean_ms:.0f} ms in the mean\n"
    )
    assert deals >= DEALS
    assert deals == truth
    assert windows > DEALS // 20_000
    assert largest <= 20_100
    assert max(memory) - memory[0] < 80
    assert busy_ms < 5_000
