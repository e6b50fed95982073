"""What comes out of order, too late, or is asked for in vain: plain SDK and contained."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from brokerd.connector.ports import Disconnected, Synchronized
from brokerd.sandbox.server import SandboxSettings, running_sandbox

QUIET = SandboxSettings(deals_per_account_minute=0)
REQUESTS = {"subscribe", "synchronize", "unsubscribe"}

Make = Callable[..., Any]


@pytest.mark.parametrize(("kind", "is_told"), [("plain", False), ("contained", True)])
async def test_c_a_lost_packet_is_told_however_many_follow(
    sdk: Any, feed: Make, *, kind: str, is_told: bool
) -> None:
    """The plain SDK keeps a hundred behind it, and its patience begins anew with the youngest."""
    ws = sdk.api(kind)._metaapi_websocket_client
    ws._packet_orderer._ordering_timeout_in_seconds = 1.0
    told = []

    async def tell(account_id: str, *_: object) -> None:
        told.append(account_id)

    ws._packet_orderer._out_of_order_listener = type("Told", (), {"on_out_of_order_packet": tell})
    packets = feed(ws)
    packets.start()
    next(packets._numbers[0])  # lost
    for _ in range(25):
        for _ in range(12):  # a hundred in less than a second
            packets.deal("1")
        await asyncio.sleep(0.1)
        ws._packet_orderer._emit_out_of_order_events()
    assert bool(told) is is_told


@pytest.mark.parametrize(("kind", "delivered"), [("plain", []), ("contained", ["1"])])
async def test_c_the_end_of_an_older_synchronization_ends_nothing(
    sdk: Any, feed: Make, deal_listener: Make, kind: str, delivered: list[str]
) -> None:
    """The history of the running one, which comes behind it, is heard."""
    ws = sdk.api(kind)._metaapi_websocket_client
    packets, listener = feed(ws), deal_listener()
    ws.add_synchronization_listener("acc", listener)
    packets.start(sync="old")
    packets.start(sync="new")
    packets.finish(sync="old")
    packets.send("deals", synchronizationId="new", deals=[{"id": "1"}])
    await asyncio.sleep(0.05)
    assert listener.deals == delivered


async def test_a13_nothing_waits_for_an_instance_without_limit(streaming: Make) -> None:
    """In a whole life only requests are sent that the SDK does not hold back until then.

    B23, B24: and no connection is made that only requests.
    """
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        sent = set()
        serve = sandbox.stream._serve

        def note(socket: Any, request: Any) -> None:
            sent.add(request.type)
            serve(socket, request)

        sandbox.stream._serve = note  # type: ignore[method-assign]  # the sandbox keeps no list
        account = sandbox.add_account(reliability="high")
        watched = await ours.open(account.metaapi_id, reliability="high")
        await watched.until(lambda: len(watched.of(Synchronized)) == 2)
        sandbox.drop_sockets()
        await watched.until(lambda: watched.of(Disconnected))
        await watched.until(lambda: len(watched.of(Synchronized)) == 4, seconds=15)
        (client,) = ours.clients
        assert client._ws._latency_service._wait_connect_promises == {}
        assert client._api._connection_registry.rpc_connections == {}
        await watched.session.close()
    assert sent == REQUESTS


@pytest.mark.parametrize("kind", ["plain", "contained"])
async def test_a13_what_the_sdk_would_do(sdk: Any, kind: str) -> None:
    """Another request hangs in both kinds: that is why there is none."""
    ws = sdk.api(kind)._metaapi_websocket_client
    ws.add_account_cache("acc", {"vint-hill": "acc"})
    asking = asyncio.ensure_future(ws.get_server_time("acc"))
    await asyncio.sleep(0.1)
    assert not asking.done()
    asking.cancel()
    await asyncio.wait({asking})
