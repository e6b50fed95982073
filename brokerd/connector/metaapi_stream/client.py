"""One contained MetaApi client: all the links of one token, on as few sockets as the SDK needs."""
# ruff: noqa: SLF001  # accounts and their caches have no public constructor or destructor

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import httpx
from metaapi_cloud_sdk import MetaApi
from metaapi_cloud_sdk.metaapi.metaapi import MetaApiOpts
from metaapi_cloud_sdk.metaapi.metatrader_account import MetatraderAccount
from metaapi_cloud_sdk.metaapi.streaming_metaapi_connection_instance import (
    StreamingMetaApiConnectionInstance,
)

from brokerd.clock import Clock
from brokerd.config.settings import MetaApiSettings, Secret
from brokerd.connector.governor.pace import Pace
from brokerd.connector.metaapi_stream import overrides
from brokerd.connector.metaapi_stream.calls import Calls
from brokerd.connector.metaapi_stream.dismantle import dismantle
from brokerd.connector.metaapi_stream.listener import StreamListener
from brokerd.connector.metaapi_stream.opening import SocketOpening
from brokerd.connector.metaapi_stream.routes import Routes
from brokerd.connector.metaapi_stream.sdk import SocketRecord
from brokerd.domain import MetaApiRef
from brokerd.telemetry import Metrics

ORDERING_SECONDS = 5.0
"""A lost packet stalls its account for so long, then the SDK synchronizes again."""
CONCURRENT_SYNCHRONIZATIONS = 15
DAY_SECONDS = 86_400.0

HIGH_RELIABILITY = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPorts:
    """What the stream needs from the rest of the node."""

    http: httpx.AsyncClient
    clock: Clock
    random: Random
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientParts:
    """What every client of a node shares."""

    settings: MetaApiSettings
    calls: Calls
    socket_opens: Pace
    ports: StreamPorts


