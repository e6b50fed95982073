"""The provisioning service over HTTP: lists, filters, deployments and refusals."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from brokerd.clock import SystemClock
from brokerd.domain import Platform
from brokerd.sandbox.facts import ConnectionStatus, ProvisioningState
from brokerd.sandbox.faults import Faults
from brokerd.sandbox.provisioning import Discovery, Provisioning
from brokerd.sandbox.rest_gate import Gate
from brokerd.sandbox.rules import ProvisioningRules
from brokerd.sandbox.state import MetaApiState, ServiceSettings
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.truth import AccountSpec, Broker, TruthAccount
from brokerd.sandbox.users import User

TOKEN = {"auth-token": "a.valid.token"}
ACCOUNTS = "/users/current/accounts"
Client = TestClient[web.Request, web.Application]


class Service:
    """The service with six accounts: MT4 and MT5 in turn, the last undeployed."""

    def __init__(self, client: Client, accounts: list[TruthAccount]) -> None:
        self.client = client
        self.accounts = accounts

    async def listed(self, query: str = "", **headers: str) -> list[str]:
        """Return the ids that a list answers with."""
        async with self.client.get(ACCOUNTS + query, headers={**TOKEN, **headers}) as answer:
            assert answer.status == 200
            return [item["_id"] for item in await answer.json()]

    async def state(self, account: TruthAccount) -> tuple[str, str]:
        """Return an account's two states."""
        path = f"{ACCOUNTS}/{account.metaapi_id}"
        async with self.client.get(path, headers=TOKEN) as answer:
            shown = await answer.json()
        return shown["state"], shown["connectionStatus"]


@asynccontextmanager
async def running() -> AsyncIterator[Service]:
    """Serve the provisioning service."""
    broker = Broker(clock=SystemClock(), random=Random(1))
    servers = [
        open_server(broker, ServerSpec(name=f"Alpha-{platform}", platform=platform))
        for platform in Platform
    ]
    states = [ProvisioningState.DEPLOYED] * 5 + [ProvisioningState.UNDEPLOYED]
    accounts = [
        broker.add_account(AccountSpec(server=servers[i % 2], name=f"user {i}", state=state))
        for i, state in enumerate(states)
    ]
    settings = ServiceSettings(
        token=TOKEN["auth-token"],
        rules=ProvisioningRules(deploy_seconds=600, undeploy_seconds=50, time_scale=0.001),
    )
    state = MetaApiState(broker, faults=Faults(random=Random(2)), settings=settings)
    state.users.add(User(name="known", token="known", is_forbidden=True))
    app = web.Application()
    discovery = Discovery(domain=lambda: "sim.test:1")
    app.add_routes(Provisioning(state, gate=Gate(state), discovery=discovery).routes())
    async with TestClient(TestServer(app)) as client:
        yield Service(client, accounts)


async def test_an_account_shows_what_the_sdk_reads() -> None:
    """Every key that the SDK reads without asking is there, with the truth's values."""
    async with running() as service:
        account = service.accounts[1]
        path = f"{ACCOUNTS}/{account.metaapi_id}"
        async with service.client.get(path, headers=TOKEN) as answer:
            shown = await answer.json()
    needed = {"magic", "connectionStatus", "region", "reliability", "type", "metadata", "tags"}
    assert needed <= set(shown)
    assert (shown["_id"], shown["login"]) == (account.metaapi_id, account.login)
    assert (shown["server"], shown["version"]) == ("Alpha-mt5", 5)
    assert (shown["state"], shown["connectionStatus"]) == ("DEPLOYED", "CONNECTED")
    assert shown["connections"] == [{"region": "new-york", "zone": "a", "application": "MetaApi"}]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        ("?offset=1&limit=2", [1, 2]),
        ("?offset=9", []),
        ("?sortOrder=desc&limit=2", [5, 4]),
        ("?state=DEPLOYED&state=DEPLOYING&limit=2", [0, 1]),
        ("?state=UNDEPLOYED", [5]),
        ("?connectionStatus=DISCONNECTED", [5]),
        ("?version=4", [0, 2, 4]),
        ("?region=london", []),
        ("?type=cloud-g2&version=5", [1, 3, 5]),
        ("?query=USER%203", [3]),
        ("?query=alpha-mt4", [0, 2, 4]),
        ("?deploymentStatus=undeployed", [5]),
        ("?provisioningProfileId=none", []),
    ],
)
async def test_lists_are_filtered_and_paged(query: str, expected: list[int]) -> None:
    """A list holds exactly the accounts that pass, in order."""
    async with running() as service:
        ids = await service.listed(query)
        assert ids == [service.accounts[i].metaapi_id for i in expected]


