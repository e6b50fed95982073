"""Overrides between a packet's arrival and its listener: order, queue, completeness, dates."""
# ruff: noqa: SLF001  # the SDK has no public way to any of this; sdk.py checks the names

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime

from metaapi_cloud_sdk.clients.metaapi.metaapi_websocket_client import MetaApiWebsocketClient

from brokerd.connector.metaapi_stream import sdklog
from brokerd.connector.metaapi_stream.overrides.replacing import replace

WAITING_PACKETS = 10_000
"""Packets of an account kept behind a missing one: more than arrive until it is told."""

Event = Callable[[], Awaitable[None]]


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

    replace(orderer, "on_reconnected", lambda _accounts: None)
    replace(ws, "_fire_reconnected", fire_reconnected)


def keep_waiting_packets(ws: MetaApiWebsocketClient) -> None:
    """2.3: a lost packet is told however many packets follow it.

    The SDK keeps a hundred packets behind a missing one and drops the first of them, by whose age
    it decides when to tell; while more arrive in that time the account stands still for good.
    """
    ws._packet_orderer._wait_list_size_limit = WAITING_PACKETS


def drain_queues_by_popping(
    ws: MetaApiWebsocketClient, lose_packets: Callable[[str], None]
) -> None:
    """A2, A3, A17, B26: an account's queue loses no packet when swapped, and outlives any failure.

    The SDK iterates over a list that it replaces while packets still arrive at it, keeps what it
    has processed until the list is done, and stops for good when a `CancelledError` of somebody
    else's passes through, or when its own task is ended: packets then pile up that nobody takes.
    What is lost with a task that is ended is told to `lose_packets`; the next packet starts anew.
    """
    queues: MutableMapping[str, list[Event]] = ws._event_queues

    async def call_account_events(account_id: str) -> None:
        try:
            while queue := queues.get(account_id):
                event = queue.pop(0)
                await _run_guarded(event, f"{account_id}: event")
        except BaseException:
            lose_packets(account_id)
            raise
        finally:
            queues.pop(account_id, None)

    replace(ws, "_call_account_events", call_account_events)


def process_events_without_timers(ws: MetaApiWebsocketClient) -> None:
    """A3, B29: an event costs no one-second task, and no failure of a listener stops the others."""

    async def process_event(event: Event, label: str, throw_error: bool = False) -> None:  # noqa: FBT001, FBT002  # the SDK's signature
        if throw_error:
            await event()
        else:
            await _run_guarded(event, label)

    replace(ws, "_process_event", process_event)


def ignore_stale_ends(ws: MetaApiWebsocketClient) -> None:
    """2.3: the end of a superseded synchronization does not spoil the one that runs.

    The SDK forgets the running one's id at it, and then drops the rest of its history unread.
    """
    process: Callable[[object], Awaitable[None]] = ws._process_synchronization_packet

    async def process_synchronization_packet(packet: MutableMapping[str, object]) -> None:
        if packet["type"] == "dealSynchronizationFinished":
            place = (packet["accountId"], ws.get_account_region(str(packet["accountId"])))
            instance = (packet.get("instanceIndex", 0), packet.get("host", "0"))
            running = ws._synchronization_id_by_instance.get(":".join(map(str, place + instance)))
            if packet.get("synchronizationId", running) != running:
                return
        await process(packet)

    replace(ws, "_process_synchronization_packet", process_synchronization_packet)


def parse_no_dates(ws: MetaApiWebsocketClient) -> None:
    """2.3: times stay text until they are read where they matter, and a bad one spoils nothing.

    The SDK compares `sequenceTimestamp`s; that one it gets as a number either way.
    """

    def convert(packet: MutableMapping[str, object], _field: str = "") -> None:
        stamp = packet.get("sequenceTimestamp")
        if isinstance(stamp, str):
            packet["sequenceTimestamp"] = datetime.fromisoformat(stamp).timestamp() * 1000

    replace(ws, "_convert_iso_time_to_date", convert)


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

    replace(ws, "on_out_of_order_packet", on_out_of_order_packet)


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


_log = sdklog.DemotedLogger("brokerd")
