"""The containments that spare work, sockets and requests: plain SDK and contained, side by side."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from metaapi_cloud_sdk import SynchronizationListener

from brokerd.sandbox.server import SandboxSettings, running_sandbox

REGION = "vint-hill"
KINDS = ("plain", "contained")

Make = Callable[..., Any]


@pytest.mark.parametrize(("kind", "is_answered"), [("plain", False), ("contained", True)])
async def test_a12_who_gives_up_asking_for_the_server_blocks_nobody(
    sdk: Any, *, kind: str, is_answered: bool
) -> None:
    """The second caller gets the address although the first was cancelled while it asked."""
    domain_client = sdk.api(kind)._metaapi_websocket_client._domain_client

    async def answer(_options: object) -> httpx.Response:
        await asyncio.sleep(0.05)
        body = {"domain": "example.org", "hostname": "mt"}
        return httpx.Response(200, json=body, request=httpx.Request("GET", "https://x"))

    domain_client._http_client._make_request = answer
    first = asyncio.ensure_future(domain_client.get_settings())
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait({first})
    second = asyncio.ensure_future(domain_client.get_settings())
    await asyncio.wait({second}, timeout=0.5)
    assert second.done() is is_answered
    second.cancel()
    await asyncio.wait({second})


async def test_b14_forgetting_old_synchronizations_survives_finding_some(sdk: Any) -> None:
    """The plain SDK's job dies of the first one it forgets."""
    now = datetime.now(UTC).timestamp()
    for kind in KINDS:
        ws = sdk.api(kind)._metaapi_websocket_client
        ws._synchronization_hashes = {
            "old": {"lastUpdated": now - 3600},
            "older": {"lastUpdated": now - 7200},
            "new": {"lastUpdated": now},
        }
        if kind == "plain":
            with pytest.raises(RuntimeError):
                ws._clear_inactive_sync_data_job()
        else:
            ws._clear_inactive_sync_data_job()
            assert list(ws._synchronization_hashes) == ["new"]


@pytest.mark.parametrize(("kind", "sockets"), [("plain", 3), ("contained", 1)])
async def test_b18_no_socket_measures_latency(sdk: Any, kind: str, sockets: int) -> None:
    """The plain SDK opens the two instances and one more to measure; we open the one in use."""
    async with running_sandbox(SandboxSettings(accounts=1)) as sandbox:
        handshakes: list[str] = []
        opened = sandbox.sockets._open

        def count(request: Any, **how: Any) -> Any:
            handshakes.append(request.path)
            return opened(request, **how)

        sandbox.sockets._open = count  # type: ignore[method-assign]  # the sandbox counts none
        sdk.api(kind, sandbox.url)
        (account_id,) = sandbox.broker.accounts
        await sdk.connection(kind, sandbox.url, account_id).connect()
        await asyncio.sleep(1)
        assert len(handshakes) == sockets


@pytest.mark.parametrize("kind", KINDS)
async def test_b19_no_request_stands_before_a_synchronization(sdk: Any, kind: str) -> None:
    """The plain SDK fetches the fields to leave out of hashes; we hash nothing."""
    async with running_sandbox(SandboxSettings(accounts=1)) as sandbox:
        api = sdk.api(kind, sandbox.url)
        http_client = api._metaapi_websocket_client._domain_client._http_client
        make, asked = http_client._make_request, []

        async def spy(options: Any) -> Any:
            asked.append(options["url"])
            return await make(options)

        http_client._make_request = spy
        (account_id,) = sandbox.broker.accounts
        await sdk.connection(kind, sandbox.url, account_id).connect()
        await asyncio.sleep(0.7)
        assert bool(asked) is (kind == "plain")


async def test_b21_requests_go_over_the_nodes_client_to_the_configured_server(sdk: Any) -> None:
    """The socket's host name is asked from the configured provisioning service, with the token."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"domain": "example.org", "hostname": "mt-client"})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    sdk._ports = replace(sdk._ports, http=http)
    ws = sdk.api("contained", "http://127.0.0.1:7")._metaapi_websocket_client
    ws.set_url(None)
    settings = await ws.get_url_settings(1, "london")
    assert settings["url"] == "https://mt-client.london-b.example.org"
    (request,) = asked
    assert str(request.url) == "http://127.0.0.1:7/users/current/servers/mt-client-api"
    assert "auth-token" in request.headers


class Specifications(SynchronizationListener):
    """Counts what it is told of specifications."""

    def __init__(self) -> None:
        super().__init__()
        self.packets = 0
        self.symbols = 0

    async def on_symbol_specifications_updated(
        self, _index: str, specifications: list[object], _removed: list[object]
    ) -> None:
        """Count."""
        self.packets += 1
        self.symbols += len(specifications)


async def test_a14_what_nobody_reads_is_not_decoded(sdk: Any) -> None:
    """The packet of the specifications passes, in its place in the order, without them."""
    heard = {}
    async with running_sandbox(SandboxSettings(accounts=1)) as sandbox:
        (account_id,) = sandbox.broker.accounts
        for kind in KINDS:
            ws = sdk.api(kind, sandbox.url)._metaapi_websocket_client
            connection = sdk.connection(kind, sandbox.url, account_id)
            heard[kind] = listener = Specifications()
            ws.add_synchronization_listener(account_id, listener)
            await connection.connect()
            await connection.wait_synchronized({"timeoutInSeconds": 10})
    assert heard["plain"].symbols == 20
    assert heard["contained"].packets == heard["plain"].packets > 0
    assert heard["contained"].symbols == 0


async def test_times_stay_text_until_they_are_read(sdk: Any) -> None:
    """A bad date spoils nothing; a packet's own stamp can be compared however it was sent."""
    convert = sdk.api("contained")._metaapi_websocket_client._convert_iso_time_to_date
    packet = {
        "sequenceTimestamp": "2026-11-21T10:00:00.500Z",
        "deals": [{"time": "soon", "doneTime": "2026-11-21T10:00:00.000Z"}],
    }
    convert(packet)
    stamp = datetime(2026, 11, 21, 10, tzinfo=UTC) + timedelta(milliseconds=500)
    assert packet == {
        "sequenceTimestamp": stamp.timestamp() * 1000,
        "deals": [{"time": "soon", "doneTime": "2026-11-21T10:00:00.000Z"}],
    }


async def test_b4_leaving_is_brief(sdk: Any) -> None:
    """Nothing is said to a socket that is down, and none is opened to say it."""
    connection = None
    api = sdk.api("contained")
    connection = sdk.connection("contained", "http://127.0.0.1:9", "acc")
    await connection.connect()
    await asyncio.sleep(0.05)
    async with asyncio.timeout(1):
        await connection.close()
    assert not api._metaapi_websocket_client._subscription_manager.is_subscription_active("acc")