async def test_the_second_version_of_the_list_counts() -> None:
    """`api-version: 2` answers with all that pass counted, and the page's items."""
    async with running() as service:
        headers = {**TOKEN, "api-version": "2"}
        async with service.client.get(f"{ACCOUNTS}?version=4&limit=1", headers=headers) as answer:
            shown = await answer.json()
    assert shown["count"] == 3
    assert len(shown["items"]) == 1


@pytest.mark.parametrize("query", ["?limit=0", "?limit=1001", "?offset=-1", "?version=6"])
async def test_a_bad_filter_is_a_validation_error(query: str) -> None:
    """400 comes with details, an id and a message that ends in a request id."""
    async with (
        running() as service,
        service.client.get(ACCOUNTS + query, headers=TOKEN) as answer,
    ):
        assert answer.status == 400
        body = await answer.json()
    assert body["error"] == "ValidationError"
    assert body["details"]
    assert len(body["message"].rpartition("(")[2]) == 33


async def test_deploying_takes_its_time() -> None:
    """Undeployed, deploying, deployed and connected; a second order changes nothing."""
    async with running() as service:
        account = service.accounts[5]
        path = f"{ACCOUNTS}/{account.metaapi_id}/deploy"
        async with service.client.post(path, headers=TOKEN) as answer:
            assert (answer.status, await answer.read()) == (204, b"")
        assert await service.state(account) == ("DEPLOYING", "DISCONNECTED")
        await asyncio.sleep(0.7)
        assert await service.state(account) == ("DEPLOYED", "CONNECTED")
        async with service.client.post(path, headers=TOKEN) as answer:
            assert answer.status == 204
        assert await service.state(account) == ("DEPLOYED", "CONNECTED")


async def test_undeploying_takes_the_terminal_at_once() -> None:
    """The terminal goes with the order; a later deploy replaces what was under way."""
    async with running() as service:
        account = service.accounts[0]
        path = f"{ACCOUNTS}/{account.metaapi_id}"
        async with service.client.post(f"{path}/undeploy", headers=TOKEN) as answer:
            assert answer.status == 204
        assert await service.state(account) == ("UNDEPLOYING", "DISCONNECTED")
        assert account.connection_status is ConnectionStatus.DISCONNECTED
        async with service.client.post(f"{path}/deploy", headers=TOKEN) as answer:
            assert answer.status == 204
        await asyncio.sleep(0.1)
        assert await service.state(account) == ("DEPLOYING", "DISCONNECTED")
        await asyncio.sleep(0.7)
        assert await service.state(account) == ("DEPLOYED", "CONNECTED")


@pytest.mark.parametrize(
    ("headers", "path", "status", "error"),
    [
        ({}, ACCOUNTS, 401, "UnauthorizedError"),
        ({"auth-token": "wrong"}, ACCOUNTS, 401, "UnauthorizedError"),
        ({"auth-token": "known"}, ACCOUNTS, 403, "ForbiddenError"),
        (TOKEN, f"{ACCOUNTS}/0000", 404, "NotFoundError"),
    ],
    ids=["no token", "wrong token", "forbidden", "unknown account"],
)
async def test_refusals_have_metaapis_form(
    headers: dict[str, str], path: str, status: int, error: str
) -> None:
    """Each refusal has its status, its class name and a numeric id."""
    async with running() as service, service.client.get(path, headers=headers) as answer:
        assert answer.status == status
        body = await answer.json()
    assert body["error"] == error
    assert isinstance(body["id"], int)
    assert isinstance(body["message"], str)


async def test_discovery_sends_the_sdk_back_here() -> None:
    """Hostname and domain are the configured ones; the regions hold the accounts' own."""
    async with running() as service:
        path = "/users/current/servers/mt-client-api"
        async with service.client.get(path, headers=TOKEN) as answer:
            shown = await answer.json()
        async with service.client.get("/users/current/regions", headers=TOKEN) as answer:
            regions = await answer.json()
    assert (shown["hostname"], shown["domain"]) == ("mt-client-api-v1", "sim.test:1")
    assert "new-york" in regions
