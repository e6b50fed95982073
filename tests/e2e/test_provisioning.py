"""Accounts that brokerd creates, deploys and puts away, paid for by the sandbox's bill."""

import pytest
from daemon_process import running_daemon

from brokerd.sandbox.bill import ChargeKind
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox
from brokerd.sandbox.trading import AccountSpec, TradingAccount

pytestmark = pytest.mark.e2e

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
