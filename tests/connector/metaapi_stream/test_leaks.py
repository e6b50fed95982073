"""What the SDK leaves behind of what ended: in the plain one it stays, in the contained it goes."""

import asyncio
import gc
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metaapi_cloud_sdk import MetaApi
from metaapi_cloud_sdk.metaapi.streaming_metaapi_connection import StreamingMetaApiConnection
from prometheus_client import CollectorRegistry
from stream_accounts import REGION

from brokerd.connector.metaapi_stream.calls import Calls
from brokerd.connector.metaapi_stream.dismantle import dismantle
from brokerd.connector.metaapi_stream.overrides.leaks import (
    _InstancesByAccount,
    find_accounts_quickly,
)
from brokerd.connector.ports import Synchronized
from brokerd.sandbox.server import SandboxSettings, running_sandbox
from brokerd.telemetry import Metrics

KINDS = ("plain", "contained")
NOWHERE = "http://127.0.0.1:9"
QUIET = SandboxSettings(deals_per_account_minute=0)
CYCLES = int(os.environ.get("BROKERD_CYCLES", "60"))
CYCLE_BYTES = 5_000
"""What a cycle may leave behind, beside what is filled once."""
ONCE_BYTES = 4_000_000

Make = Callable[..., Any]


async def settle(seconds: float = 0.05) -> None:
    """Let what was started or cancelled happen."""
    await asyncio.sleep(seconds)


def running(name: str) -> int:
    """Count the tasks that run a coroutine of that name."""
    coroutines = (task.get_coro() for task in asyncio.all_tasks())
    return sum(name in each.__qualname__ for each in coroutines)


@pytest.mark.parametrize(("kind", "is_ended"), [("plain", False), ("contained", True)])
@pytest.mark.parametrize("ends", ["on_reconnected", "on_stream_closed"])
async def test_a15_a_sessions_timers_end_with_it(
    sdk: Any, *, kind: str, is_ended: bool, ends: str
) -> None:
    """The two-minute timer of a session that ended would ask the next one to begin again."""
    sdk.api(kind)
    connection = sdk.connection(kind, NOWHERE, "acc")._meta_api_connection
    index = f"{REGION}:0:host"
    state = connection._get_state(index)
    state["shouldSynchronize"] = "key"
    connection._schedule_synchronization_timeout(index)
    timer = state["synchronizationTimeout"]
    if ends == "on_reconnected":
        await connection.on_reconnected(REGION, 0)
    else:
        await connection.on_stream_closed(index)
    await settle()
    assert timer.cancelled() is is_ended
    timer.cancel()


@pytest.mark.parametrize(("kind", "jobs"), [("plain", 3), ("contained", 0)])
async def test_b1_a_connection_starts_no_endless_task(sdk: Any, kind: str, jobs: int) -> None:
    """The plain SDK's cannot be ended, and keep every connection ever made."""
    sdk.api(kind)
    before = len(asyncio.all_tasks())
    usual = asyncio.get_running_loop().get_task_factory()
    sdk.connection(kind, NOWHERE, "acc")
    await settle()
    assert len(asyncio.all_tasks()) - before == jobs
    assert asyncio.get_running_loop().get_task_factory() is usual


@pytest.mark.parametrize("kind", KINDS)
async def test_b2_b3_b30_nothing_is_kept_of_an_account_that_left(sdk: Any, kind: str) -> None:
    """Three times open and closed: reconnect listeners, lists, instances and flags."""
    async with running_sandbox(QUIET) as sandbox:
        account_id = sandbox.add_account().metaapi_id
        ws = sdk.api(kind, sandbox.url)._metaapi_websocket_client
        for _ in range(3):
            connection = sdk.connection(kind, sandbox.url, account_id)
            await connection.connect()
            await connection.wait_synchronized({"timeoutInSeconds": 10})
            await sdk.leave(kind, sandbox.url, connection)
        kept = {
            "reconnect listeners": len(ws._reconnect_listeners),
            "listeners": len(ws._synchronization_listeners),
            "instances": len(ws._latency_service._connected_instances_cache),
            "hosts": len(ws._connected_hosts),
            "synchronizations": len(ws._synchronization_id_by_instance),
            "order": len(ws._packet_orderer._sequence_number_by_instance),
            "timers": len(ws._status_timers),
        }
    assert all(kept.values()) is (kind == "plain")
    assert any(kept.values()) is (kind == "plain")


