"""A writer's process dies, or sleeps, at every point of its work: nothing is lost or doubled."""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from forking import EXIT_FENCED
from ledger_child import TRUTH, WINDOW_END, run_writer, write_of
from ledger_rig import PostgresRig, check_ledger
from prometheus_client import CollectorRegistry
from reply_proxy import reply_proxy

from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.domain import AccountId, Claim, Incarnation
from brokerd.ledger.content import content_hash
from brokerd.ledger.ports import NumberedWrite
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.queue.postgres import PostgresQueue
from brokerd.store.engine import open_database
from brokerd.telemetry import Metrics

CHILD = Path(__file__).parents[1] / "support" / "ledger_child.py"
STRIDE = int(os.environ.get("BROKERD_SWEEP_STRIDE", "6"))
"""Each step costs a process, half a second: the suite samples, 1 sweeps them all (a minute)."""
REGISTER = """
WITH a AS (
    INSERT INTO brokerd.accounts (link_id, user_id, platform, login, server, currency, token,
        metaapi_account_id, region, desired, priority)
    VALUES (%s, 'u', 'mt5', %s, 'Demo', 'USD', 'main', %s, 'london', 'live', 'normal')
    RETURNING account_id
)
INSERT INTO brokerd.leases (account_id, is_wanted, deadline) SELECT account_id, true, now() FROM a
"""
numbers = itertools.count(1)


@dataclass
class Told:
    """What one run of the child said."""

    durable: set[tuple[AccountId, str]] = field(default_factory=set)
    claimed: Sequence[AccountId] = ()
    stopped: int | None = None
    code: int | None = None


@dataclass
class Stage:
    """A database, a rig to look into it, and the process that forks the writers."""

    url: str = field(repr=False)
    rig: PostgresRig
    child: asyncio.subprocess.Process
    pid: int = 0

    async def register(self) -> None:
        """Register a link that waits for whoever claims."""
        n = next(numbers)
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            await connection.execute(REGISTER, (f"l{n}", str(n), f"m{n}"))

    async def order(self, number: signal.Signals, step: int, node: str) -> Told:
        """Let a fork write until it ended or stopped."""
        for _ in range(2):
            await self.register()
        self.child.stdin.write(f"{number.name} {step} {node}\n".encode())
        return await self.listen(Told())

    async def listen(self, told: Told) -> Told:
        """Take in what the fork says."""
        while told.code is None:
            word, *rest = (await self.child.stdout.readline()).decode().split()
            match word:
                case "claimed":
                    self.pid = int(rest[0])
                    told.claimed = [AccountId(int(each)) for each in rest[1:]]
                case "durable":
                    told.durable |= {(AccountId(int(rest[0])), each) for each in rest[1:]}
                case "stopped":
                    told.stopped = int(rest[0])
                    return told
                case "ended":
                    told.code = int(rest[0])
        return told

    async def check_whole(self, told: Told) -> None:
        """See that what was answered is there, and that every ledger agrees with itself."""
        for account_id in told.claimed:
            rows = await self.rig.rows(account_id)
            assert {each for owner, each in told.durable if owner == account_id} <= rows.keys()
            await check_ledger(self.rig, account_id)

    async def check_truth(self, account_ids: Sequence[AccountId]) -> None:
        """See that every ledger is what the broker says, each deal told once."""
        for account_id in account_ids:
            await check_ledger(self.rig, account_id)
            rows = await self.rig.rows(account_id)
            present = [content_hash(row.deal) for row in rows.values() if not row.is_removed]
            assert sorted(present) == sorted(map(content_hash, TRUTH))
            added = [e for e in await self.rig.events(account_id) if e.type == "deal.added"]
            assert len(added) == len({e.deal_id for e in added}) == len(rows)
            assert (await self.rig.windows(account_id))[-1].end == WINDOW_END

    async def pause_all(self) -> None:
        """Let nobody claim the links there are."""
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            await connection.execute("UPDATE brokerd.leases SET is_wanted = false")

    async def heads(self) -> Sequence[tuple]:
        """Return what every statement that passes a fence moves."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            cursor = await connection.execute("SELECT * FROM brokerd.heads ORDER BY account_id")
            return await cursor.fetchall()

    async def succeed(self, claims: Sequence[Claim]) -> None:
        """Do as a successor does: the whole story again, and a pull at the end."""
        await run_writer(self.rig.database, claims, tell=lambda *_: None)
        for claim in claims:
            async with asyncio.timeout(5):
                await self.rig.store.commit([numbered(claim)])

    async def start(self, node: str) -> Incarnation:
        """Start a node in this process."""
        return await self.nodes.register(node, max_links=2)

    @property
    def nodes(self) -> PostgresNodes:
        """Return the register of nodes."""
        return PostgresNodes(self.rig.database, heartbeats=self.rig.database)

    @property
    def queue(self) -> PostgresQueue:
        """Return the queue."""
        return PostgresQueue(self.rig.database)


def show(text: str) -> None:
    """Print a figure; `pytest -rP` shows it."""
    sys.stdout.write(text + "\n")


def numbered(claim: Claim) -> NumberedWrite:
    """Pull the truth once more, under a number of its own."""
    return NumberedWrite(write_id=next(numbers), write=write_of(claim, TRUTH, pulled_minutes=2))


async def fork_server(url: str) -> asyncio.subprocess.Process:
    """Start the process that forks the writers."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(CHILD)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"TEST_DATABASE_URL": url},
    )


