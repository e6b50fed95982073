"""The unmodified SDK's own provisioning calls against the sandbox, over TLS, nothing replaced."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from certificates import make_certificate
from provisioning_client import FAST, order_for

from brokerd.sandbox.accounts import Mix, open_logins
from brokerd.sandbox.bill import ChargeKind
from brokerd.sandbox.faults import Fault, StagedFault
from brokerd.sandbox.habits import Past
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox
from brokerd.sandbox.trading import TradingAccount
from brokerd.sandbox.validation import ValidationCode as Code

pytestmark = pytest.mark.e2e

PROCESS = Path(__file__).parents[1] / "support" / "sdk_process.py"


@dataclass
class Sdk:
    """The SDK in its process, the sandbox it talks to, and a login to add."""

    process: asyncio.subprocess.Process
    sandbox: Sandbox
    login: TradingAccount

    def order(self, **changes: object) -> dict:
        """Return what adds the login."""
        return order_for(self.login, **changes)

    async def call(self, method: str, *arguments: object, on: str | None = None) -> dict:
        """Call a method of the account API, or of the account `on`; return what came of it."""
        order = {"call": method, "with": arguments} | ({} if on is None else {"id": on})
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        async with asyncio.timeout(30):
            while line := await self.process.stdout.readline():
                if line.startswith(b"{"):
                    return json.loads(line)
        raise EOFError("the SDK's process ended")

    async def create(self, **changes: object) -> str:
        """Add the login; return the account's id."""
        answer = await self.call("create_account", self.order(**changes))
        assert "returned" in answer, answer
        return answer["returned"]["id"]

    def charged(self, kind: ChargeKind) -> int:
        """Return how often something was charged."""
        items = self.sandbox.state.bill.items()
        return sum(item.charge.count for item in items if item.kind is kind)


@asynccontextmanager
async def running_sdk(folder: Path, **rules: object) -> AsyncIterator[Sdk]:
    """Serve a sandbox over TLS and start the SDK with its address, its token and its CA."""
    ca, certificate = await make_certificate(folder)
    settings = SandboxSettings(certificate=certificate, rules=replace(FAST, **rules))
    async with running_sandbox(settings) as sandbox:
        mix = Mix(past=Past(deals=5, positions=0))
        (login,) = open_logins(mix, broker=sandbox.broker, market=sandbox.market)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROCESS),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=folder,
            env={
                **os.environ,
                "METAAPI_TOKEN": sandbox.settings.token,
                "METAAPI_DOMAIN": sandbox.domain,
                "SSL_CERT_FILE": str(ca),
            },
        )
        try:
            yield Sdk(process, sandbox, login)
        finally:
            process.kill()
            await process.wait()


async def test_the_sdk_creates_deploys_updates_and_removes(tmp_path: Path) -> None:
    """The whole life of an account, 202 polling included, as the SDK's own objects tell it."""
    async with running_sdk(tmp_path, detection_polls=1) as sdk:
        account_id = await sdk.create()
        connected = await sdk.call("wait_connected", on=account_id)
        assert connected["account"]["state"] == "DEPLOYED"
        assert connected["account"]["connection"] == "CONNECTED"

        undeployed = await sdk.call("undeploy", on=account_id)
        assert undeployed["account"]["state"] in ("UNDEPLOYING", "UNDEPLOYED")
        waited = await sdk.call("wait_undeployed", on=account_id)
        assert waited["account"]["state"] == "UNDEPLOYED"
        await sdk.call("deploy", on=account_id)
        assert (await sdk.call("wait_deployed", on=account_id))["account"]["state"] == "DEPLOYED"

        sdk.login.change_password("new")
        updated = await sdk.call("update", {"name": "renamed", "password": "new"}, on=account_id)
        assert updated["account"]["connection"] == "DISCONNECTED_FROM_BROKER"
        await sdk.call("redeploy", on=account_id)
        assert (await sdk.call("wait_connected", on=account_id))["returned"] is None
        await sdk.call("increase_reliability", on=account_id)
        await sdk.call("wait_connected", on=account_id)
        (account,) = sdk.sandbox.broker.accounts.values()
        assert (account.spec.name, account.spec.reliability) == ("renamed", "high")
        link = await sdk.call("create_configuration_link", 7, on=account_id)
        assert account_id in link["returned"]["configurationLink"]

        await sdk.call("remove", on=account_id)
        gone = await sdk.call("wait_removed", on=account_id)
        assert gone.get("raised") in (None, "NotFoundException")
        assert sdk.sandbox.broker.accounts == {}
        counts = {kind: sdk.charged(kind) for kind in ChargeKind}
        assert counts[ChargeKind.ACCOUNT_ADDED] == 1
        assert counts[ChargeKind.DEPLOYMENT] == 4
        assert counts[ChargeKind.FAILED_ATTEMPT] == 0