@pytest.mark.parametrize(("kind", "is_closed"), [("plain", False), ("contained", True)])
async def test_b5_a_connection_closes_before_it_has_a_socket(
    sdk: Any, *, kind: str, is_closed: bool
) -> None:
    """The plain SDK fails with a `KeyError` and leaves everything open."""
    sdk.api(kind)
    connection = sdk.connection(kind, NOWHERE, "acc")
    await connection.connect()
    if is_closed:
        await sdk.leave(kind, NOWHERE, connection)
    else:
        with pytest.raises(KeyError):
            await sdk.leave(kind, NOWHERE, connection)
    assert connection._meta_api_connection._closed is is_closed


@pytest.mark.parametrize(("kind", "subscriptions"), [("plain", 2), ("contained", 0)])
async def test_b34_a_connection_that_closes_at_once_subscribes_to_nothing(
    sdk: Any, kind: str, subscriptions: int
) -> None:
    """The plain SDK's subscription begins after the close, and goes on for ever."""
    ws = sdk.api(kind)._metaapi_websocket_client
    connection = sdk.connection(kind, NOWHERE, "acc")
    await connection.connect()
    with suppress(KeyError):  # B5
        await sdk.leave(kind, NOWHERE, connection)
    await settle()
    assert len(ws._subscription_manager._subscriptions) == subscriptions
    assert bool(ws._subscription_manager._subscription_state) is bool(subscriptions)


@pytest.mark.parametrize(("kind", "listeners"), [("plain", 4), ("contained", 0)])
async def test_b6_a_connection_that_never_connected_goes(
    sdk: Any, kind: str, listeners: int
) -> None:
    """The plain SDK closes nothing that was not opened, and forgets nothing of it."""
    ws = sdk.api(kind)._metaapi_websocket_client
    connection = sdk.connection(kind, NOWHERE, "acc")
    await sdk.leave(kind, NOWHERE, connection)
    assert len(ws._synchronization_listeners.get("acc", ())) == listeners
    assert bool(ws._meta_api._connection_registry.streaming_connections) is bool(listeners)


@pytest.mark.parametrize(("kind", "loops"), [("plain", 3), ("contained", 1)])
async def test_b13_a_reconnect_leaves_no_loop_behind(sdk: Any, kind: str, loops: int) -> None:
    """Twice cut, the plain SDK has three read loops of which two wait for the next."""
    async with running_sandbox(QUIET) as sandbox:
        account_id = sandbox.add_account().metaapi_id
        sdk.api(kind, sandbox.url)
        await sdk.connection(kind, sandbox.url, account_id).connect()
        sockets = 1 if kind == "contained" else 2
        for _ in range(2):
            async with asyncio.timeout(5):
                while len(sandbox.sockets.sockets) < sockets:
                    await settle()
            await settle(0.3)
            sandbox.drop_sockets()
            await settle(1.5)  # the SDK waits for one second
        async with asyncio.timeout(5):
            while len(sandbox.sockets.sockets) < sockets:
                await settle()
        await settle(0.3)
        assert running("_read_loop_websocket") == loops * sockets


