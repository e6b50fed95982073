"""Which SDK this is written for, the private names of it we touch, and the check of both."""

import asyncio
from collections.abc import Mapping
from importlib.metadata import version
from typing import TypedDict

import engineio
import socketio
from metaapi_cloud_sdk import MetaApi
from metaapi_cloud_sdk.clients.domain_client import DomainClient
from metaapi_cloud_sdk.clients.http_client import HttpClient
from metaapi_cloud_sdk.clients.metaapi.latency_service import LatencyService
from metaapi_cloud_sdk.clients.metaapi.metaapi_websocket_client import MetaApiWebsocketClient
from metaapi_cloud_sdk.clients.metaapi.packet_orderer import PacketOrderer
from metaapi_cloud_sdk.clients.metaapi.subscription_manager import SubscriptionManager
from metaapi_cloud_sdk.clients.metaapi.synchronization_throttler import SynchronizationThrottler
from metaapi_cloud_sdk.logger import LoggerManager
from metaapi_cloud_sdk.metaapi.connection_registry import ConnectionRegistry
from metaapi_cloud_sdk.metaapi.metatrader_account_api import MetatraderAccountApi
from metaapi_cloud_sdk.metaapi.streaming_metaapi_connection import StreamingMetaApiConnection
from metaapi_cloud_sdk.metaapi.streaming_metaapi_connection_instance import (
    StreamingMetaApiConnectionInstance,
)
from metaapi_cloud_sdk.metaapi.terminal_hash_manager import TerminalHashManager
from metaapi_cloud_sdk.metaapi.terminal_state import TerminalState

from brokerd.errors import ConfigInvalid

VERSIONS = {
    "metaapi-cloud-sdk": "29.1.1",
    "python-socketio": "4.6.1",
    "python-engineio": "3.14.2",
}
NAMES: Mapping[type, tuple[str, ...]] = {
    MetaApi: ("_connection_registry", "_metaapi_websocket_client", "_terminal_hash_manager"),
    MetaApiWebsocketClient: (
        "_account_replicas",
        "_accounts_by_replica_id",
        "_call_account_events",
        "_clear_account_cache_job",
        "_clear_inactive_sync_data_job",
        "_connected_hosts",
        "_convert_error",
        "_convert_iso_time_to_date",
        "_create_socket_instance_by_account",
        "_domain_client",
        "_event_queues",
        "_fire_reconnected",
        "_get_server_url",
        "_get_socket_instance_by_account",
        "_last_requests_time",
        "_latency_service",
        "_make_request",
        "_meta_api",
        "_packet_orderer",
        "_process_event",
        "_process_synchronization_packet",
        "_reconnect_listeners",
        "_regions_by_accounts",
        "_socket_instances",
        "_socket_instances_by_accounts",
        "_status_timers",
        "_subscription_manager",
        "_synchronization_flags",
        "_synchronization_hashes",
        "_synchronization_id_by_instance",
        "_synchronization_listeners",
        "_update_events",
        "close",
        "connected",
        "get_account_region",
        "get_assigned_accounts",
        "lock_socket_instance",
        "on_out_of_order_packet",
        "refresh_market_data_subscriptions",
        "rpc_request",
        "set_url",
        "stop",
        "subscribed_account_ids",
    ),
    PacketOrderer: (
        "_is_out_of_order_emitted",
        "_last_session_start_timestamp",
        "_packets_by_instance",
        "_sequence_number_by_instance",
        "_wait_list_size_limit",
        "on_reconnected",
        "on_stream_closed",
        "stop",
    ),
    SubscriptionManager: (
        "_subscription_state",
        "_subscriptions",
        "cancel_account",
        "cancel_subscribe",
        "is_subscription_active",
        "on_reconnected",
        "refresh_account",
        "schedule_subscribe",
        "unsubscribe",
    ),
    SynchronizationThrottler: (
        "_accounts_by_synchronization_ids",
        "remove_synchronization_id",
        "stop",
    ),
    LatencyService: (
        "_connected_instances_cache",
        "_get_account_instances",
        "_latency_cache",
        "_refresh_latency",
        "_synchronized_instances_cache",
    ),
    DomainClient: ("_http_client", "_update_domain", "get_url"),
    HttpClient: ("_make_request", "request"),
    TerminalHashManager: ("_get_hash", "_stop", "refresh_ignored_field_lists"),
    ConnectionRegistry: ("remove", "streaming_connections"),
    MetatraderAccountApi: (
        "_application",
        "_connection_registry",
        "_expert_advisor_client",
        "_historical_market_data_client",
        "_metaapi_websocket_client",
        "_metatrader_account_client",
    ),
    StreamingMetaApiConnection: (
        "_closed",
        "_state_by_instance_index",
        "on_reconnected",
        "on_stream_closed",
    ),
    StreamingMetaApiConnectionInstance: (
        "_meta_api_connection",
        "close",
        "connect",
        "health_monitor",
        "remove_synchronization_listener",
        "terminal_state",
    ),
    TerminalState: ("get_hashes",),
    LoggerManager: ("get_logger",),
    socketio.AsyncClient: ("connected", "eio", "emit", "handlers"),
    engineio.AsyncClient: (
        "connect",
        "handlers",
        "http",
        "ping_loop_event",
        "read_loop_task",
        "state",
    ),
}


class SocketRecord(TypedDict):
    """The SDK's record of one socket, as far as we read it."""

    id: int
    instanceNumber: int
    connected: bool  # meant to be
    isReconnecting: bool  # was open before, and is being opened again
    connectResult: asyncio.Future[None] | None
    socket: socketio.AsyncClient
    synchronizationThrottler: SynchronizationThrottler


def check_sdk() -> None:
    """Raise `ConfigInvalid` unless the installed SDK is the one every override was written for."""
    problems = _wrong_versions() + _missing_names(NAMES)
    if problems:
        raise ConfigInvalid(
            [
                *problems,
                "install the packages of requirements.lock, or follow docs/sdk.md to move on",
            ]
        )


def _wrong_versions() -> list[str]:
    return [
        f"{package} is {version(package)}; brokerd contains {wanted}"
        for package, wanted in VERSIONS.items()
        if version(package) != wanted
    ]


def _missing_names(names: Mapping[type, tuple[str, ...]]) -> list[str]:
    return [
        f"{owner.__name__} of the MetaApi SDK has no `{name}`"
        for owner, wanted in names.items()
        for name in wanted
        if not _has(owner, name)
    ]


def _has(owner: type, name: str) -> bool:
    """Look for a method, or for an attribute that a constructor assigns."""
    constructors = (vars(base).get("__init__") for base in owner.__mro__)
    codes = (getattr(constructor, "__code__", None) for constructor in constructors)
    return hasattr(owner, name) or any(code and name in code.co_names for code in codes)
