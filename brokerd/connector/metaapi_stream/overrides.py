"""Every change to the SDK's behaviour: one function a defect of sdk.md, on one instance.

Each function names its defect, and docs/sdk.md names the test that fails without it. Nothing here
is patched for the whole process, save `prepare_process`, which says why.
"""
# ruff: noqa: SLF001  # the SDK has no public way to any of this; sdk.py checks the names

import asyncio
import signal
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from datetime import datetime

import engineio.asyncio_client
import engineio.client
import httpx
import socketio.client
from metaapi_cloud_sdk.clients.domain_client import DomainClient
from metaapi_cloud_sdk.clients.http_client import RequestOptions
from metaapi_cloud_sdk.clients.metaapi.metaapi_websocket_client import MetaApiWebsocketClient
from metaapi_cloud_sdk.logger import LoggerManager
from metaapi_cloud_sdk.metaapi.terminal_hash_manager import TerminalHashManager

from brokerd.clock import Clock
from brokerd.connector.metaapi_stream import sdklog
from brokerd.connector.metaapi_stream.calls import Calls
from brokerd.connector.metaapi_stream.packets import read_synchronization
from brokerd.connector.metaapi_stream.sdk import SocketRecord

UNSUBSCRIBE_SECONDS = 3.0
"""How long one of the two attempts to say farewell may take."""

Event = Callable[[], Awaitable[None]]


def prepare_process() -> None:
    """Set what the SDK keeps per process; to be called before the first `MetaApi()`.

    A10: its loggers wrap themselves at every use until they recurse to death. B12: its transports
    take SIGINT over, on the loop and below it, unless they believe they have done so already.
    """
    _replace(LoggerManager, "get_logger", staticmethod(sdklog.DemotedLogger))
    sdklog.hold_tokens_back()
    engineio.asyncio_client.async_signal_handler_set = True
    for library in (engineio.client, socketio.client):
        if getattr(library, "original_signal_handler", None) is None:
            _replace(library, "original_signal_handler", signal.getsignal(signal.SIGINT))


def keep_order_of_other_sockets(ws: MetaApiWebsocketClient) -> None:
    """A1: a socket that reconnects resets the packet order of its own instance only.

    The SDK resets all instances of the account; the ones that did not reconnect then wait for a
    `synchronizationStarted` that never comes, and deliver nothing any more.
    """
    orderer = ws._packet_orderer
    fire = ws._fire_reconnected

    async def fire_reconnected(instance_number: int, index: int, region: str) -> None:
        accounts = ws.get_assigned_accounts(instance_number, index, region)
        reset = {(account, str(instance_number)) for account in accounts}
        for stream in {*orderer._last_session_start_timestamp, *orderer._packets_by_instance}:
            if tuple(stream.split(":")[:2]) in reset:
                orderer.on_stream_closed(stream)
        await fire(instance_number, index, region)

    _replace(orderer, "on_reconnected", lambda _accounts: None)
    _replace(ws, "_fire_reconnected", fire_reconnected)


def subscribe_only(ws: MetaApiWebsocketClient, is_served: Callable[[str, int], bool]) -> None:
    """A1: an account gets the instances it has; a regular one has no second terminal.

    The SDK subscribes both. It then takes the second one's socket table for granted.
    """
    ensure = ws.ensure_subscribe
    for instance_number in (0, 1):
        ws._socket_instances_by_accounts.setdefault(instance_number, {})

    def ensure_subscribe(account_id: str, instance_number: int) -> None:
        if is_served(account_id, instance_number):
            ensure(account_id, instance_number)

    _replace(ws, "ensure_subscribe", ensure_subscribe)


def drain_queues_by_popping(ws: MetaApiWebsocketClient) -> None:
    """A2, A3: an account's queue loses no packet when it is swapped, and outlives any failure.

    The SDK iterates over a list that it replaces while packets still arrive at it, and stops for
    good when a `CancelledError` of somebody else's passes through.
    """
    queues: MutableMapping[str, list[Event]] = ws._event_queues

    async def call_account_events(account_id: str) -> None:
        while queue := queues.get(account_id):
            event = queue.pop(0)
            await _run_guarded(event, f"{account_id}: event")
        queues.pop(account_id, None)

    _replace(ws, "_call_account_events", call_account_events)


def process_events_without_timers(ws: MetaApiWebsocketClient) -> None:
    """A3, B29: an event costs no one-second task, and no failure of a listener stops the others."""

    async def process_event(event: Event, label: str, throw_error: bool = False) -> None:  # noqa: FBT001, FBT002  # the SDK's signature
        if throw_error:
            await event()
        else:
            await _run_guarded(event, label)

    _replace(ws, "_process_event", process_event)