@pytest.mark.parametrize(("kind", "kept"), [("plain", {"ghost", "old"}), ("contained", set())])
async def test_b15_a_ghost_does_not_keep_the_old_accounts(
    sdk: Any, kind: str, kept: set[str]
) -> None:
    """The job that forgets accounts after two hours stumbles over one that nobody asked for."""
    ws = sdk.api(kind)._metaapi_websocket_client
    ws.add_account_cache("served", {REGION: "served"})
    ws.add_account_cache("old", {REGION: "old"})
    ws.remove_account_cache("old")
    ws._regions_by_accounts = {
        "ghost": {"region": REGION, "connections": 0, "lastUsed": 0.0},
        **ws._regions_by_accounts,
    }
    ws._regions_by_accounts["old"]["lastUsed"] = 0.0
    ws._clear_account_cache_job()
    assert set(ws._regions_by_accounts) == kept | {"served"}
    assert set(ws._account_replicas) == (kept & {"old"}) | {"served"}


async def test_b15_a_served_account_is_never_forgotten(sdk: Any) -> None:
    """However long it said nothing."""
    ws = sdk.api("contained")._metaapi_websocket_client
    await sdk.connection("contained", NOWHERE, "acc").connect()
    ws._regions_by_accounts["acc"]["lastUsed"] = 0.0
    ws._clear_account_cache_job()
    assert ws.get_account_region("acc") == REGION


@pytest.mark.parametrize(("kind", "tasks"), [("plain", 3), ("contained", 0)])
async def test_b16_b22_an_account_that_is_not_found_leaves_no_task(
    sdk: Any, kind: str, tasks: int
) -> None:
    """Three such answers: three tasks that sleep for hours and then spoil a table."""
    ws = sdk.api(kind)._metaapi_websocket_client
    await sdk.connection(kind, NOWHERE, "acc").connect()
    for _ in range(3):
        ws._subscription_manager.refresh_account("acc")
    await settle()
    assert running("schedule_refresh") == tasks


class _MuteSocket:
    """A socket that is there and answers nothing."""

    async def emit(self, *_: object) -> None:
        return


@pytest.mark.parametrize(("kind", "places"), [("plain", 20), ("contained", 0)])
async def test_b25_who_gives_up_waiting_leaves_no_place(sdk: Any, kind: str, places: int) -> None:
    """Twenty subscriptions are cancelled before their answer."""
    ws = sdk.api(kind)._metaapi_websocket_client
    record = {"requestResolves": {}, "socket": _MuteSocket(), "instanceNumber": 0}
    ws.add_account_cache("acc", {REGION: "acc"})
    ws._socket_instances[REGION] = {0: [record]}
    ws._socket_instances_by_accounts[0] = {"acc": 0}
    request = {"type": "subscribe", "instanceIndex": 0}
    calls = [asyncio.ensure_future(ws._make_request("acc", 0, dict(request))) for _ in range(20)]
    await settle()
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert len(record["requestResolves"]) == places
    ws._socket_instances.clear()


@pytest.mark.parametrize("kind", KINDS)
async def test_b26_what_was_processed_is_let_go(
    sdk: Any, feed: Make, deal_listener: Make, kind: str
) -> None:
    """In the middle of a backlog of 200 packets half of the list is gone; there all is kept."""
    ws = sdk.api(kind)._metaapi_websocket_client
    packets, listener = feed(ws), deal_listener()
    ws.add_synchronization_listener("acc", listener)
    packets.start()
    for number in range(200):
        packets.deal(str(number))
    while len(listener.deals) < 100:  # noqa: ASYNC110  # to the very turn
        await asyncio.sleep(0)
    assert len(ws._event_queues["acc"]) == (201 if kind == "plain" else 100)
    async with asyncio.timeout(5):
        while len(listener.deals) < 200:  # noqa: ASYNC110  # likewise
            await asyncio.sleep(0)


def test_b30_instances_are_found_by_their_account() -> None:
    """The table answers for one account, and forgets it alone."""
    table = _InstancesByAccount()
    for instance in ("a:r:0:h", "a:r:1:h", "ab:r:0:h"):
        table[instance] = True
    table["a:r:0:h"] = False
    assert table.of("a") == ["a:r:0:h", "a:r:1:h"]
    table.forget("a")
    assert (table.of("a"), table) == ([], {"ab:r:0:h": True})


