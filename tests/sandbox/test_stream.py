"""The stream shows the truth: subscriptions, synchronizations, updates, requests."""

import asyncio
import ssl
from asyncio import sslproto
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest

from brokerd.sandbox import wire
from brokerd.sandbox.eio_socket import Socket
from brokerd.sandbox.facts import ConnectionStatus, ProvisioningState
from brokerd.sandbox.habits import Past
from brokerd.sandbox.server import SandboxSettings, running_sandbox
from brokerd.sandbox.stream import StreamSettings
from brokerd.sandbox.symbols import ServerSpec

Connect = Callable[..., AbstractAsyncContextManager[Any]]

QUIET = SandboxSettings(deals_per_account_minute=0)
NOBODY = "00000000-0000-4000-8000-000000000000"


async def test_a_subscription_is_acknowledged_and_greeted(connect: Connect) -> None:
    """The ack comes first, then who answers, with the client's session id, then the status."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        await client.subscribe(account.metaapi_id)
        await client.until(lambda: len(client.packets) == 2)
        greeting, status = client.packets
        assert greeting == {
            "type": "authenticated",
            "accountId": account.metaapi_id,
            "instanceIndex": 0,
            "host": "sandbox-a-1",
            "replicas": 1,
            "sessionId": "s" * 32,
        }
        assert (status["type"], status["connected"]) == ("status", True)
        assert "sequenceNumber" not in status


async def test_every_stream_that_is_begun_is_counted(connect: Connect) -> None:
    """A second request on the same socket begins nothing; one on another socket does."""
    async with running_sandbox(QUIET) as sandbox:
        account = sandbox.add_account()
        async with connect(sandbox) as client:
            await client.subscribe(account.metaapi_id)
            await client.subscribe(account.metaapi_id)
            await client.until(lambda: len(client.packets) == 4)
            assert sandbox.stream.opened == {account.metaapi_id: 1}
        async with connect(sandbox) as client:
            await client.subscribe(account.metaapi_id)
            await client.until(lambda: len(client.packets) == 2)
        assert sandbox.stream.opened == {account.metaapi_id: 2}


async def test_the_second_instance_of_a_regular_account_is_only_acknowledged(
    connect: Connect,
) -> None:
    """A client may subscribe to the terminal that does not exist; nothing ever comes from it."""
    settings = SandboxSettings(
        deals_per_account_minute=0, stream=StreamSettings(status_seconds=0.1)
    )
    async with running_sandbox(settings) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        await client.subscribe(account.metaapi_id, instance=1)
        sandbox.market.trade(account)
        await client.read_for(0.4)
        assert client.packets == []


async def test_both_terminals_of_a_reliable_account_stream(connect: Connect) -> None:
    """Each instance has a complete stream of its own, with its own sequence and host."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account(reliability="high")
        for instance in (0, 1):
            await client.synchronize(account.metaapi_id, instance=instance)
        made = sandbox.market.trade(account)
        await client.until(lambda: len(client.of("update")) == 2)
        first, second = client.of("update")
        assert first["deals"] == second["deals"]
        assert len(first["deals"]) == made
        assert {first["instanceIndex"], second["instanceIndex"]} == {0, 1}
        assert {first["host"], second["host"]} == {"sandbox-a-1", "sandbox-b-1"}
        assert all(packet["replicas"] == 2 for packet in client.of("authenticated"))


