"""Overrides that make the SDK forget: what a connection started, and all it kept of an account."""
# ruff: noqa: SLF001  # the SDK has no public way to any of this; sdk.py checks the names

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, MutableMapping

from metaapi_cloud_sdk.clients.metaapi.metaapi_websocket_client import MetaApiWebsocketClient
from metaapi_cloud_sdk.metaapi.streaming_metaapi_connection import StreamingMetaApiConnection
from metaapi_cloud_sdk.metaapi.streaming_metaapi_connection_instance import (
    StreamingMetaApiConnectionInstance,
)

from brokerd.clock import Clock
from brokerd.connector.metaapi_stream.overrides.replacing import replace

SYNCHRONIZATION_SECONDS = 30 * 60.0
"""A synchronization that was not answered by then will not be."""
ACCOUNT_SECONDS = 2 * 3_600.0
"""How long an account that left is remembered, so that its late packets find their region."""


def make_without_jobs(
    make: Callable[[], StreamingMetaApiConnectionInstance],
) -> StreamingMetaApiConnectionInstance:
    """B1, B28: a connection is made without the endless tasks that its constructor starts.

    The one of its terminal state has no handle and keeps every connection ever made alive; those of
    its health monitor fill reservoirs. A constructor does not wait, so every task that is created
    meanwhile is one of these.
    """
    loop = asyncio.get_running_loop()
    usual = loop.get_task_factory()
    made: list[asyncio.Task[object]] = []

    def note(
        loop: asyncio.AbstractEventLoop, call: Coroutine[object, object, object], **how: object
    ) -> asyncio.Task[object]:
        task = asyncio.Task(call, loop=loop, **how)  # type: ignore[arg-type]  # asyncio's own
        made.append(task)
        return task

    loop.set_task_factory(note)  # type: ignore[arg-type]  # typeshed wants any awaitable
    try:
        connection = make()
    finally:
        loop.set_task_factory(usual)
        for task in made:
            task.cancel()
    return connection


def end_timers(connection: StreamingMetaApiConnection) -> None:
    """A15: the timers of a session end with it, and ask the next one for nothing.

    The SDK forgets a session's state, whose two-minute timer then looks at the state that followed.
    """
    reconnected, stream_closed = connection.on_reconnected, connection.on_stream_closed

    def end(is_ended: Callable[[str], bool]) -> None:
        states = connection._state_by_instance_index
        for index, state in states.items():
            for name in ("synchronizationTimeout", "ensureSynchronizeTimeout"):
                if is_ended(index) and (timer := state[name]) is not None:
                    timer.cancel()

    async def on_reconnected(region: str, instance_number: int) -> None:
        end(lambda index: index.startswith(f"{region}:{instance_number}:"))
        await reconnected(region, instance_number)

    async def on_stream_closed(instance_index: str) -> None:
        end(lambda index: index == instance_index)
        await stream_closed(instance_index)

    replace(connection, "on_reconnected", on_reconnected)
    replace(connection, "on_stream_closed", on_stream_closed)


def forget_account(ws: MetaApiWebsocketClient, account_id: str) -> None:
    """B2, B3, B6, B30: nothing of an account that left is kept, save its region for a while.

    The SDK keeps the second of its reconnect listeners, its list of listeners, and its instances,
    which each request goes through; and all of a connection that was never connected.
    """
    ws._meta_api._connection_registry.remove(account_id)
    ws._subscription_manager.cancel_account(account_id)
    ws._subscription_manager._subscription_state.pop(account_id, None)
    ws._synchronization_listeners.pop(account_id, None)
    ws._reconnect_listeners[:] = [
        each for each in ws._reconnect_listeners if each["accountId"] != account_id
    ]
    for accounts in ws._socket_instances_by_accounts.values():
        accounts.pop(account_id, None)
    flags = ws._synchronization_flags
    for sync in [sync for sync, of in flags.items() if of["accountId"] == account_id]:
        del flags[sync]
    for kinds in ws._last_requests_time.values():
        for requests in kinds.values():
            requests.pop(account_id, None)
    instances = ws._latency_service._connected_instances_cache
    assert isinstance(instances, _InstancesByAccount)
    instances.forget(account_id)
    for table in _tables_by_instance(ws):
        for instance in [each for each in table if each.startswith(f"{account_id}:")]:
            gone = table.pop(instance)
            if isinstance(gone, asyncio.Task):
                gone.cancel()


