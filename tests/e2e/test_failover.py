"""A replica is promoted that never got the last commits, under a daemon that goes on."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from decimal import Decimal

import psycopg
import pytest
from daemon_process import NO_CREDITS, Daemon, running_daemon

from brokerd.config.settings import Secret
from brokerd.demo.engines import Engines, engines
from brokerd.ledger.recount import false_receipts
from brokerd.sandbox.facts import Amendment
from brokerd.sandbox.habits import Past
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox
from brokerd.store.migrate import upgrade

pytestmark = pytest.mark.e2e

LINKS = 3
# Edited and deleted deals are found by rolling pulls, which would take minutes.
QUICK = NO_CREDITS + "[link]\nrolling_interval_seconds = 1\nremoval_recheck_seconds = 1\n"
_LEDGER = """
SELECT a.link_id, d.deal_id, d.time, d.profit, d.commission, d.swap
FROM brokerd.deals d JOIN brokerd.accounts a USING (account_id) WHERE d.removed_at IS NULL
"""
_SINCE_ITS_START = """
SELECT count(*) FROM brokerd.deals WHERE committed_at > pg_postmaster_start_time()
"""


def ask(url: str, statement: str) -> list[tuple]:
    """Run one statement beside the daemon."""
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


class Replicated:
    """A server, and a replica of it that has received everything up to a moment."""

    def __init__(self, running: Engines) -> None:
        self.url = running.postgres_url
        self._server = running.postgres
        self._data = running.postgres._data
        self._copy = self._data.with_name("replica")

    async def cut_replication(self) -> None:
        """Keep what the replica has: nothing that is committed from now on gets there."""
        await self._server.stop()
        await asyncio.to_thread(
            subprocess.run, ["cp", "-a", str(self._data), str(self._copy)], check=True
        )
        # ends its recovery where the WAL ends, on a timeline of its own: that is a promotion
        (self._copy / "recovery.signal").touch()
        with (self._copy / "postgresql.auto.conf").open("a") as settings:
            settings.write("restore_command = 'false'\n")
        await self._server.start()

    async def fail_over(self) -> None:
        """Lose the primary; promote the replica in its place."""
        self._server.kill()
        self._data.rename(self._data.with_name("lost"))
        self._copy.rename(self._data)
        await self._server.start()


@asynccontextmanager
async def replicated() -> AsyncIterator[Replicated]:
    """Run a migrated server of which there is a replica."""
    async with engines(is_durable=True) as running:
        await upgrade(Secret(running.postgres_url))
        yield Replicated(running)


def truth_of(sandbox: Sandbox) -> set[tuple]:
    """Return the broker's deals in the form of the ledger's."""
    return {
        (f"l-{i}", d.deal_id, d.time, d.profit, d.commission, d.swap)
        for i, account in enumerate(sandbox.broker.accounts.values())
        for d in account.deals()
    }


async def until_true(url: str, sandbox: Sandbox, *, limit_seconds: float = 60) -> float:
    """Wait until the ledger is the broker's truth; return after how many seconds."""
    for tenths in range(int(limit_seconds * 10)):
        if set(ask(url, _LEDGER)) == truth_of(sandbox):
            return tenths / 10
        await asyncio.sleep(0.1)
    assert set(ask(url, _LEDGER)) == truth_of(sandbox)
    return limit_seconds


async def follow(daemon: Daemon, after: str | None) -> tuple[list[dict], str]:
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


def ids_after(generation: int, events: list[dict]) -> list[str]:
    """Return which events are of later generations than this one."""
    return [event["id"] for event in events if event["generation"] > generation]


async def test_commits_lost_in_a_failover_come_back(tmp_path) -> None:
    """The links stay up, pull again what was lost, and no reader of the feed misses anything."""
    settings = SandboxSettings(
        accounts=LINKS, past=Past(deals=300, days=2), deals_per_account_minute=300
    )
    async with (
        replicated() as postgres,
        running_sandbox(settings) as sandbox,
        running_daemon(tmp_path, sandbox, postgres.url, extra=QUICK) as daemon,
    ):
        accounts = list(sandbox.broker.accounts.values())
        for i, account in enumerate(accounts):
            await daemon.register(f"l-{i}", account)
        for i in range(LINKS):
            await daemon.wait_phase(f"l-{i}", "live")
        await asyncio.sleep(2)
        await postgres.cut_replication()
        await daemon.wait_ready()
        early, at_cut = await follow(daemon, None)
        for account in accounts:
            edited, deleted = account.deals()[100:102]
            account.amend(edited.deal_id, Amendment(commission=edited.commission - Decimal(1)))
            account.delete(deleted.deal_id)
        await asyncio.sleep(5)
        _, at_loss = await follow(daemon, at_cut)
        ((lost,),) = ask(postgres.url, _SINCE_ITS_START)
        sockets = {each.sid for each in sandbox.sockets.sockets}
        await postgres.fail_over()
        await daemon.wait_ready()
        await asyncio.sleep(3)
        sandbox.market.freeze()
        seconds = await until_true(postgres.url, sandbox)
        later, _ = await follow(daemon, at_cut)
        from_loss, _ = await follow(daemon, at_loss)
        async with await psycopg.AsyncConnection.connect(postgres.url) as connection:
            assert await false_receipts(connection) == []
        assert {each.sid for each in sandbox.sockets.sockets} == sockets
        for i in range(LINKS):
            assert (await daemon.status(f"l-{i}"))["phase"] == "live"
        assert await daemon.stop() == 0
    sys.stdout.write(f"{lost} deals lost, all there {seconds} s after the market's rest\n")
    assert lost > 20
    assert "link.crashed" not in daemon.log
    assert "ledger_rewound" in daemon.log
    generation = max(event["generation"] for event in early)
    told = [event["id"] for event in early + later]
    assert len(told) == len(set(told))
    assert {(link, deal) for link, deal, *_ in truth_of(sandbox)} <= {
        (event["linkId"], event["dealId"])
        for event in early + later
        if event["type"] == "deal.added"
    }
    new = ids_after(generation, later)
    assert new
    # read after `later`: proofs go on, so it may have more to tell, never less
    assert ids_after(generation, from_loss)[: len(new)] == new, "a reader skipped events"