async def test_a_synchronization_follows_the_documented_order(connect: Connect) -> None:
    """Every packet carries the synchronization id and the next number; times never go back."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account(past=Past(deals=30, positions=2))
        packets = await client.synchronize(account.metaapi_id, request_id="sync-1")
        assert [packet["type"] for packet in packets] == [
            "synchronizationStarted",
            "specifications",
            "accountInformation",
            "positions",
            "orders",
            "historyOrders",
            "orderSynchronizationFinished",
            "deals",
            "dealSynchronizationFinished",
        ]
        assert [packet["sequenceNumber"] for packet in packets] == list(range(9))
        stamps = [packet["sequenceTimestamp"] for packet in packets]
        assert stamps == sorted(set(stamps))
        assert {packet["synchronizationId"] for packet in packets} == {"sync-1"}
        by_type = {packet["type"]: packet for packet in packets}
        assert by_type["accountInformation"]["accountInformation"] == msgspec.json.decode(
            wire.account_information(account)
        )
        assert len(by_type["positions"]["positions"]) == 2
        assert [deal["id"] for deal in by_type["deals"]["deals"]] == [
            deal.ticket for deal in account.deals()
        ]
        again = await client.synchronize(account.metaapi_id, request_id="sync-2")
        assert again[0]["sequenceNumber"] == 0
        assert again[0]["sequenceTimestamp"] > stamps[-1]


async def test_history_starts_at_the_asked_time_inclusive(connect: Connect) -> None:
    """A deal at exactly startingDealTime is sent, an earlier one is not."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account(past=Past(deals=20))
        middle = account.deals()[10]
        packets = await client.synchronize(
            account.metaapi_id,
            startingDealTime=wire.iso_time(middle.time),
            startingHistoryOrderTime=wire.iso_time(sandbox.broker.now()),
        )
        sent = [deal["id"] for packet in packets for deal in packet.get("deals", ())]
        assert sent == [deal.ticket for deal in account.deals()[10:]]
        assert "historyOrders" not in {packet["type"] for packet in packets}


async def test_specifications_are_spared_when_the_client_has_them(connect: Connect) -> None:
    """One matching hash among the client's, and its index replaces the specifications."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        ours = sandbox.stream.views.specifications(account.server).hash
        packets = await client.synchronize(
            account.metaapi_id, specificationsHashes=["0" * 32, ours]
        )
        assert packets[0]["specificationsHashIndex"] == 1
        assert "specifications" not in {packet["type"] for packet in packets}
        packets = await client.synchronize(account.metaapi_id, specificationsHashes=["0" * 32])
        assert "specificationsHashIndex" not in packets[0]
        assert "specifications" in {packet["type"] for packet in packets}


async def test_no_frame_reaches_the_clients_limit(connect: Connect) -> None:
    """A long history is cut into frames below 4 MiB, and none of it is lost."""
    settings = SandboxSettings(deals_per_account_minute=0, server=ServerSpec(symbols=240))
    async with running_sandbox(settings) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account(past=Past(deals=12_000, days=300))
        packets = await client.synchronize(account.metaapi_id)
        chunks = [packet["deals"] for packet in packets if packet["type"] == "deals"]
        assert len(chunks) > 1
        assert sum(map(len, chunks)) == 12_000
        assert client.largest_frame_bytes < 4 * 1024 * 1024


async def test_a_trade_is_streamed_at_once_and_in_sequence(connect: Connect) -> None:
    """Each change becomes one update with the next number; quiet changes become none."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        packets = await client.synchronize(account.metaapi_id)
        before = {deal.deal_id for deal in account.deals()}
        sandbox.market.trade(account, deals=10)
        made = [deal.ticket for deal in account.deals() if deal.deal_id not in before]
        account.delete(account.deals()[3].deal_id)
        await client.until(lambda: len(client.deal_ids()) == len(made))
        assert sorted(client.deal_ids()) == sorted(made)
        numbers = [packet["sequenceNumber"] for packet in client.of("update")]
        last = packets[-1]["sequenceNumber"]
        assert numbers == list(range(last + 1, last + 1 + len(numbers)))


async def test_nothing_is_streamed_before_the_first_synchronization(connect: Connect) -> None:
    """A subscriber that did not synchronize has no sequence, so it gets no updates."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        await client.subscribe(account.metaapi_id)
        sandbox.market.trade(account)
        await client.read_for(0.2)
        assert client.of("update") == []


async def test_an_unsubscribed_client_hears_no_more(connect: Connect) -> None:
    """Unsubscribe is acknowledged and ends the packets; doing it twice is no error."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        await client.synchronize(account.metaapi_id)
        for _ in range(2):
            answer = await client.ask("unsubscribe", account.metaapi_id, instanceIndex=0)
            assert answer["type"] == "response"
        sandbox.market.trade(account)
        await client.read_for(0.2)
        assert client.of("update") == []