def pace_socket_opens(
    ws: MetaApiWebsocketClient,
    prepare: Callable[[SocketRecord, str], Awaitable[None]],
) -> None:
    """A6, A7: each attempt to open a socket waits for `prepare`, which is told instance and region.

    The SDK repeats a refused first connect without a pause, and never again reaches the server
    once an upgrade stalled: Engine.IO then refuses to connect what it takes for connected.
    """
    server_url = ws._get_server_url

    async def get_server_url(instance_number: int, index: int, region: str) -> str:
        instance = ws._socket_instances[region][instance_number][index]
        if (result := instance["connectResult"]) is not None:
            result.add_done_callback(_note)  # nobody awaits it
        await prepare(instance, region)
        sio = instance["socket"]
        if not sio.connected and sio.eio.state != "disconnected":
            await sio.eio.disconnect(abort=True)
        url: str = await server_url(instance_number, index, region)
        return url

    _replace(ws, "_get_server_url", get_server_url)


def open_sockets_one_by_one(ws: MetaApiWebsocketClient, calls: Calls) -> None:
    """A8: one socket of an instance is opened at a time, by nobody who could be cancelled.

    The SDK opens it inside the first account's subscription; when that is cancelled, the socket
    stays in the table, unconnected, and every account assigned to it times out.
    """
    create = ws._create_socket_instance_by_account
    locks: defaultdict[tuple[str | None, int], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def create_in_turn(account_id: str, instance_number: int) -> None:
        async with locks[ws.get_account_region(account_id), instance_number]:
            await create(account_id, instance_number)
        if not ws._subscription_manager.is_subscription_active(account_id):  # left meanwhile
            ws._socket_instances_by_accounts[instance_number].pop(account_id, None)

    async def create_socket_instance(account_id: str, instance_number: int) -> None:
        name = f"sdk-socket:{account_id}:{instance_number}"
        await asyncio.shield(calls.start(create_in_turn(account_id, instance_number), name=name))

    _replace(ws, "_create_socket_instance_by_account", create_socket_instance)


def unsubscribe_briefly(ws: MetaApiWebsocketClient) -> None:
    """B4, B5: leaving takes seconds when the server is mute, and opens no socket to say farewell.

    The server forgets a client whose socket is gone by itself.
    """
    manager = ws._subscription_manager

    async def unsubscribe(account_id: str, instance_number: int) -> None:
        manager.cancel_account(account_id)
        manager._subscription_state.pop(account_id, None)
        index = ws._socket_instances_by_accounts[instance_number].get(account_id)
        region = ws.get_account_region(account_id)
        if index is not None and ws.connected(instance_number, index, region):
            request = {"type": "unsubscribe", "instanceIndex": instance_number}
            answer: Awaitable[object] = ws.rpc_request(account_id, request, UNSUBSCRIBE_SECONDS)
            await answer

    _replace(manager, "unsubscribe", unsubscribe)


def refresh_subscriptions_aside(ws: MetaApiWebsocketClient, calls: Calls) -> None:
    """A11: the account's events do not wait for an answer to a request about quotes.

    The SDK sends the request from the account's event queue and stops the queue until the answer.
    """
    refresh = ws.refresh_market_data_subscriptions

    async def refresh_aside(
        account_id: str, instance_number: int, quotes: list[dict[str, object]]
    ) -> None:
        call = refresh(account_id, instance_number, quotes)
        calls.start(call, name=f"sdk-refresh:{account_id}:{instance_number}")

    _replace(ws, "refresh_market_data_subscriptions", refresh_aside)


def shield_domain_settings(domain_client: DomainClient, calls: Calls) -> None:
    """A12: who is cancelled while looking for the server leaves no dead future behind."""
    update: Callable[[], Coroutine[object, object, None]] = domain_client._update_domain

    async def update_domain() -> None:
        await asyncio.shield(calls.start(update(), name="sdk-domain-settings"))

    _replace(domain_client, "_update_domain", update_domain)


def fetch_no_hashing_lists(hashes: TerminalHashManager) -> None:
    """A12, B19: no REST call stands before a synchronization; nothing is hashed without a state."""

    async def refresh_ignored_field_lists(_region: str) -> None:
        return

    _replace(hashes, "refresh_ignored_field_lists", refresh_ignored_field_lists)


def measure_no_latency(ws: MetaApiWebsocketClient) -> None:
    """B18: no socket is opened to measure a region that nobody chose by latency."""
    latency = ws._latency_service

    async def refresh_latency(region: str) -> None:
        latency._latency_cache[region] = 0.0

    _replace(latency, "_refresh_latency", refresh_latency)


def request_over(
    domain_client: DomainClient, http: httpx.AsyncClient, route: Callable[[str], str]
) -> None:
    """B21: requests go over one pooled client, not over a new one with new TLS state each.

    `route` turns the SDK's URL into the configured one.
    """

    async def make_request(options: RequestOptions) -> httpx.Response:
        return await http.request(
            options.get("method") or "GET",
            route(options["url"]),
            params=options.get("params"),
            headers=options.get("headers"),
            json=options.get("body"),
        )

    _replace(domain_client._http_client, "_make_request", make_request)


def read_packets_sparingly(instance: SocketRecord) -> None:
    """A14, B26: what nobody reads of a packet is not decoded; see packets.py."""
    sio = instance["socket"]
    handle = sio.eio.handlers["message"]
    synchronize = sio.handlers["/"]["synchronization"]

    async def handle_message(message: object) -> None:
        packet = read_synchronization(message)
        if packet is None:
            await handle(message)
        else:
            await synchronize(packet)

    sio.eio.handlers["message"] = handle_message


def parse_no_dates(ws: MetaApiWebsocketClient) -> None:
    """2.3: times stay text until they are read where they matter, and a bad one spoils nothing.

    The SDK compares `sequenceTimestamp`s; that one it gets as a number either way.
    """

    def convert(packet: MutableMapping[str, object], _field: str = "") -> None:
        stamp = packet.get("sequenceTimestamp")
        if isinstance(stamp, str):
            packet["sequenceTimestamp"] = datetime.fromisoformat(stamp).timestamp() * 1000

    _replace(ws, "_convert_iso_time_to_date", convert)


def tell_losses(ws: MetaApiWebsocketClient, lose_packets: Callable[[str], None]) -> None:
    """Tell `lose_packets` of an account whose packets have a hole, before the SDK resubscribes."""
    resubscribe = ws.on_out_of_order_packet

    async def on_out_of_order_packet(  # noqa: PLR0913, PLR0917  # the SDK's signature
        account_id: str,
        instance_index: int,
        expected: int,
        actual: int,
        packet: dict[str, object],
        received_at: datetime,
    ) -> None:
        lose_packets(account_id)
        await resubscribe(account_id, instance_index, expected, actual, packet, received_at)

    _replace(ws, "on_out_of_order_packet", on_out_of_order_packet)


def tell_disconnects(instance: SocketRecord, disconnected: Callable[[], None]) -> None:
    """B32: a closed socket is told at once; the SDK's listeners hear of it a minute later."""
    sio = instance["socket"]
    reconnect = sio.handlers["/"]["disconnect"]

    async def on_disconnect() -> None:
        disconnected()
        await reconnect()

    sio.handlers["/"]["disconnect"] = on_disconnect


def forget_old_hashes(ws: MetaApiWebsocketClient, clock: Clock) -> None:
    """B14: the job that forgets unanswered synchronizations survives having something to forget."""
    limit_seconds = 30 * 60

    def clear_inactive_sync_data_job() -> None:
        oldest = clock.now().timestamp() - limit_seconds
        hashes = ws._synchronization_hashes
        for sync in [sync for sync, each in hashes.items() if each["lastUpdated"] < oldest]:
            del hashes[sync]

    _replace(ws, "_clear_inactive_sync_data_job", clear_inactive_sync_data_job)


def give_turns_back(ws: MetaApiWebsocketClient, account_id: str) -> None:
    """B33: an account that left neither holds a turn to synchronize nor waits for one.

    A socket lets a tenth of its accounts synchronize at a time. The SDK frees the turn of one that
    left after 20 s, and then gives it to the next that has left: of few links none gets on.
    """
    for by_number in ws._socket_instances.values():
        for instances in by_number.values():
            for instance in instances:
                throttler = instance["synchronizationThrottler"]
                for sync, of in list(throttler._accounts_by_synchronization_ids.items()):
                    if of["accountId"] == account_id:
                        throttler.remove_synchronization_id(sync)


async def _run_guarded(event: Event, label: str) -> None:
    """Run an event; log what it raises, and stop only when this task itself is cancelled."""
    try:
        await event()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        _log.error(label, "an event was cancelled from inside")
    except Exception as error:  # noqa: BLE001  # whatever a listener raises, the next event counts
        _log.error(label, type(error).__name__)


def _note(result: asyncio.Future[None]) -> None:
    """Look at a result, so that asyncio does not complain that nobody did."""
    if not result.cancelled():
        result.exception()


def _replace(owner: object, name: str, replacement: object) -> None:
    setattr(owner, name, replacement)


_log = sdklog.DemotedLogger("brokerd")