class StreamClient:
    """A `MetaApi` object with its defects contained. Must be made inside the running loop."""

    def __init__(self, token: Secret, *, parts: ClientParts) -> None:
        self._parts = parts
        self._listeners: dict[str, StreamListener] = {}
        self._high: set[str] = set()
        self._opening = SocketOpening(
            pace=parts.socket_opens, random=parts.ports.random, metrics=parts.ports.metrics
        )
        self._api = MetaApi(token.reveal(), _options(parts.settings))
        self._ws = self._api._metaapi_websocket_client
        if parts.settings.stream_url is not None:
            self._ws.set_url(parts.settings.stream_url)
        self._contain()

    def __repr__(self) -> str:
        return f"<StreamClient {len(self._listeners)} accounts>"

    def _contain(self) -> None:
        ws, parts = self._ws, self._parts
        overrides.keep_order_of_other_sockets(ws)
        overrides.subscribe_only(ws, self._is_served)
        overrides.drain_queues_by_popping(ws)
        overrides.process_events_without_timers(ws)
        overrides.pace_socket_opens(ws, self._prepare_socket)
        overrides.open_sockets_one_by_one(ws, parts.calls)
        overrides.unsubscribe_briefly(ws)
        overrides.refresh_subscriptions_aside(ws, parts.calls)
        overrides.shield_domain_settings(ws._domain_client, parts.calls)
        overrides.fetch_no_hashing_lists(self._api._terminal_hash_manager)
        overrides.measure_no_latency(ws)
        overrides.request_over(ws._domain_client, parts.ports.http, Routes(parts.settings).rewrite)
        overrides.parse_no_dates(ws)
        overrides.tell_losses(ws, self._lose_packets)
        overrides.forget_old_hashes(ws, parts.ports.clock)

    def connection(
        self, remote: MetaApiRef, *, reliability: str, listener: StreamListener
    ) -> StreamingMetaApiConnectionInstance:
        """Make a connection whose only listener is ours; nothing is sent before its `connect()`."""
        account_id = remote.account_id
        self._listeners[account_id] = listener
        if reliability == HIGH_RELIABILITY:
            self._high.add(account_id)
        self._ws._socket_instances.setdefault(remote.region, {})
        known_region = self._ws.get_account_region(account_id)
        if known_region not in (None, remote.region):  # the SDK remembers the first it heard of
            del self._ws._regions_by_accounts[account_id]
        connection = self._account(remote, reliability).get_streaming_connection(listener)
        # A9: terminal state and health monitor cost seconds of the loop, and nobody asks them.
        connection.remove_synchronization_listener(connection.terminal_state)
        connection.remove_synchronization_listener(connection.health_monitor)
        connection.health_monitor.stop()
        return connection

    async def leave(
        self, connection: StreamingMetaApiConnectionInstance, *, account_id: str
    ) -> None:
        """Close a connection that was connected, and what the SDK forgets of it (B2, B3)."""
        try:
            await connection.close()
        finally:
            inner = connection._meta_api_connection
            self._ws.remove_reconnect_listener(inner)
            self._ws._synchronization_listeners.pop(account_id, None)
            for accounts in self._ws._socket_instances_by_accounts.values():
                accounts.pop(account_id, None)
            self._listeners.pop(account_id, None)
            self._high.discard(account_id)
            overrides.give_turns_back(self._ws, account_id)

    async def close(self) -> None:
        """End everything in bounded time; never raises."""
        self._opening.end()
        await dismantle(self._api, calls=self._parts.calls)

    def _account(self, remote: MetaApiRef, reliability: str) -> MetatraderAccount:
        """Build the account from what we know of it; asking MetaApi costs a request a link."""
        api = self._api.metatrader_account_api
        return MetatraderAccount(
            {
                "_id": remote.account_id,
                "region": remote.region,
                "reliability": "high" if reliability == HIGH_RELIABILITY else "regular",
                "state": "DEPLOYED",
                "server": "",  # keys the specifications of a terminal state, and there is none
            },
            api._metatrader_account_client,
            api._metaapi_websocket_client,
            api._connection_registry,
            api._expert_advisor_client,
            api._historical_market_data_client,
            api._application,
        )

    def _is_served(self, account_id: str, instance_number: int) -> bool:
        return instance_number == 0 or account_id in self._high

    async def _prepare_socket(self, instance: SocketRecord, region: str) -> None:
        if self._opening.is_first(instance):
            overrides.read_packets_sparingly(instance)
            overrides.tell_disconnects(instance, self._lose_socket(instance, region))
        await self._opening.turn(instance)

    def _lose_socket(self, instance: SocketRecord, region: str) -> Callable[[], None]:
        number, index = instance["instanceNumber"], instance["id"]

        def lose_socket() -> None:
            for account_id in self._ws.get_assigned_accounts(number, index, region):
                if listener := self._listeners.get(account_id):
                    listener.lose_socket(region=region, instance_number=number)

        return lose_socket

    def _lose_packets(self, account_id: str) -> None:
        if listener := self._listeners.get(account_id):
            listener.lose_packets()


def _options(settings: MetaApiSettings) -> MetaApiOpts:
    """Bound every wait of the SDK (sdk.md 3, A11, B17)."""
    return {
        "domain": settings.domain,
        "requestTimeout": settings.request_timeout_seconds,
        "connectTimeout": settings.connect_timeout_seconds,
        "retryOpts": {"retries": 1},
        "packetOrderingTimeout": ORDERING_SECONDS,
        "synchronizationThrottler": {
            "maxConcurrentSynchronizations": CONCURRENT_SYNCHRONIZATIONS,
            "synchronizationTimeoutInSeconds": 20,
        },
        "refreshSubscriptionsOpts": {
            "minDelayInSeconds": DAY_SECONDS / 2,
            "maxDelayInSeconds": DAY_SECONDS,
        },
        "unsubscribeThrottlingIntervalInSeconds": 10_000,  # the SDK takes them for milliseconds
    }
