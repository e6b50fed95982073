"""Synchronization by specification hash, over real sockets and the SDK's own hash function."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest
from stream_accounts import REGION

from brokerd.config.settings import Secret
from brokerd.connector.metaapi_stream import canary, specifications
from brokerd.connector.metaapi_stream.canary import TerminalKind
from brokerd.connector.metaapi_stream.parts import StreamPorts
from brokerd.connector.metaapi_stream.specifications import SpecificationHash
from brokerd.connector.ports import DealSeen, Synchronized
from brokerd.errors import MalformedAnswer
from brokerd.sandbox.faults import Fault, StagedFault
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox

QUIET = SandboxSettings(deals_per_account_minute=0)
SERVER = TerminalKind(server="Server", generation="cloud-g2", region=REGION)
LINKS = 3

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learn as often as is asked."""
    monkeypatch.setattr(canary, "PAUSE_SECONDS", 0.0)


@pytest.fixture
async def ports(ports: StreamPorts) -> AsyncIterator[StreamPorts]:
    """Give what the stream needs, with an HTTP client that reaches the sandbox."""
    async with httpx.AsyncClient() as http:
        yield replace(ports, http=http)


class Links:
    """Links of one server on one client, which synchronize again one after the other."""

    def __init__(self, sandbox: Sandbox, ours: Any) -> None:
        self.sandbox = sandbox
        self.ours = ours
        self.accounts = [sandbox.add_account() for _ in range(LINKS)]
        self.watched: list[Any] = []

    async def open(self) -> None:
        """Open all, one after the other."""
        for account in self.accounts:
            watched = await self.ours.open(account.metaapi_id)
            self.watched.append(watched)
            await watched.until(lambda: watched.of(Synchronized))  # noqa: B023  # awaited here

    async def again(self) -> None:
        """Close and open the first one again."""
        watched = self.watched[0]
        await watched.session.close()
        self.watched[0] = again = await self.ours.open(self.accounts[0].metaapi_id)
        await again.until(lambda: again.of(Synchronized))

    async def learnt(self, hashes: int = 1) -> list[str]:
        """Wait until so many hashes are known, and return them."""
        (client,) = self.ours.clients
        async with asyncio.timeout(5):
            while True:
                known = list(client._canaries.offer(self.accounts[0].metaapi_id))
                if len(known) == hashes:
                    return known
                await asyncio.sleep(0.02)

    async def lesson(self) -> None:
        """Wait until what a canary was sent is hashed."""
        (client,) = self.ours.clients
        canaries = client._canaries
        async with asyncio.timeout(5):
            while True:
                if canaries._lesson is None and not canaries._is_hashing:
                    return
                await asyncio.sleep(0.02)

    def counts(self) -> tuple[float, float]:
        """Return how many synchronizations sent specifications, and how many did by hash."""
        return self.ours.synchronizations("sent"), self.ours.synchronizations("by_hash")


def urls(sandbox: Sandbox) -> dict[str, Any]:
    """Return settings that lead the SDK's requests to the sandbox too, and the least of links."""
    return {"provisioning_url": sandbox.url, "client_url": sandbox.url, "canary_links": LINKS}


async def test_the_server_knows_the_hash_that_a_canary_learnt(streaming: Run) -> None:
    """The link that makes the number full teaches; from then on specifications are not sent."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox, **urls(sandbox)) as ours:
        links = Links(sandbox, ours)
        await links.open()
        assert links.counts() == (LINKS, 0)
        (known,) = await links.learnt()
        views = sandbox.stream.views.specifications(links.accounts[0].server)
        assert known == views.hash
        await links.again()
        assert links.counts() == (LINKS, 1)
        sandbox.market.trade(links.accounts[0], deals=1)
        await links.watched[0].until(lambda: links.watched[0].of(DealSeen))


async def test_a_changed_specification_is_learnt_by_the_first_that_is_sent_it(
    streaming: Run,
) -> None:
    """The next synchronization sends all of them, the one after it is by the new hash."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox, **urls(sandbox)) as ours:
        links = Links(sandbox, ours)
        await links.open()
        (old,) = await links.learnt()
        change_a_symbol(sandbox, links)
        await links.again()
        assert links.counts() == (LINKS + 1, 0)
        new, last = await links.learnt(2)
        assert last == old != new
        await links.again()
        assert links.counts() == (LINKS + 1, 1)


