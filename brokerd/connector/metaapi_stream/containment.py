"""Puts every override in its place: on a client, on each of its sockets, on each connection."""
# ruff: noqa: SLF001  # the SDK has no public way to any of this; sdk.py checks the names

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from metaapi_cloud_sdk import MetaApi
from metaapi_cloud_sdk.metaapi.streaming_metaapi_connection_instance import (
    StreamingMetaApiConnectionInstance,
)

from brokerd.clock import Clock
from brokerd.connector.metaapi_stream.calls import Calls
from brokerd.connector.metaapi_stream.overrides import (
    events,
    leaks,
    requests,
    sockets,
    subscriptions,
)
from brokerd.connector.metaapi_stream.parts import ClientParts
from brokerd.connector.metaapi_stream.routes import Routes
from brokerd.connector.metaapi_stream.sdk import SocketRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHooks:
    """What a contained client asks and tells."""

    served: Collection[str]  # the accounts that have a session, at any moment
    is_subscribed: Callable[[str, int], bool]  # whether an account has that instance
    prepare_socket: Callable[[SocketRecord, str], Awaitable[None]]  # before each attempt
    lose_packets: Callable[[str], None]
    refuse: Callable[[], None]  # MetaApi refuses the token
    tell_limit: Callable[[int], None]  # how many accounts the token may stream


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketHooks:
    """What a contained socket asks and tells."""

    read: Callable[[object], Mapping[str, object] | None]
    watch: sockets.AttemptWatch
    lost: Callable[[], None]
    is_served: Callable[[object], bool]


def contain_client(api: MetaApi, *, parts: ClientParts, calls: Calls, hooks: ClientHooks) -> None:
    """Contain a client that was just made."""
    ws, clock = api._metaapi_websocket_client, parts.ports.clock
    domain_client = ws._domain_client
    http_client = domain_client._http_client
    events.keep_order_of_other_sockets(ws)
    events.keep_waiting_packets(ws)
    events.drain_queues_by_popping(ws, hooks.lose_packets)
    events.process_events_without_timers(ws)
    events.ignore_stale_ends(ws)
    events.parse_no_dates(ws)
    events.tell_losses(ws, hooks.lose_packets)
    sockets.pace_socket_opens(ws, hooks.prepare_socket)
    sockets.open_sockets_one_by_one(ws, calls)
    subscriptions.subscribe_only(ws, hooks.is_subscribed)
    subscriptions.keep_other_subscriptions(ws)
    subscriptions.unsubscribe_briefly(ws)
    subscriptions.tell_refusals(ws, hooks.refuse)
    subscriptions.tell_subscription_limit(ws, hooks.tell_limit)
    subscriptions.refresh_no_accounts(ws)
    subscriptions.refresh_no_quotes(ws)
    requests.shield_domain_settings(domain_client, calls)
    requests.fetch_no_hashing_lists(api._terminal_hash_manager)
    requests.measure_no_latency(ws)
    requests.request_over(http_client, parts.ports.http, Routes(parts.settings).rewrite)
    requests.ask_once(http_client, hooks.refuse)
    leaks.forget_requests(ws)
    leaks.forget_old_hashes(ws, clock)
    leaks.forget_old_accounts(ws, clock, hooks.served)
    leaks.find_accounts_quickly(ws)


def contain_socket(
    instance: SocketRecord, *, calls: Calls, clock: Clock, hooks: SocketHooks
) -> None:
    """Contain a socket before its first attempt."""
    sockets.take_large_frames(instance)
    sockets.watch_attempts(instance, hooks.watch)
    sockets.end_with_read_loop(instance, calls)
    sockets.drop_strays(instance, is_served=hooks.is_served, calls=calls, clock=clock)
    sockets.read_packets(instance, hooks.read)
    sockets.reconnect_aside(instance, calls, hooks.lost)


def contain_connection(
    make: Callable[[], StreamingMetaApiConnectionInstance], *, offer: Callable[[], Sequence[str]]
) -> StreamingMetaApiConnectionInstance:
    """Make a connection contained, with nobody listening to it but itself and its storage.

    A9: terminal state and health monitor cost seconds of the loop, and nobody asks them.
    """
    connection = leaks.make_without_jobs(make)
    connection.remove_synchronization_listener(connection.terminal_state)
    connection.remove_synchronization_listener(connection.health_monitor)
    leaks.end_timers(connection._meta_api_connection)
    subscriptions.offer_hashes(connection.terminal_state, offer)
    return connection