ACCOUNTS = st.sampled_from(["a", "b", "c", "d"])


@given(
    regions=st.dictionaries(ACCOUNTS, st.sampled_from([REGION, "london"])),
    places=st.dictionaries(ACCOUNTS, st.integers(0, 2)),
    hosts=st.sets(ACCOUNTS),
)
async def test_b30_quick_answers_are_the_sdks(
    regions: dict[str, str], places: dict[str, int], hosts: set[str]
) -> None:
    """Which accounts a socket has, and which of them are subscribed: as the SDK finds them."""
    found = []
    for kind in KINDS:
        api = MetaApi("a.b.c")
        ws = api._metaapi_websocket_client
        if kind == "contained":
            find_accounts_quickly(ws)
        ws._regions_by_accounts = {each: {"region": region} for each, region in regions.items()}
        ws._socket_instances_by_accounts = {0: dict(places)}
        ws._connected_hosts = {f"{each}:{REGION}:0:host": "host" for each in sorted(hosts)}
        found.append(
            [
                (
                    set(ws.subscribed_account_ids(0, index, REGION)),
                    set(ws.subscribed_account_ids(0, None, REGION)),
                    set(ws.get_assigned_accounts(0, index or 0, REGION)),
                )
                for index in (None, 0, 1, 2)
            ]
        )
        await dismantle(api, calls=Calls(metrics=Metrics(CollectorRegistry())))
    assert found[0] == found[1]


async def test_b31_no_file_is_written(
    streaming: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's own storage would keep a folder of every account's deals where we run."""
    monkeypatch.chdir(tmp_path)
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        watched = await ours.open(sandbox.add_account().metaapi_id)
        await watched.until(lambda: watched.of(Synchronized))
        await watched.session.close()
    assert os.listdir(tmp_path) == []  # noqa: PTH208  # pathlib may block


def resident_bytes() -> int:
    """Return the memory the process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def alive() -> Counter[type]:
    """Count the connections that still exist."""
    gc.collect()
    return Counter(type(each) for each in gc.get_objects())


@pytest.mark.timeout(300)
async def test_many_cycles_leave_nothing_behind(streaming: Make) -> None:
    """Open and close, ten accounts in turns: tasks, sockets and memory stay what they were.

    `BROKERD_CYCLES=1000` runs the thousand; the figures are in docs/sdk.md. No link becomes a
    canary: it would still ask how to hash, in vain here, when the sessions are long gone.
    """
    async with (
        running_sandbox(QUIET) as sandbox,
        streaming(sandbox, admissions_per_second=1000, canary_links=11) as ours,
    ):
        accounts = [sandbox.add_account().metaapi_id for _ in range(10)]

        async def cycle(account_id: str) -> None:
            watched = await ours.open(account_id)
            await watched.until(lambda: watched.of(Synchronized))
            await watched.session.close()
            await watched.until(lambda: watched.ended)

        for account_id in accounts:
            await cycle(account_id)
        connections = alive()[StreamingMetaApiConnection]
        before = (len(asyncio.all_tasks()), len(sandbox.sockets.sockets))
        memory = resident_bytes()
        for _ in range(CYCLES // len(accounts)):
            await asyncio.gather(*map(cycle, accounts))
        grown = resident_bytes() - memory
        for _ in range(50):  # the last ones end after their session has
            if len(asyncio.all_tasks()) == before[0]:
                break
            await asyncio.sleep(0.1)
        assert (len(asyncio.all_tasks()), len(sandbox.sockets.sockets)) == before
        assert alive()[StreamingMetaApiConnection] <= connections
        assert ours.stream.connections_made == len(accounts) + CYCLES
        told = f"{CYCLES} cycles: {before[0]} tasks, {before[1]} socket, {grown // 1024} kB grown"
        print(told)  # noqa: T201  # pytest -rP shows it
        assert grown <= ONCE_BYTES + CYCLES * CYCLE_BYTES
