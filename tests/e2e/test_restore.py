"""The database is lost: an old backup in a fresh cluster, and the ledger is the broker's again."""

import asyncio
import os
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import forked
import psycopg
import pytest
from daemon_process import KEY, NO_CREDITS, running_daemon

from brokerd.demo.engines import engines
from brokerd.ledger.recount import false_receipts
from brokerd.sandbox.facts import Amendment
from brokerd.sandbox.habits import Past
from brokerd.sandbox.server import DEFAULT_TOKEN, SandboxSettings, running_sandbox

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

LINKS = 3
# Deleted and edited deals are found by rolling pulls, which would take minutes.
QUICK = NO_CREDITS + "[link]\nrolling_interval_seconds = 1\nremoval_recheck_seconds = 1\n"
_OLD = "DO $$ BEGIN FOR i IN 1..20000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
_LEDGER = """
SELECT a.link_id, d.deal_id, d.time, d.profit, d.commission, d.swap
FROM brokerd.deals d JOIN brokerd.accounts a USING (account_id) WHERE d.removed_at IS NULL
"""


def ask(url: str, statement: str) -> list[tuple]:
    """Run one statement beside the daemon."""
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def truth_of(accounts) -> set[tuple]:
    """Return the broker's deals in the form of the ledger's."""
    return {
        (f"l-{i}", d.deal_id, d.time, d.profit, d.commission, d.swap)
        for i, account in enumerate(accounts)
        for d in account.deals()
    }


async def until_true(url: str, accounts, *, limit_seconds: float = 15) -> None:
    """Wait until the ledger is the broker's truth."""
    for _ in range(int(limit_seconds / 0.1)):
        if set(ask(url, _LEDGER)) == truth_of(accounts):
            return
        await asyncio.sleep(0.1)
    assert set(ask(url, _LEDGER)) == truth_of(accounts)


async def brokerd(*words: str, url: str, programs: Path) -> str:
    """Run a command as an operator would; return what it printed."""
    environ = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "BROKERD_NODE_NAME": "node-1",
        "BROKERD_METAAPI__TOKENS__MAIN": DEFAULT_TOKEN,
        "BROKERD_DATABASE__URL": url,
        "BROKERD_API__KEY": KEY,
    }
    done = await asyncio.to_thread(forked.brokerd, *words, environ=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


async def follow(daemon, after: str | None) -> tuple[list[dict], str]:
    """Read the feed to its present end, as a backend does."""
    events, is_more = [], True
    async with daemon.client() as client:
        while is_more:
            asked = {"limit": 1000} | ({"after": after} if after else {})
            answer = await client.get("/v1/events", params=asked)
            assert answer.is_success, answer.text
            page = answer.json()
            events += page["items"]
            after, is_more = page["next"], bool(page["items"])
    return events, after


def disturb(accounts, *, first: int) -> None:
    """Edit one old deal of each account and delete another, which no stream shows."""
    for account in accounts:
        edited, deleted = list(account.deals())[first : first + 2]
        account.amend(edited.deal_id, Amendment(commission=edited.commission - Decimal(1)))
        account.delete(deleted.deal_id)


def added(events: list[dict]) -> set[tuple[str, str]]:
    """Return the deals that events tell of."""
    return {(e["linkId"], e["dealId"]) for e in events if e["type"] == "deal.added"}


async def test_an_old_backup_in_a_fresh_cluster_becomes_the_truth(
    tmp_path, database_url, shared_engines
):
    """Traded, backed up, traded, edited and deleted, lost: links re-pull, and no reader misses."""
    programs = shared_engines.postgres._bin
    ask(database_url, _OLD)
    settings = SandboxSettings(
        accounts=LINKS, past=Past(deals=300, days=2), deals_per_account_minute=120
    )
    async with (
        engines(is_durable=False) as fresh,
        running_sandbox(settings) as sandbox,
        running_daemon(tmp_path, sandbox, database_url, extra=QUICK) as daemon,
    ):
        accounts = list(sandbox.broker.accounts.values())
        for i, account in enumerate(accounts):
            await daemon.register(f"l-{i}", account)
        for i in range(LINKS):
            await daemon.wait_phase(f"l-{i}", "live")
        early, at_backup = await follow(daemon, None)
        await brokerd("backup", "--to", str(tmp_path), url=database_url, programs=programs)
        disturb(accounts, first=100)
        await asyncio.sleep(2)
        lost, at_loss = await follow(daemon, at_backup)
        assert lost
        await daemon.kill()
        old_xid = ask(database_url, "SELECT pg_current_xact_id()::text::bigint")
        disturb(accounts, first=150)
        await asyncio.sleep(1)

        (dump,) = tmp_path.glob("*.dump")
        said = await brokerd(
            "restore", "--from", str(dump), url=fresh.postgres_url, programs=programs
        )
        assert "every receipt equals a recount" in said
        assert ask(fresh.postgres_url, "SELECT pg_current_xact_id()::text::bigint") < old_xid
        daemon.database_url = fresh.postgres_url
        await daemon.start()
        for i in range(LINKS):
            await daemon.wait_phase(f"l-{i}", "live")
        sandbox.market.freeze()
        await until_true(fresh.postgres_url, accounts)
        later, _ = await follow(daemon, at_backup)
        from_loss, _ = await follow(daemon, at_loss)
        async with await psycopg.AsyncConnection.connect(fresh.postgres_url) as connection:
            assert await false_receipts(connection) == []
        assert await daemon.stop() == 0

    generations = {event["generation"] for event in early}
    assert min(e["generation"] for e in from_loss) > max(generations)
    assert {(link, deal) for link, deal, *_ in truth_of(accounts)} <= added(early + later)
    new = [event for event in later if event["generation"] > max(generations)]
    # read after `later`: proofs go on, so it may have more to tell, never less
    continued = [event["id"] for event in from_loss][: len(new)]
    assert continued == [event["id"] for event in new], "a reader skipped events"
    told = [event["id"] for event in early + later]
    assert len(told) == len(set(told))
