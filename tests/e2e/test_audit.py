"""`brokerd audit` over real sockets and Postgres: what an operator types at night."""

import asyncio
import os
from contextlib import AsyncExitStack, closing

import httpx
import psycopg
from daemon_process import KEY, running_daemon
from forked import brokerd

from brokerd.sandbox.server import DEFAULT_TOKEN, SandboxSettings, running_sandbox

QUICK = """
[link]
proof_retry_seconds = 0.5
"""
MONTHS_SECONDS = 80 * 86_400


async def run_audit(daemon, *arguments):
    """Run the command with a daemon's own configuration; return exit code, table and the rest."""
    environ = {
        **os.environ,
        "TEST_TOKEN": DEFAULT_TOKEN,
        "TEST_DATABASE_URL": daemon.database_url,
        "TEST_KEY": KEY,
    }
    words = ("audit", "--config", str(daemon.folder / "brokerd.toml"), *arguments)
    done = await asyncio.to_thread(brokerd, *words, environ=environ)
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    return done.returncode, rows, done.stderr


def tamper(url):
    """Change a deal's profit behind brokerd's back; return the deal."""
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        changed = connection.execute(
            "UPDATE brokerd.deals SET profit = profit + 1 WHERE (account_id, deal_id) ="
            " (SELECT account_id, deal_id FROM brokerd.deals JOIN brokerd.accounts"
            "  USING (account_id) WHERE link_id = 'l-1' ORDER BY time LIMIT 1)"
            " RETURNING deal_id"
        )
        return changed.fetchone()[0]


async def test_an_operator_audits_at_night(tmp_path, database_url):
    """All live links; a slipped deal is found; another node answers; a mismatch is exit code 1."""
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(running_sandbox(SandboxSettings(accounts=2)))
        daemon = await stack.enter_async_context(
            running_daemon(tmp_path, sandbox, database_url, extra=QUICK)
        )
        control = await stack.enter_async_context(httpx.AsyncClient(base_url=sandbox.url))
        for number, account in enumerate(sandbox.broker.accounts.values()):
            await daemon.register(f"l-{number}", account)
            await daemon.wait_phase(f"l-{number}", "live")
        first = next(iter(sandbox.broker.accounts))
        slipped = await control.post(
            f"/control/accounts/{first}/deals",
            json={"profit": "1.25", "age_seconds": MONTHS_SECONDS, "is_quiet": True},
        )
        assert slipped.is_success

        code, rows, err = await run_audit(daemon)
        assert code == 0, (rows, err, daemon.log)
        assert rows["l-0"][:2] == ["proven", "0"]
        assert rows["l-0"][3:8] == ["1", "1", "0", "0", "0"]  # windows, found, revised, …
        assert rows["l-1"][3:8] == ["1", "0", "0", "0", "0"]
        assert KEY not in err + str(rows)
        async with daemon.client() as api:
            deals = (await api.get("/v1/deals", params={"link": "l-0", "order": "oldest"})).json()
            assert deals["items"][0]["dealId"] == slipped.json()["deal_id"]
            assert deals["items"][0]["source"] == "audit"

        (tmp_path / "other").mkdir()
        other = await stack.enter_async_context(
            running_daemon(
                tmp_path / "other",
                sandbox,
                database_url,
                node_name="node-2",
                extra="[pool]\nmax_links = 0",
            )
        )
        code, rows, err = await run_audit(other)
        assert (code, rows) == (1, {})
        assert "node node-2 has no live link" in err
        code, rows, err = await run_audit(other, "--link", "l-0")
        assert (code, rows["l-0"][0]) == (0, "proven"), (rows, err)

        tamper(database_url)
        code, rows, err = await run_audit(daemon)
        assert code == 1, (rows, err)
        assert rows["l-0"][0] == "proven"
        assert rows["l-1"][:3] == ["mismatch", "-1", "USD"]
        assert rows["l-1"][7] == "1"  # the receipt that said otherwise
        status = await daemon.status("l-1")
        (proven,) = [c for c in status["conditions"] if c["type"] == "LedgerProven"]
        assert (proven["status"], proven["reason"]) == ("False", "BalanceMismatch")
        assert "balance -1.00" in proven["message"]

        code, rows, err = await run_audit(daemon, "--link", "nobody")
        assert (code, rows) == (1, {})
        assert err == "control_refused: There is no such thing: no link nobody is registered\n"
        await daemon.stop()
        code, rows, err = await run_audit(daemon, "--link", "l-0")
        assert (code, rows) == (1, {})
        assert err.startswith("control_unavailable: POST /v1/links/l-0:audit at http://127.0.0.1")
        assert "Traceback" not in err