def _tables_by_instance(ws: MetaApiWebsocketClient) -> Iterable[MutableMapping[str, object]]:
    """Return what is kept under `account:…`."""
    orderer, latency = ws._packet_orderer, ws._latency_service
    return (
        ws._connected_hosts,
        ws._status_timers,
        ws._synchronization_id_by_instance,
        ws._update_events,
        orderer._is_out_of_order_emitted,
        orderer._sequence_number_by_instance,
        orderer._last_session_start_timestamp,
        orderer._packets_by_instance,
        latency._synchronized_instances_cache,
    )


def forget_requests(ws: MetaApiWebsocketClient) -> None:
    """B25: who stops waiting for an answer leaves no place for it behind."""
    make: Callable[..., Awaitable[object]] = ws._make_request

    async def make_request(
        account_id: str,
        instance_number: int,
        request: MutableMapping[str, object],
        timeout_seconds: float | None = None,
    ) -> object:
        instance = ws._get_socket_instance_by_account(account_id, instance_number)
        try:
            return await make(account_id, instance_number, request, timeout_seconds)
        finally:
            instance["requestResolves"].pop(request["requestId"], None)

    replace(ws, "_make_request", make_request)


def forget_old_hashes(ws: MetaApiWebsocketClient, clock: Clock) -> None:
    """B14: the job that forgets unanswered synchronizations survives having something to forget."""

    def clear_inactive_sync_data_job() -> None:
        oldest = clock.now().timestamp() - SYNCHRONIZATION_SECONDS
        hashes = ws._synchronization_hashes
        for sync in [sync for sync, each in hashes.items() if each["lastUpdated"] < oldest]:
            del hashes[sync]

    replace(ws, "_clear_inactive_sync_data_job", clear_inactive_sync_data_job)


def forget_old_accounts(ws: MetaApiWebsocketClient, clock: Clock, served: Collection[str]) -> None:
    """B15: the job that forgets accounts survives one that nobody asked for.

    A single packet of an unknown account ends the SDK's, for all accounts and for good.
    """

    def clear_account_cache_job() -> None:
        oldest = clock.now().timestamp() - ACCOUNT_SECONDS
        regions = ws._regions_by_accounts
        old = {account for account, each in regions.items() if each["lastUsed"] < oldest}
        for account_id in old.difference(served):
            for table in (regions, ws._accounts_by_replica_id, ws._account_replicas):
                table.pop(account_id, None)

    replace(ws, "_clear_account_cache_job", clear_account_cache_job)


def find_accounts_quickly(ws: MetaApiWebsocketClient) -> None:
    """B30: nothing that happens for each account, or each second, searches through all of them.

    The SDK looks for each account in a list of those it found, asks each for its region, and goes
    through every instance at each request: milliseconds of each synchronization at 1,000 links.
    """
    latency = ws._latency_service
    instances = latency._connected_instances_cache = _InstancesByAccount()

    def subscribed_account_ids(
        instance_number: int, index: int | None = None, region: str | None = None
    ) -> list[str]:
        places = ws._socket_instances_by_accounts.get(instance_number, {})
        connected = {instance.partition(":")[0] for instance in ws._connected_hosts}
        return [
            account_id
            for account_id, place in places.items()
            if (index is None or place == index)
            and account_id in connected
            and ws.get_account_region(account_id) == region
        ]

    def get_assigned_accounts(instance_number: int, index: int, region: str) -> list[str]:
        return [
            account_id
            for account_id, place in ws._socket_instances_by_accounts[instance_number].items()
            if place == index and ws.get_account_region(account_id) == region
        ]

    replace(ws, "subscribed_account_ids", subscribed_account_ids)
    replace(ws, "get_assigned_accounts", get_assigned_accounts)
    replace(latency, "_get_account_instances", instances.of)


class _InstancesByAccount(dict[str, bool]):
    """The SDK's table of `account:region:number:host`, which knows each account's own."""

    def __init__(self) -> None:
        super().__init__()
        self._by_account: dict[str, list[str]] = {}

    def __setitem__(self, instance: str, is_connected: bool) -> None:
        if instance not in self:
            self._by_account.setdefault(instance.partition(":")[0], []).append(instance)
        super().__setitem__(instance, is_connected)

    def forget(self, account_id: str) -> None:
        """Drop an account's instances."""
        for instance in self._by_account.pop(account_id, ()):
            del self[instance]

    def of(self, account_id: str) -> list[str]:
        """Return an account's instances."""
        return list(self._by_account.get(account_id, ()))