@pytest.fixture
async def stage(database_url: str) -> AsyncIterator[Stage]:
    """Start the forking process and open a pool."""
    settings, metrics = DatabaseSettings(url=Secret(database_url)), Metrics(CollectorRegistry())
    child = await fork_server(database_url)
    try:
        async with open_database(settings, metrics=metrics, max_connections=4) as database:
            yield Stage(database_url, PostgresRig(database), child)
    finally:
        child.stdin.close()
        await child.wait()


async def test_killed_at_every_suspension_it_loses_and_doubles_nothing(stage: Stage) -> None:
    """SIGKILL before the 1st, 2nd … Nth resumption; the restarted node completes the ledger."""
    for step in itertools.count(1, STRIDE):
        node = f"node-{step}"
        told = await stage.order(signal.SIGKILL, step, node)
        if told.code == 0:
            break
        assert told.code == -signal.SIGKILL
        claims = await stage.queue.claim(await stage.start(node), limit=2)  # frees its old leases
        assert sorted(c.fence.account_id for c in claims) == sorted(told.claimed)
        await stage.check_whole(told)  # now that its last statement has ended, or never will begin
        await stage.succeed(claims)
        await stage.check_truth(told.claimed)
    show(f"killed before every {STRIDE}th of {step} resumptions")
    assert step > 50


async def test_a_zombie_stopped_at_any_point_writes_nothing_when_it_wakes(stage: Stage) -> None:
    """SIGSTOP within a write, links claimed elsewhere at once, SIGCONT: `Fenced`, no row more."""
    slowest_seconds = 0.0
    for step in itertools.count(STRIDE // 2 + 1, STRIDE):
        told = await stage.order(signal.SIGSTOP, step, f"zombie-{step}")
        if told.code is not None:
            break
        successor = await stage.start(f"successor-{step}")
        started = time.perf_counter()
        await stage.nodes.bury(successor, silent_seconds=0.0)
        claims = await stage.queue.claim(successor, limit=2)
        slowest_seconds = max(slowest_seconds, time.perf_counter() - started)
        assert sorted(c.fence.account_id for c in claims) == sorted(told.claimed)
        had_finished = all(["d5" in await stage.rig.rows(each) for each in told.claimed])
        await stage.succeed(claims)
        before = await stage.heads()
        os.kill(told.stopped, signal.SIGCONT)
        await stage.listen(told)
        # having finished, it finds its last answers waiting, and has nothing to write
        assert told.code == (0 if had_finished else EXIT_FENCED)
        assert await stage.heads() == before
        await stage.check_whole(told)
        await stage.check_truth(told.claimed)
        await stage.pause_all()  # or the next one would claim these, written already
    show(
        f"stopped before every {STRIDE}th of {step} resumptions; claimed in {slowest_seconds:.3f} s"
    )
    assert step > 50
    assert slowest_seconds < 2


@pytest.mark.parametrize("every", [1, 2, 3])
async def test_an_answer_lost_after_the_commit_is_made_up_for(stage: Stage, every: int) -> None:
    """The server commits, its answer never arrives: sent again, done once, and told in full."""
    told: set[tuple[object, ...]] = set()
    for _ in range(2):
        await stage.register()
    claims = await stage.queue.claim(await stage.start("node"), limit=2)
    account_ids = [claim.fence.account_id for claim in claims]
    # A write sent again has the next number, so with `every` 1 the first three answers are lost.
    async with (
        reply_proxy(stage.url, lambda n: n <= 3 if every == 1 else n % every == 1) as proxy,
        open_database(
            DatabaseSettings(url=Secret(proxy.url)),
            metrics=Metrics(CollectorRegistry()),
            max_connections=2,
        ) as database,
    ):
        await run_writer(database, claims, tell=lambda *words: told.add(words))
    assert proxy.taken >= 2
    for account_id in account_ids:
        assert {
            ("durable", account_id, "d1", "d2"),
            ("durable", account_id, "d3", "d4"),
            ("durable", account_id, "d5"),
        } <= told
        events = await stage.rig.events(account_id)
        assert sorted((e.deal_id, e.type) for e in events) == [
            ("d1", "deal.added"),
            ("d1", "deal.removed"),
            ("d2", "deal.added"),
            ("d2", "deal.revised"),
            ("d3", "deal.added"),
            ("d4", "deal.added"),
            ("d5", "deal.added"),
        ]
    await stage.check_truth(account_ids)


async def test_killed_between_the_commit_and_its_answer(stage: Stage, database_url: str) -> None:
    """The process dies while the answer to its n-th commit is on the way; nothing is doubled."""
    for victim in range(1, 4):
        async with reply_proxy(database_url, lambda n, v=victim: n == v) as proxy:
            child = await fork_server(proxy.url)
            dying = Stage(database_url, stage.rig, child)
            order = asyncio.create_task(dying.order(signal.SIGKILL, 10**9, f"node-{victim}"))
            await proxy.has_taken.wait()
            os.kill(dying.pid, signal.SIGKILL)
            told = await order
            child.stdin.close()
            await child.wait()
        assert told.code == -signal.SIGKILL
        claims = await stage.queue.claim(await stage.start(f"node-{victim}"), limit=2)
        await stage.check_whole(told)
        await stage.succeed(claims)
        await stage.check_truth(told.claimed)
