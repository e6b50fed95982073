"""A client of the sandbox's REST services, and a login at its broker that MetaApi does not know."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count

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
class ProvisioningClient:
    """One user's client; `login` is there to be added."""

    sandbox: Sandbox
    http: httpx.AsyncClient
    login: TradingAccount
    numbers: count = field(default_factory=lambda: count(1))

    def order(self, **changes: object) -> dict[str, object]:
        """Return the order that adds the login."""
        return order_for(self.login, **changes)

    async def create(self, transaction_id: str | None = None, **changes: object) -> httpx.Response:
        """Send the order once, under a transaction-id of its own if none is given."""
        headers = {"transaction-id": transaction_id or f"{next(self.numbers):032}"}
        return await self.http.post(ACCOUNTS, json=self.order(**changes), headers=headers)

    async def created(self, **changes: object) -> str:
        """Add the login; return the account's id once it is deployed."""
        answer = await self.create(**changes)
        assert answer.status_code == 201, answer.text
        account_id = answer.json()["id"]
        await self.until(account_id, state="DEPLOYED")
        return account_id

    async def shown(self, account_id: str) -> dict:
        """Return the account as the service shows it."""
        answer = await self.http.get(f"{ACCOUNTS}/{account_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def until(self, account_id: str, **shown: str) -> None:
        """Wait until the account shows these values; `gone=True` until nobody knows it."""
        for _ in range(500):
            answer = await self.http.get(f"{ACCOUNTS}/{account_id}")
            body = {**answer.json(), "gone": answer.status_code == httpx.codes.NOT_FOUND}
            if shown.items() <= body.items():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"never {shown}: {body}")

    async def tell(self, account_id: str, verb: str) -> httpx.Response:
        """Give an order."""
        return await self.http.post(f"{ACCOUNTS}/{account_id}/{verb}")

    async def control(self, method: str, path: str, body: object = None) -> dict:
        """Ask the sandbox's control."""
        answer = await self.http.request(method, f"/control/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def charged(self, kind: ChargeKind) -> int:
        """Return how often something was charged."""
        items = self.sandbox.state.bill.items()
        return sum(item.charge.count for item in items if item.kind is kind)

    def owed(self) -> Decimal:
        """Return what the bill comes to."""
        return self.sandbox.state.bill.total()


def order_for(trading: TradingAccount, /, **changes: object) -> dict[str, object]:
    """Return the order that adds a login; a change to None leaves a field out."""
    order = {
        "name": "ours",
        "login": trading.login,
        "password": trading.access.password,
        "server": trading.server.name,
        "platform": "mt5",
        "magic": 0,
        **changes,
    }
    return {name: value for name, value in order.items() if value is not None}


def details(answer: httpx.Response) -> object:
    """Return the details of a validation error, having looked at the rest of its form."""
    body = answer.json()
    assert answer.status_code == 400, body
    assert (body["id"], body["error"]) == (3, "ValidationError")
    assert len(body["message"].rpartition("(")[2]) == 33
    return body["details"]


@asynccontextmanager
async def provisioning_client(
    rules: ProvisioningRules = FAST, **settings: object
) -> AsyncIterator[ProvisioningClient]:
    """Serve a sandbox without accounts whose broker has one login."""
    async with running_sandbox(SandboxSettings(rules=rules, **settings)) as sandbox:
        mix = Mix(past=Past(deals=5, positions=0))
        (login,) = open_logins(mix, broker=sandbox.broker, market=sandbox.market)
        headers = {"auth-token": sandbox.settings.token}
        async with httpx.AsyncClient(base_url=sandbox.url, headers=headers) as http:
            yield ProvisioningClient(sandbox, http, login)
