"""Accounts that brokerd creates, deploys and puts away, paid for by the sandbox's bill."""

import asyncio

import psycopg
import pytest
from daemon_process import running_daemon

from brokerd.sandbox.bill import ChargeKind
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox
from brokerd.sandbox.trading import AccountSpec, TradingAccount

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SECRETS = """
[provisioning]
poll_seconds = 0.1
create_retry_seconds = 0.1
confirm_seconds = 1.0
[secrets]
current = "k1"
keys.k1 = {env = "TEST_SEAL_KEY"}
"""
ENVIRON = {"TEST_SEAL_KEY": "s" * 64}


def open_login(sandbox: Sandbox) -> TradingAccount:
    """Open a trading account at the broker that MetaApi does not know."""
    return sandbox.broker.open_login(
        AccountSpec(server=next(iter(sandbox.broker.servers.values())))
    )


async def test_an_account_is_created_deployed_and_live(tmp_path, database_url):
    """From a login and a password to a proven ledger: one add on the bill, and no password left."""
    settings = SandboxSettings(accounts=1, deals_per_account_minute=0)
    async with (
        running_sandbox(settings) as sandbox,
        running_daemon(tmp_path, sandbox, database_url, extra=SECRETS, environ=ENVIRON) as daemon,
    ):
        trading = open_login(sandbox)
        await daemon.create("l-new", trading)
        await daemon.wait_phase("l-new", "auth_failed")
        await daemon.submit("l-new", trading.access.password)
        await daemon.wait_phase("l-new", "live", limit_seconds=40)
        assert sandbox.state.bill.count(ChargeKind.ACCOUNT_ADDED) == 1
        assert (await daemon.status("l-new"))["credentialVersion"] == 1
    assert trading.access.password not in daemon.log


async def test_a_dump_of_the_database_holds_no_password(tmp_path, database_url, shared_engines):
    """Neither while it waits, nor after it was used or refused."""
    settings = SandboxSettings(accounts=1, deals_per_account_minute=0)
    async with (
        running_sandbox(settings) as sandbox,
        running_daemon(tmp_path, sandbox, database_url, extra=SECRETS, environ=ENVIRON) as daemon,
    ):
        waits, used, refused = (open_login(sandbox) for _ in range(3))
        await daemon.create("waits", waits, desired="paused")
        await daemon.submit("waits", waits.access.password)
        await daemon.create("used", used)
        await daemon.submit("used", used.access.password)
        await daemon.create("refused", refused)
        await daemon.submit("refused", "planted-wrong-password")
        await daemon.wait_phase("used", "live", limit_seconds=40)
        await daemon.wait_phase("refused", "auth_failed")
        process = await asyncio.create_subprocess_exec(
            f"{shared_engines.postgres._bin}/pg_dump",
            *("--inserts", "--dbname", database_url),
            stdout=asyncio.subprocess.PIPE,
        )
        dump, _ = await process.communicate()
    assert process.returncode == 0
    assert b"INSERT INTO brokerd.credentials" in dump
    passwords = [waits.access.password, used.access.password, "planted-wrong-password"]
    for password in passwords:
        for form in (password.encode(), password.encode().hex().encode()):
            assert form not in dump
        assert password not in daemon.log
    with psycopg.connect(database_url) as connection:
        sealed = connection.execute(
            "SELECT link_id FROM brokerd.credentials JOIN brokerd.accounts USING (account_id)"
            " WHERE sealed IS NOT NULL"
        ).fetchall()
    assert sealed == [("waits",)]


async def test_five_hundred_submissions_cost_two_attempts_and_a_changed_password_two(
    tmp_path, database_url
):
    """Must-show 4: the bill of the sandbox, with a kill -9 in the middle of it."""
    settings = SandboxSettings(accounts=1, deals_per_account_minute=0)
    async with (
        running_sandbox(settings) as sandbox,
        running_daemon(tmp_path, sandbox, database_url, extra=SECRETS, environ=ENVIRON) as daemon,
    ):
        bill, trading = sandbox.state.bill, open_login(sandbox)
        await daemon.create("l-1", trading)
        answers = []
        async with daemon.client() as client:
            for number in range(500):
                body = {"password": "wrong"}
                answer = await client.put("/v1/links/l-1/credentials", json=body)
                answers.append(answer.status_code)
                if number == 250:
                    await daemon.wait_phase("l-1", "auth_failed")
        assert answers[0] == 202
        assert set(answers[300:]) == {422}
        assert bill.count(ChargeKind.FAILED_ATTEMPT) <= 2
        first = bill.count(ChargeKind.FAILED_ATTEMPT)
        await daemon.submit("l-1", trading.access.password)
        await daemon.wait_phase("l-1", "live", limit_seconds=40)
        trading.change_password("changed")
        await daemon.create("l-1", trading, desired="stopped")
        await daemon.wait_phase("l-1", "stopped", limit_seconds=20)
        await asyncio.sleep(1)
        await daemon.create("l-1", trading)
        await daemon.wait_phase("l-1", "auth_suspect", limit_seconds=20)
        await daemon.kill()
        await daemon.start()
        await daemon.wait_phase("l-1", "auth_failed", limit_seconds=30)
        await asyncio.sleep(3)
        assert bill.count(ChargeKind.FAILED_ATTEMPT) - first <= 2
        await daemon.submit("l-1", "changed")
        await daemon.wait_phase("l-1", "live", limit_seconds=40)
        assert bill.count(ChargeKind.ACCOUNT_ADDED) == 1
        assert bill.count(ChargeKind.DEPLOYMENT) == 2