async def test_the_sdk_lists_by_scrolling(tmp_path: Path) -> None:
    """Pages and filters of the infinite scroll hold what they should."""
    async with running_sdk(tmp_path) as sdk:
        ids = [sdk.sandbox.add_account(past=Past(deals=1, positions=0)) for _ in range(5)]
        scroll = "get_accounts_with_infinite_scroll_pagination"
        found = []
        for offset in range(0, 6, 2):
            page = await sdk.call(scroll, {"offset": offset, "limit": 2})
            found += [account["id"] for account in page["returned"]]
        assert found == [account.metaapi_id for account in ids]
        by_state = await sdk.call(scroll, {"state": ["UNDEPLOYED", "DEPLOYING"]})
        assert by_state["returned"] == []
        by_query = await sdk.call(scroll, {"query": ids[3].login})
        assert [account["id"] for account in by_query["returned"]] == [ids[3].metaapi_id]


async def test_the_sdk_raises_what_the_broker_said(tmp_path: Path) -> None:
    """Every form of `details` arrives as a ValidationException's, from every verb that logs in."""
    async with running_sdk(tmp_path, failures_before_lock=0) as sdk:
        fields = await sdk.call("create_account", sdk.order(magic=None, name=""))
        assert fields["raised"] == "ValidationException"
        assert {error["parameter"] for error in fields["details"]} == {"name", "magic"}
        server = await sdk.call("create_account", sdk.order(server="Nowhere"))
        assert server["details"]["code"] == "E_SRV_NOT_FOUND"
        assert server["details"]["serversByBrokers"]
        sdk.login.access.needed_slots = 2
        slots = await sdk.call("create_account", sdk.order())
        assert slots["details"] == {"code": "E_RESOURCE_SLOTS", "recommendedResourceSlots": 2}
        sdk.login.access.needed_slots = 1
        account_id = await sdk.create()
        for code in set(Code) - {Code.SRV_NOT_FOUND, Code.RESOURCE_SLOTS}:
            sdk.login.set_trouble(None if code is Code.AUTH else code)
            password = "wrong" if code is Code.AUTH else sdk.login.access.password
            created = await sdk.call("create_account", sdk.order(password=password))
            updated = await sdk.call("update", {"password": password}, on=account_id)
            answers = [created, updated]
            if code is not Code.AUTH:
                answers.append(await sdk.call("redeploy", on=account_id))
            said = {(answer["raised"], answer["details"]) for answer in answers}
            assert said == {("ValidationException", code.value)}


async def test_the_sdk_is_told_of_quota_money_and_lock(tmp_path: Path) -> None:
    """Each in the exception that the SDK makes of its status."""
    async with running_sdk(tmp_path, failures_before_lock=1, lock_seconds=2_000) as sdk:
        user = sdk.sandbox.state.users.default
        user.quotas = replace(user.quotas, accounts=0)
        quota = await sdk.call("create_account", sdk.order())
        assert (quota["raised"], quota["details"]) == ("ValidationException", [])
        assert "Quota exceeded" in quota["message"]
        user.quotas = replace(user.quotas, accounts=10)
        user.paid = sdk.sandbox.state.bill.total()
        money = await sdk.call("create_account", sdk.order())
        assert money["raised"] == "ForbiddenException"
        assert "top up" in money["message"]
        user.paid += 100
        assert (await sdk.call("create_account", sdk.order(password="wrong")))[
            "details"
        ] == "E_AUTH"
        # the SDK waits for the lock's hint by itself, and then succeeds
        assert (await sdk.call("create_account", sdk.order()))["returned"]["id"]


async def test_the_sdks_retries_make_no_second_account(tmp_path: Path) -> None:
    """It repeats a create that was answered 500, and one whose answer was lost."""
    async with running_sdk(tmp_path) as sdk:
        for kind in (StagedFault.FAIL_AFTER_CREATE, StagedFault.LOSE_ANSWER):
            sdk.sandbox.faults.switch_on(Fault(kind=kind, limit=1))
            await sdk.create()
        assert sdk.charged(ChargeKind.ACCOUNT_ADDED) == 2
        assert sdk.sandbox.faults.staged[StagedFault.LOSE_ANSWER] == 1