async def test_the_status_beats_at_its_period(connect: Connect) -> None:
    """One scheduler beats for all subscribers."""
    settings = SandboxSettings(
        deals_per_account_minute=0, stream=StreamSettings(status_seconds=0.3)
    )
    async with running_sandbox(settings) as sandbox, connect(sandbox) as client:
        accounts = [sandbox.add_account().metaapi_id for _ in range(3)]
        for account_id in accounts:
            await client.subscribe(account_id)
        await client.until(lambda: len(client.of("status")) >= 12)
        beats = [packet["accountId"] for packet in client.of("status")]
        assert all(beats.count(account_id) >= 3 for account_id in accounts)


async def test_quotes_come_for_the_symbols_of_open_positions(connect: Connect) -> None:
    """They are off by default, and in sequence when on."""
    settings = SandboxSettings(deals_per_account_minute=0, stream=StreamSettings(quote_seconds=0.1))
    async with running_sandbox(settings) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account(past=Past(deals=20, positions=2))
        packets = await client.synchronize(account.metaapi_id)
        await client.until(lambda: len(client.of("prices")) == 2)
        quoted = {price["symbol"] for price in client.of("prices")[0]["prices"]}
        assert quoted == {position.symbol for position in account.positions.values()}
        assert client.of("prices")[0]["sequenceNumber"] == packets[-1]["sequenceNumber"] + 1


@pytest.mark.parametrize(
    "status", [ConnectionStatus.DISCONNECTED, ConnectionStatus.DISCONNECTED_FROM_BROKER]
)
async def test_a_terminal_that_is_not_up_cannot_be_subscribed(
    connect: Connect, status: ConnectionStatus
) -> None:
    """The answer is the timeout that MetaApi gives whatever the reason is."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        account.set_connection(status)
        answer = await client.ask("subscribe", account.metaapi_id, instanceIndex=0)
        assert answer["error"] == "TimeoutError"
        assert "not connected to broker yet" in answer["message"]


async def test_an_undeployed_terminal_says_goodbye(connect: Connect) -> None:
    """Subscribers get `disconnected`, then nothing, until they subscribe again."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        await client.synchronize(account.metaapi_id)
        account.set_state(ProvisioningState.UNDEPLOYING)
        await client.until(lambda: client.types()[-1] == "disconnected")
        account.set_state(ProvisioningState.DEPLOYED)
        sandbox.market.trade(account)
        await client.read_for(0.2)
        assert client.types()[-1] == "disconnected"
        assert await client.synchronize(account.metaapi_id)


