"""A process dies at every point of buying an account: nothing is bought twice, nothing is lost."""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from money_child import SECRETS, bring_up, provisioning
from prometheus_client import CollectorRegistry

from brokerd.api.ports import SubmittedPassword
from brokerd.api.postgres import PostgresRegistry
from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, QueueSettings, Secret
from brokerd.connector.provisioning.sealing import Vault
from brokerd.domain import (
    Desired,
    Identity,
    LinkId,
    LinkSpec,
    MetaApiPlace,
    Priority,
    UserId,
)
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.queue.postgres import PostgresQueue
from brokerd.sandbox.bill import ChargeKind
from brokerd.sandbox.rules import ProvisioningRules
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox
from brokerd.sandbox.trading import AccountSpec, TradingAccount
from brokerd.store.engine import Database, open_database
from brokerd.telemetry import Metrics

CHILD = Path(__file__).parents[1] / "support" / "money_child.py"
STRIDE = int(os.environ.get("BROKERD_SWEEP_STRIDE", "12"))
"""Each step costs a process, a second: the suite samples, 1 sweeps them all."""
RULES = ProvisioningRules(time_scale=0.002, retry_after="none")


@dataclass
class Stage:
    """A sandbox, a database, and the process that forks those who buy."""

    sandbox: Sandbox
    database: Database
    url: str = field(repr=False)
    child: asyncio.subprocess.Process
    number: int = 0

    async def register(self, *, password: str | None = None) -> TradingAccount:
        """Register a link to a login that MetaApi does not know, with its password."""
        server = next(iter(self.sandbox.broker.servers.values()))
        trading = self.sandbox.broker.open_login(AccountSpec(server=server))
        self.number += 1
        link_id = LinkId(f"l-{self.number}")
        identity = Identity(
            platform=trading.platform, login=trading.login, server=server.name, currency="USD"
        )
        registry = PostgresRegistry(self.database, settings=QueueSettings(), clock=SystemClock())
        spec = LinkSpec(
            user_id=UserId(f"u-{self.number}"),
            desired=Desired.LIVE,
            priority=Priority.NORMAL,
            metaapi=MetaApiPlace(token="main", region="new-york"),
            identity=identity,
        )
        await registry.put(link_id, spec, if_match=None, must_be_new=True)
        vault, secret = (
            Vault(SECRETS, random_bytes=os.urandom),
            Secret(password or trading.access.password),
        )
        submitted = SubmittedPassword(
            identity=identity,
            digest=vault.digest(identity, secret),
            digests=vault.digests(identity, secret),
            sealed=vault.seal(secret, link_id=link_id),
        )
        await registry.submit(link_id, submitted)
        return trading

    async def order(self, step: int, node: str) -> tuple[int, str]:
        """Let a fork buy until it ended; return its exit code, and how far it got."""
        self.child.stdin.write(f"{signal.SIGKILL.name} {step} {node}\n".encode())
        reached = ""
        while True:
            word, said = (await self.child.stdout.readline()).decode().split()
            if word == "ended":
                return int(said), reached
            reached = said

    async def succeed(self, node: str) -> str:
        """Do as the node does that starts again; return where the account is then."""
        nodes = PostgresNodes(self.database, heartbeats=self.database)
        queue = PostgresQueue(self.database)
        [claim] = await queue.claim(await nodes.register(node, max_links=1), limit=1)
        token = self.sandbox.settings.token
        async with provisioning(self.database, url=self.sandbox.url, token=token) as provisioner:
            return await bring_up(provisioner, claim)

    def billed(self, trading: TradingAccount) -> dict[ChargeKind, int]:
        """Return what MetaApi charged for a login."""
        counts = dict.fromkeys(ChargeKind, 0)
        for item in self.sandbox.state.bill.items():
            if item.payer.login == trading.login:
                counts[item.kind] += item.charge.count
        return counts

    async def check(self, *, usd: str) -> None:
        """See that our books say so, that no intent is open and that no password waits."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            cursor = await connection.execute(
                "SELECT sum(usd), count(*) FILTER (WHERE closed_at IS NULL),"
                " (SELECT count(*) FROM brokerd.credentials WHERE sealed IS NOT NULL)"
                " FROM brokerd.intents LEFT JOIN brokerd.spend USING (intent_id)"
                " WHERE intents.account_id = (SELECT max(account_id) FROM brokerd.accounts)"
            )
            assert await cursor.fetchone() == (Decimal(usd), 0, 0)


@pytest.fixture
async def stage(database_url: str) -> AsyncIterator[Stage]:
    """Start the sandbox and the forking process, and open a pool."""
    settings = DatabaseSettings(url=Secret(database_url))
    async with (
        running_sandbox(SandboxSettings(accounts=1, rules=RULES)) as sandbox,
        open_database(settings, metrics=Metrics(CollectorRegistry()), max_connections=4) as opened,
    ):
        environ = {
            "TEST_DATABASE_URL": database_url,
            "TEST_SANDBOX_URL": sandbox.url,
            "TEST_TOKEN": sandbox.settings.token,
        }
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, str(CHILD)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | environ,
        )
        try:
            yield Stage(sandbox, opened, database_url, child)
        finally:
            child.stdin.close()
            await child.wait()


def show(text: str) -> None:
    """Print a figure; `pytest -rP` shows it."""
    sys.stdout.write(text + "\n")


@pytest.mark.timeout(600)
async def test_killed_at_every_suspension_an_account_is_bought_once(stage: Stage) -> None:
    """SIGKILL before the 1st, 2nd … Nth resumption; whoever claims it next has one account."""
    for step in itertools.count(1, STRIDE):
        trading, node = await stage.register(), f"node-{step}"
        code, reached = await stage.order(step, node)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert await stage.succeed(node) == "DEPLOYED"
        accounts = [
            account
            for account in stage.sandbox.broker.accounts.values()
            if account.login == trading.login
        ]
        assert len(accounts) == 1, step
        billed = stage.billed(trading)
        assert billed[ChargeKind.ACCOUNT_ADDED] == 1, step
        assert billed[ChargeKind.DEPLOYMENT] == 1, step
        assert billed[ChargeKind.FAILED_ATTEMPT] == 0, step
        await stage.check(usd="2.172")
    show(f"killed before every {STRIDE}th of {step} resumptions")
    assert reached == "DEPLOYED"
    assert step > 100


@pytest.mark.timeout(600)
async def test_killed_at_every_suspension_wrong_credentials_cost_two_attempts_at_most(
    stage: Stage,
) -> None:
    """The refusal may be lost with the process: then it is asked for once more, and no more."""
    dearest = 0
    for step in itertools.count(1, 2 * STRIDE):
        trading, node = await stage.register(password="wrong"), f"node-{step}"
        code, reached = await stage.order(step, node)
        if code == 0:
            break
        assert await stage.succeed(node) in {"auth_failed", "bad_credentials_known"}
        assert await stage.succeed(node) == "bad_credentials_known"
        billed = stage.billed(trading)
        dearest = max(dearest, billed[ChargeKind.FAILED_ATTEMPT])
        assert dearest <= 2, step
        assert billed[ChargeKind.ACCOUNT_ADDED] == 0, step
        await stage.check(usd="0.105")
    show(f"killed before every {2 * STRIDE}th of {step} resumptions; dearest: {dearest} attempts")
    assert reached == "auth_failed"
    assert step > 50
