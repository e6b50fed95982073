"""Sessions on the contained SDK over real sockets, against the sandbox."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from stream_accounts import account_of

from brokerd.connector.metaapi_stream import sdk as pinned
from brokerd.connector.ports import (
    BrokerStatus,
    Connected,
    DealSeen,
    Disconnected,
    Gap,
    Synchronized,
)
from brokerd.domain import MetaApiRef
from brokerd.errors import ConfigInvalid, InvalidRequest, LinkLost
from brokerd.sandbox.faults import Fault, FaultKind
from brokerd.sandbox.server import DEFAULT_TOKEN, Sandbox, SandboxSettings, running_sandbox
from brokerd.sandbox.stream import StreamSettings
from brokerd.sandbox.truth import TruthAccount

QUIET = SandboxSettings(deals_per_account_minute=0, stream=StreamSettings(status_seconds=0.5))

Run = Callable[..., Any]


def truth(account: TruthAccount) -> set[str]:
    """Return the ids of every deal the broker knows."""
    return {deal.deal_id for deal in account.deals()}


async def test_a_session_replays_then_follows(streaming: Run) -> None:
    """Connected, the deals of the asked span, Synchronized; then each new deal as it happens."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account = sandbox.add_account()
        before = truth(account)
        sandbox.market.trade(account, deals=3)
        recent = truth(account) - before
        watched = await ours.open(account.metaapi_id)
        await watched.until(lambda: watched.of(Synchronized))
        assert isinstance(watched.events[0], Connected)
        assert watched.of(BrokerStatus)[0].is_connected
        assert recent <= watched.deal_ids()
        sandbox.market.trade(account, deals=2)
        await watched.until(lambda: truth(account) - before <= watched.deal_ids(), seconds=2)


async def test_a_resynchronization_starts_at_the_acknowledged_time(streaming: Run) -> None:
    """What the ledger acknowledged is not sent again, save the overlap."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account = sandbox.add_account()
        sandbox.market.trade(account, deals=3)
        watched = await ours.open(account.metaapi_id)
        await watched.until(lambda: watched.of(Synchronized))
        watched.session.acknowledge(datetime.now(UTC) + timedelta(seconds=120))
        watched.events.clear()
        sandbox.drop_sockets()
        await watched.until(lambda: watched.of(Synchronized), seconds=15)
        assert watched.of(DealSeen) == []


@pytest.mark.parametrize("instance", [0, 1])
async def test_a_high_account_loses_no_deal_with_either_socket(
    streaming: Run, instance: int
) -> None:
    """One of two sockets is dropped once; 100 deals later all of them came by the stream."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account = sandbox.add_account(reliability="high")
        watched = await ours.open(account.metaapi_id, reliability="high")
        await watched.until(lambda: len(watched.of(Synchronized)) == 2)
        before = truth(account)
        drop(sandbox, instance=instance)
        await asyncio.sleep(1.5)  # the SDK reconnects it, and resets what it resets
        sandbox.market.trade(account, deals=50)
        await watched.until(lambda: len(watched.of(Synchronized)) == 3, seconds=15)
        sandbox.market.trade(account, deals=50)
        await watched.until(lambda: truth(account) - before <= watched.deal_ids())
        assert watched.of(Disconnected) == []
        assert len(watched.of(Connected)) == 1