async def test_what_a_terminal_missed_is_streamed_when_its_broker_is_back(connect: Connect) -> None:
    """While the broker is away the status says so; then the missed deals come, in order."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        await client.synchronize(account.metaapi_id)
        account.set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)
        await client.until(lambda: client.of("status")[-1]["connected"] is False)
        known = {deal.deal_id for deal in account.deals()}
        sandbox.market.trade(account, deals=5)
        await client.read_for(0.2)
        assert client.of("update") == []
        account.set_connection(ConnectionStatus.CONNECTED)
        made = [deal.ticket for deal in account.deals() if deal.deal_id not in known]
        await client.until(lambda: len(client.deal_ids()) == len(made))
        assert sorted(client.deal_ids()) == sorted(made)
        assert client.of("status")[-1]["connected"] is True


async def test_reads_over_the_socket_show_the_truth(connect: Connect) -> None:
    """The requests of RPC connections are answered from the same truth."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account(past=Past(deals=20, positions=2))
        account_id, deals = account.metaapi_id, account.deals()
        position_id, record = next(iter(account.positions.items()))

        async def field(type: str, name: str, **fields: object) -> Any:  # noqa: A002
            return (await client.ask(type, account_id, **fields))[name]

        information = msgspec.json.decode(wire.account_information(account))
        assert await field("getAccountInformation", "accountInformation") == information
        assert len(await field("getPositions", "positions")) == 2
        position = await field("getPosition", "position", positionId=position_id)
        assert position == msgspec.json.decode(wire.position(record, account=account))
        assert await field("getOrders", "orders") == []
        span = {
            "startTime": wire.iso_time(deals[5].time),
            "endTime": wire.iso_time(deals[15].time),
        }
        page = await field("getDealsByTimeRange", "deals", **span, offset=2, limit=3)
        assert [deal["id"] for deal in page] == [deal.ticket for deal in deals[7:10]]
        by_ticket = await field("getDealsByTicket", "deals", ticket=deals[4].ticket)
        assert [deal["id"] for deal in by_ticket] == [deals[4].ticket]
        by_position = await field("getDealsByPosition", "deals", positionId=position_id)
        assert {deal["positionId"] for deal in by_position} == {position_id}
        orders = await field("getHistoryOrdersByPosition", "historyOrders", positionId=position_id)
        assert {order["positionId"] for order in orders} == {position_id}
        symbols = await field("getSymbols", "symbols")
        assert symbols == list(account.server.specs)
        for kind, name in (
            ("getSymbolSpecification", "specification"),
            ("getSymbolPrice", "price"),
        ):
            answer = await field(kind, name, symbol=symbols[0])
            assert answer["symbol"] == symbols[0]
        assert "brokerTime" in await field("getServerTime", "serverTime")
        for kind in ("refreshMarketDataSubscriptions", "waitSynchronized", "saveUptime"):
            assert (await client.ask(kind, account_id))["type"] == "response"


@pytest.mark.parametrize(
    ("type", "fields", "error"),
    [
        ("getPosition", {"positionId": "1"}, "NotFoundError"),
        ("getSymbolPrice", {"symbol": "NOPE"}, "NotFoundError"),
        ("trade", {"trade": {"actionType": "ORDER_TYPE_BUY"}}, "TradeError"),
        ("guess", {}, "ValidationError"),
        ("guess", {"symbol": "EURGBP"}, "ValidationError"),
        ("subscribe", {"instanceIndex": 2}, "ValidationError"),
        ("synchronize", {"instanceIndex": 0}, "NotAuthenticatedError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_answered_is_refused(
    connect: Connect,
    type: str,  # noqa: A002
    fields: dict[str, object],
    error: str,
) -> None:
    """The error's class is the one that the SDK turns into an exception."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        account = sandbox.add_account()
        answer = await client.ask(type, account.metaapi_id, **fields)
        assert answer["error"] == error


async def test_an_unknown_account_is_not_found(connect: Connect) -> None:
    """Any request for it says so."""
    async with running_sandbox(QUIET) as sandbox, connect(sandbox) as client:
        assert (await client.ask("subscribe", NOBODY))["error"] == "NotFoundError"


async def test_a_dropped_client_leaves_nothing_behind(connect: Connect) -> None:
    """Its subscriptions go with it, and the truth can change without a listener."""
    async with running_sandbox(QUIET) as sandbox:
        account = sandbox.add_account()
        async with connect(sandbox) as client:
            await client.synchronize(account.metaapi_id)
            assert len(sandbox.stream.registry) == 1
            sandbox.drop_sockets()
            with pytest.raises(EOFError):
                await client.read_for(5)
        assert len(sandbox.stream.registry) == 0
        sandbox.market.trade(account)


@pytest.mark.parametrize("closes", [0, 1, 2])
async def test_a_tls_client_is_cut_however_often_it_was_closed(closes: int) -> None:
    """On CPython 3.11.2 the TLS transport itself fails when it is aborted after two closes."""
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context()
    protocol = sslproto.SSLProtocol(loop, asyncio.Protocol(), context, loop.create_future())
    socket = Socket(sid="a", client_id=None, token="t", now=0.0)
    socket.transport = protocol._get_app_transport()
    for _ in range(closes):
        socket.transport.close()
    socket.abort()
    assert not socket.is_open
    assert socket.transport.is_closing()
