"""Adding, changing and removing accounts over REST: answers in MetaApi's form, and prices."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

from brokerd.sandbox.accounts import Mix, open_logins
from brokerd.sandbox.bill import ChargeKind
from brokerd.sandbox.habits import Past
from brokerd.sandbox.rules import ProvisioningRules
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox
from brokerd.sandbox.trading import TradingAccount

ACCOUNTS = "/users/current/accounts"
FAST = ProvisioningRules(detection_seconds=0, detection_polls=0, time_scale=0.001)


@dataclass
class Client:
    """A client of the services of one sandbox, and a login at its broker to add."""

    sandbox: Sandbox
    http: httpx.AsyncClient
    login: TradingAccount
    numbers: count = field(default_factory=lambda: count(1))

    def order(self, **changes: object) -> dict[str, object]:
        """Return the order that adds the login; a change to None leaves a field out."""
        order = {
            "name": "ours",
            "login": self.login.login,
            "password": self.login.access.password,
            "server": self.login.server.name,
            "platform": "mt5",
            "magic": 0,
            **changes,
        }
        return {name: value for name, value in order.items() if value is not None}

    async def create(
        self, *, transaction_id: str | None = None, **changes: object
    ) -> httpx.Response:
        """Send the order once, under a transaction-id of its own if none is given."""
        headers = {"transaction-id": transaction_id or f"{next(self.numbers):032}"}
        return await self.http.post(ACCOUNTS, json=self.order(**changes), headers=headers)

    async def created(self, **changes: object) -> str:
        """Add the login; return the account's id."""
        answer = await self.create(**changes)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    async def shown(self, account_id: str) -> dict[str, Any]:
        """Return the account as the service shows it."""
        answer = await self.http.get(f"{ACCOUNTS}/{account_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def until(self, account_id: str, state: str, *, connection: str | None = None) -> None:
        """Wait for a state."""
        async with asyncio.timeout(5):
            while True:
                shown = await self.shown(account_id)
                if shown["state"] == state and connection in (None, shown["connectionStatus"]):
                    return
                await asyncio.sleep(0.01)

    async def order_to(self, account_id: str, verb: str) -> httpx.Response:
        """Give an order."""
        return await self.http.post(f"{ACCOUNTS}/{account_id}/{verb}")

    def charged(self, kind: ChargeKind) -> int:
        """Return how often something was charged."""
        return self.sandbox.state.bill.count(kind)


@asynccontextmanager
async def running(rules: ProvisioningRules = FAST) -> AsyncIterator[Client]:
    """Serve a sandbox whose broker has one login that MetaApi does not know."""
    async with running_sandbox(SandboxSettings(rules=rules)) as sandbox:
        mix = Mix(past=Past(deals=5, positions=0))
        (login,) = open_logins(mix, broker=sandbox.broker, market=sandbox.market)
        headers = {"auth-token": sandbox.settings.token}
        async with httpx.AsyncClient(base_url=sandbox.url, headers=headers) as http:
            yield Client(sandbox, http, login)


async def test_an_account_is_added_deployed_and_connected() -> None:
    """201 names it while it deploys; then its terminal shows what the broker knows."""
    async with running() as client:
        answer = await client.create(tags=["ours"], metadata={"key": 1}, region="london")
        assert answer.status_code == 201
        assert answer.json()["state"] == "DEPLOYING"
        account_id = answer.json()["id"]
        await client.until(account_id, "DEPLOYED", connection="CONNECTED")
        shown = await client.shown(account_id)
        assert (shown["name"], shown["region"], shown["reliability"]) == ("ours", "london", "high")
        assert (shown["tags"], shown["metadata"]) == (["ours"], {"key": 1})
        information = await client.http.get(f"{ACCOUNTS}/{account_id}/account-information")
        assert information.json()["balance"] == float(client.login.balance)
        assert client.charged(ChargeKind.ACCOUNT_ADDED) == 1
        assert client.charged(ChargeKind.DEPLOYMENT) == 1
        assert client.charged(ChargeKind.FAILED_ATTEMPT) == 0