async def test_a_regular_account_has_no_idle_socket_to_lose(streaming: Run, sdk: Any) -> None:
    """The plain SDK's idle socket takes its deals with it; ours was never opened."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account = sandbox.add_account()
        watched = await ours.open(account.metaapi_id)
        await watched.until(lambda: watched.of(Synchronized))
        assert len(sandbox.sockets.sockets) == 1
        sdk.api("plain", sandbox.url)
        plain = sdk.connection("plain", sandbox.url, account.metaapi_id)
        await plain.connect()
        await plain.wait_synchronized({"timeoutInSeconds": 10})
        drop(sandbox, instance=1)
        await asyncio.sleep(2.5)  # the SDK waits one second, connects, and resets
        before, known = truth(account), len(plain.history_storage.deals)
        sandbox.market.trade(account, deals=100)
        await watched.until(lambda: truth(account) - before <= watched.deal_ids())
        await asyncio.sleep(0.5)
        assert len(plain.history_storage.deals) == known
        assert watched.of(Disconnected) == []


def drop(sandbox: Sandbox, *, instance: int) -> None:
    """Cut the sockets that carry nothing but one instance."""
    for socket, streams in list(sandbox.stream.registry.sockets()):
        if {stream.instance_index for stream in streams} == {instance}:
            sandbox.sockets.drop(socket)


async def test_a_lost_socket_is_told_at_once_and_comes_back(streaming: Run) -> None:
    """Disconnected within a second, then Connected and Synchronized without our doing anything."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account = sandbox.add_account()
        watched = await ours.open(account.metaapi_id)
        await watched.until(lambda: watched.of(Synchronized))
        sandbox.drop_sockets()
        await watched.until(lambda: watched.of(Disconnected), seconds=1)
        missed = truth(account)
        sandbox.market.trade(account, deals=2)
        missed = truth(account) - missed
        await watched.until(lambda: len(watched.of(Synchronized)) == 2, seconds=15)
        kinds = [type(event) for event in watched.events]
        assert kinds.index(Disconnected) < len(kinds) - 1 - kinds[::-1].index(Connected)
        assert missed <= watched.deal_ids()


async def test_a_burst_after_a_synchronization_arrives_whole(streaming: Run) -> None:
    """Deals right behind the end of the replay, where the plain SDK swaps its queue."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        sandbox.faults.switch_on(Fault(kind=FaultKind.BURST_AFTER_SYNC, count=50, limit=1))
        account = sandbox.add_account()
        before = truth(account)
        watched = await ours.open(account.metaapi_id)
        await watched.until(lambda: watched.of(Synchronized))
        await watched.until(lambda: truth(account) - before <= watched.deal_ids(), seconds=2)
        assert len(truth(account) - before) >= 50


async def test_a_lost_packet_is_told_as_a_gap(
    streaming: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the missing number never comes the link is told to pull, and the SDK synchronizes."""
    monkeypatch.setattr("brokerd.connector.metaapi_stream.client.ORDERING_SECONDS", 0.5)
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account = sandbox.add_account()
        watched = await ours.open(account.metaapi_id)
        await watched.until(lambda: watched.of(Synchronized))
        before = truth(account)
        sandbox.faults.switch_on(Fault(kind=FaultKind.LOSE_PACKETS, limit=1))
        sandbox.market.trade(account, deals=1)
        sandbox.market.trade(account, deals=1)
        await watched.until(lambda: Gap(reason="sequence") in watched.events)
        await watched.until(lambda: truth(account) - before <= watched.deal_ids(), seconds=15)


async def test_a_link_is_opened_again_only_after_its_close(streaming: Run) -> None:
    """Close and open at once: the new session streams, and the old one has ended."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account = sandbox.add_account()
        for _ in range(3):
            watched = await ours.open(account.metaapi_id)
            await watched.until(lambda: watched.of(Synchronized))  # noqa: B023  # awaited here
            await watched.session.close()
            await watched.session.close()  # twice is once
            await watched.until(lambda: watched.ended)  # noqa: B023  # likewise
        assert [s for _, streams in sandbox.stream.registry.sockets() for s in streams] == []


async def test_a_link_may_move_to_another_region(streaming: Run) -> None:
    """The SDK remembers the first region it heard of; the session opened last counts."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account = sandbox.add_account()
        for region in ("london", "new-york"):
            watched = await ours.open(account.metaapi_id, region=region)
            await watched.until(lambda: watched.of(Synchronized))  # noqa: B023  # awaited here
            (client,) = ours.stream._clients.all
            assert client._ws.get_account_region(account.metaapi_id) == region
            await watched.session.close()


async def test_an_open_account_is_not_opened_twice(streaming: Run) -> None:
    """The SDK would give both the same connection; the second is refused."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account = sandbox.add_account()
        await ours.open(account.metaapi_id)
        with pytest.raises(LinkLost):
            await ours.open(account.metaapi_id)


async def test_a_cancelled_open_leaves_nothing_open(streaming: Run) -> None:
    """Whenever the opener goes away, the account can be opened again and has one stream."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account = sandbox.add_account()
        for seconds in (0.0, 0.001, 0.01):
            opening = asyncio.ensure_future(ours.open(account.metaapi_id))
            await asyncio.sleep(seconds)
            opening.cancel()
            await asyncio.wait({opening})
            if not opening.cancelled():
                await opening.result().session.close()
        watched = await ours.open(account.metaapi_id)
        await watched.until(lambda: watched.of(Synchronized))
        assert len([s for _, streams in sandbox.stream.registry.sockets() for s in streams]) == 1