def change_a_symbol(sandbox: Sandbox, links: Links) -> None:
    """Change one specification at the broker."""
    server = links.accounts[0].server
    specification = next(iter(server.specs.values()))
    sandbox.broker.change_symbol(server, replace(specification, max_volume=Decimal(77)))


async def test_a_server_that_ignores_hashes_is_left_alone(streaming: Run) -> None:
    """Everything works; after two vain lessons no hash is offered any more."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox, **urls(sandbox)) as ours:
        sandbox.faults.switch_on(Fault(kind=StagedFault.IGNORE_HASHES))
        links = Links(sandbox, ours)
        await links.open()
        await links.lesson()
        await links.learnt()
        for _ in range(2):
            await links.again()
            await links.lesson()
        assert await links.learnt(0) == []
        await links.again()
        (client,) = ours.clients
        assert not client._canaries.wants(links.accounts[0].metaapi_id)
        assert links.counts() == (LINKS + 3, 0)


async def test_without_the_lists_of_fields_nothing_is_lost(streaming: Run) -> None:
    """The client API does not answer: specifications are sent, and deals come as ever."""
    async with running_sandbox(QUIET) as sandbox:
        nowhere = {**urls(sandbox), "client_url": "http://127.0.0.1:9"}
        async with streaming(sandbox, **nowhere) as ours:
            links = Links(sandbox, ours)
            await links.open()
            await links.again()
            assert await links.learnt(0) == []
            assert links.counts() == (LINKS + 1, 0)


class Api:
    """As much of the SDK as the hash needs, answering requests itself."""

    def __init__(self, sdk: Any, answers: list[Any]) -> None:
        api = sdk.api("contained")
        self._metaapi_websocket_client = ws = api._metaapi_websocket_client
        self._terminal_hash_manager = api._terminal_hash_manager
        self.asked = 0

        async def get_url(*_: object) -> str:
            return "https://client"

        async def request(*_: object) -> Any:
            self.asked += 1
            return answers[min(self.asked, len(answers)) - 1]

        ws._domain_client.get_url = get_url
        ws._domain_client._http_client.request = request


LISTS = {
    "g1": {"specification": ["description"], "position": [], "order": []},
    "g2": {"specification": ["pipSize", "description"], "position": [], "order": []},
}


async def test_lists_are_fetched_once_an_hour(
    sdk: Any, ports: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And at their first use."""
    api: Any = Api(sdk, [LISTS])
    hashes = SpecificationHash(api, token=sdk_token(), clock=ports.clock)
    first = await hashes.of([{"symbol": "EURUSD", "pipSize": 1}], SERVER)
    assert await hashes.of([{"symbol": "EURUSD", "pipSize": 2}], SERVER) == first
    assert api.asked == 1
    monkeypatch.setattr(specifications, "LISTS_SECONDS", -1.0)
    await hashes.of([{"symbol": "EURUSD"}], SERVER)
    assert api.asked == 2


@pytest.mark.parametrize(
    ("answer", "generation"),
    [("<html>", "cloud-g2"), ({"g2": 3}, "cloud-g2"), (LISTS, "cloud-g9"), ({}, "cloud-g1")],
)
async def test_lists_that_cannot_be_used_are_refused(
    sdk: Any, ports: Any, answer: Any, generation: str
) -> None:
    """As any other failure they leave specifications to be sent."""
    api: Any = Api(sdk, [answer])
    hashes = SpecificationHash(api, token=sdk_token(), clock=ports.clock)
    kind = TerminalKind(server="Server", generation=generation, region=REGION)
    with pytest.raises(MalformedAnswer):
        await hashes.of([{"symbol": "EURUSD"}], kind)


async def test_a_large_server_is_hashed_a_slice_at_a_time(sdk: Any, ports: Any) -> None:
    """Everything else goes on meanwhile."""
    api: Any = Api(sdk, [LISTS])
    hashes = SpecificationHash(api, token=sdk_token(), clock=ports.clock)
    sessions = [{"from": str(n)} for n in range(40)]
    items = [{"symbol": f"S{n}", "sessions": sessions} for n in range(300)]
    hashing = asyncio.ensure_future(hashes.of(items, SERVER))
    turns = 0
    while not hashing.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert turns > 5
    assert len(hashing.result()) == 32


def sdk_token() -> Any:
    """Return a token that opens nothing."""
    return Secret("a.b.c")