async def test_everything_closes_in_bounded_time_with_a_mute_server(streaming: Run) -> None:
    """Ten sessions and then the whole stream give up their server within two seconds in all."""
    loop = asyncio.get_running_loop()
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        accounts = [sandbox.add_account().metaapi_id for _ in range(20)]
        watched = [await ours.open(account) for account in accounts]
        for each in watched:
            await each.until(lambda each=each: each.of(Synchronized))
        sandbox.faults.switch_on(Fault(kind=FaultKind.MUTE))
        began = loop.time()
        await asyncio.gather(*(each.session.close() for each in watched[:10]))
        await ours.stream.close()
        assert loop.time() - began < 2
        for each in watched:
            await each.until(lambda each=each: each.ended, seconds=1)
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert not [name for name in names if name.startswith("sdk-")]
        with pytest.raises(LinkLost):
            await ours.open(accounts[1])


async def test_an_unknown_token_name_is_refused(streaming: Run) -> None:
    """The name is told; there is no token to tell."""
    async with streaming("http://127.0.0.1:9") as ours:
        remote = MetaApiRef(token="other", account_id="a", region="london")
        with pytest.raises(InvalidRequest, match="other"):
            await ours.stream.open(
                remote, account=account_of("a"), synced_through=datetime.now(UTC)
            )


async def test_a_server_that_comes_late_is_reached(streaming: Run, free_port: int) -> None:
    """A session opened while the server is away streams once it is there."""
    async with streaming(f"http://127.0.0.1:{free_port}") as ours:
        settings = SandboxSettings(accounts=1, deals_per_account_minute=0, port=free_port)
        async with running_sandbox(settings) as sandbox:
            account_id = next(iter(sandbox.broker.accounts))
        watched = await ours.open(account_id)
        await asyncio.sleep(0.6)
        assert watched.events == []
        async with running_sandbox(settings) as again:
            assert account_id in again.broker.accounts  # the same seed makes the same broker
            await watched.until(lambda: watched.of(Synchronized))


async def test_no_token_reaches_the_log(streaming: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Not at DEBUG, not through the libraries below, not in a repr."""
    caplog.set_level(logging.DEBUG)
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        watched = await ours.open(sandbox.add_account().metaapi_id)
        await watched.until(lambda: watched.of(Synchronized))
        sandbox.drop_sockets()
        await watched.until(lambda: watched.of(Disconnected))
        assert DEFAULT_TOKEN not in repr((ours.stream, ours.stream._clients))
    assert caplog.records
    assert DEFAULT_TOKEN not in caplog.text


def test_another_sdk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version we do not contain, or a private name that is gone, stops the start."""
    monkeypatch.setitem(pinned.VERSIONS, "metaapi-cloud-sdk", "30.0.0")
    monkeypatch.setattr(pinned, "NAMES", {**pinned.NAMES, dict: ("_gone",)})
    with pytest.raises(ConfigInvalid) as refused:
        pinned.check_sdk()
    version, name, remedy = refused.value.problems
    assert version == "metaapi-cloud-sdk is 29.1.1; brokerd contains 30.0.0"
    assert "`_gone`" in name
    assert "docs/sdk.md" in remedy


async def test_the_stream_checks_the_sdk(monkeypatch: pytest.MonkeyPatch, streaming: Run) -> None:
    """No stream is made on an SDK that is not the one."""
    monkeypatch.setitem(pinned.VERSIONS, "python-socketio", "5.0.0")
    with pytest.raises(ConfigInvalid):
        async with streaming("http://127.0.0.1:9"):
            pass


async def test_tls_stays_verified(sdk: Any) -> None:
    """Nothing we override touches the verification of certificates."""
    ws = sdk.api("contained")._metaapi_websocket_client
    opening = asyncio.ensure_future(ws.connect(0, "london"))
    await asyncio.sleep(0.05)
    (instance,) = ws._socket_instances["london"][0]
    assert instance["socket"].eio.ssl_verify is True
    instance["socket"].connected = True
    await asyncio.wait_for(opening, 5)
