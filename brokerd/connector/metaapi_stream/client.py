"""One contained MetaApi client: the links of one token, on as few sockets as the SDK needs."""
# ruff: noqa: SLF001  # accounts and their caches have no public constructor or destructor

from collections.abc import Mapping
from dataclasses import dataclass

from metaapi_cloud_sdk import MetaApi
from metaapi_cloud_sdk.metaapi.metaapi import MetaApiOpts
from metaapi_cloud_sdk.metaapi.metatrader_account import MetatraderAccount
from metaapi_cloud_sdk.metaapi.streaming_metaapi_connection_instance import (
    StreamingMetaApiConnectionInstance,
)

from brokerd.config.settings import MetaApiSettings, Secret
from brokerd.connector.governor.ports import Socket
from brokerd.connector.metaapi_stream.calls import Calls
from brokerd.connector.metaapi_stream.canary import Canaries, TerminalKind
from brokerd.connector.metaapi_stream.containment import (
    ClientHooks,
    SocketHooks,
    contain_client,
    contain_connection,
    contain_socket,
)
from brokerd.connector.metaapi_stream.dismantle import dismantle
from brokerd.connector.metaapi_stream.listener import StreamListener
from brokerd.connector.metaapi_stream.opening import AttemptNotes, SocketOpening
from brokerd.connector.metaapi_stream.overrides import leaks, subscriptions
from brokerd.connector.metaapi_stream.packets import read_synchronization, strip_specifications
from brokerd.connector.metaapi_stream.parts import ClientParts
from brokerd.connector.metaapi_stream.sdk import SocketRecord
from brokerd.connector.metaapi_stream.specifications import SpecificationHash
from brokerd.connector.metaapi_stream.wedge import DEAF_SECONDS, SocketLife, SocketState, Vitals
from brokerd.connector.ports import RemoteAccount
from brokerd.errors import BrokerdError, LinkLost, Unauthorized

ORDERING_SECONDS = 3.5
"""A lost packet stalls its account for so long, then the SDK synchronizes again."""
CONCURRENT_SYNCHRONIZATIONS = 15
DAY_SECONDS = 86_400.0

HIGH_RELIABILITY = "high"

Place = tuple[str, int, int]
"""A socket's region, instance number and index: what the SDK finds it by."""


@dataclass(slots=True)
class _Seat:
    """An account's place in the client."""

    listener: StreamListener
    is_high: bool
    opened_at: float
    is_leaving: bool = False


class StreamClient:
    """A `MetaApi` object with its defects contained. Must be made inside the running loop.

    `is_refused` once MetaApi refused the token: then every session has ended with `Unauthorized`.
    """

    def __init__(self, token: Secret, *, name: str, parts: ClientParts) -> None:
        ports, settings = parts.ports, parts.settings
        self._name = name
        self.is_refused = False
        self.made_at = ports.clock.monotonic()
        self.calls = Calls(metrics=ports.metrics)
        self._parts = parts
        self._clock = ports.clock
        self._seats: dict[str, _Seat] = {}
        self._lives: dict[Place, SocketLife] = {}
        self._deaf_sessions = 0
        self._has_heard = False
        self._opening = SocketOpening(
            gate=ports.sockets, random=ports.random, metrics=ports.metrics
        )
        self._api = MetaApi(token.reveal(), _options(settings))
        self._ws = self._api._metaapi_websocket_client
        if settings.stream_url is not None:
            self._ws.set_url(settings.stream_url)
        hashes = SpecificationHash(self._api, token=token, clock=ports.clock)
        self._canaries = Canaries(
            min_links=settings.canary_links,
            hash_items=hashes.of,
            calls=self.calls,
            clock=ports.clock,
            metrics=ports.metrics,
        )
        hooks = ClientHooks(
            served=self._seats.keys(),
            is_subscribed=self._is_subscribed,
            prepare_socket=self._prepare_socket,
            lose_packets=self._lose_packets,
            refuse=self._refuse,
            tell_limit=lambda limit: ports.sockets.note_subscriptions(name, limit),
        )
        contain_client(self._api, parts=parts, calls=self.calls, hooks=hooks)

    def __repr__(self) -> str:
        return f"<StreamClient {len(self._seats)} accounts, {self.calls!r}>"

    @property
    def has_heard(self) -> bool:
        """Say whether a terminal ever answered a session of it."""
        return self._has_heard or any(seat.listener.has_heard for seat in self._seats.values())

    @property
    def accounts(self) -> int:
        """Return how many accounts have not left."""
        return len(self._seats)

    def vitals(self, *, longest_close_seconds: float) -> Vitals:
        """Return the facts by which a client is judged; closes are known to who closes."""
        now, lives = self._clock.monotonic(), self._lives.values()
        return Vitals(
            hanging_calls=self.calls.abandoned,
            longest_close_seconds=longest_close_seconds,
            longest_stuck_seconds=max((each.stuck_seconds(now) for each in lives), default=0),
            broken_attempts=max((each.broken_attempts for each in lives), default=0),
            deaf_sessions=self._deaf_sessions,
        )

    def connection(
        self, account: RemoteAccount, *, region: str, listener: StreamListener
    ) -> StreamingMetaApiConnectionInstance:
        """Make a connection whose only listener is ours; nothing is sent before its `connect()`."""
        account_id = account.account_id
        self._seats[account_id] = _Seat(
            listener=listener,
            is_high=account.reliability == HIGH_RELIABILITY,
            opened_at=self._clock.monotonic(),
        )
        self._ws._socket_instances.setdefault(region, {})
        if self._ws.get_account_region(account_id) not in {None, region}:
            del self._ws._regions_by_accounts[account_id]  # the SDK remembers the first it heard of
        self._canaries.add(
            account_id,
            TerminalKind(server=account.server, generation=account.generation, region=region),
        )
        known = self._account(account, region)
        return contain_connection(
            lambda: known.get_streaming_connection(listener),
            offer=lambda: self._canaries.offer(account_id),
        )

    async def leave(
        self, connection: StreamingMetaApiConnectionInstance, *, account_id: str
    ) -> None:
        """Close a connection, and what the SDK keeps of its account."""
        if seat := self._seats.get(account_id):
            seat.is_leaving = True
            self._note_hearing(account_id, seat)
        try:
            await connection.close()
        finally:
            self.forget(account_id)

    def forget(self, account_id: str) -> None:
        """Drop an account, whatever becomes of its connection; a second time changes nothing."""
        if self._seats.pop(account_id, None) is None:
            return
        self._canaries.remove(account_id)
        leaks.forget_account(self._ws, account_id)
        subscriptions.give_turns_back(self._ws, account_id)

    async def close(self) -> None:
        """End everything of this client in bounded time; never raises."""
        self._opening.end()
        self.end_sessions(LinkLost("the client of this session was dismantled"))
        await dismantle(self._api, calls=self.calls)

    def end_sessions(self, failure: BrokerdError) -> None:
        """Make every session raise; each still leaves by itself."""
        for seat in self._seats.values():
            seat.listener.end(failure)

    def _account(self, account: RemoteAccount, region: str) -> MetatraderAccount:
        """Build the account from what we know of it; asking MetaApi costs a request a link."""
        api = self._api.metatrader_account_api
        return MetatraderAccount(
            {
                "_id": account.account_id,
                "region": region,
                "reliability": "high" if account.reliability == HIGH_RELIABILITY else "regular",
                "state": "DEPLOYED",
                "server": account.server,
                "type": "cloud-g1" if account.generation == "cloud-g1" else "cloud-g2",
            },
            api._metatrader_account_client,
            api._metaapi_websocket_client,
            api._connection_registry,
            api._expert_advisor_client,
            api._historical_market_data_client,
            api._application,
        )

    def _is_subscribed(self, account_id: str, instance_number: int) -> bool:
        seat = self._seats.get(account_id)
        if seat is None or seat.is_leaving:
            return False
        return instance_number == 0 or seat.is_high

    async def _prepare_socket(self, instance: SocketRecord, region: str) -> None:
        place = (region, instance["instanceNumber"], instance["id"])
        life = self._lives.get(place)
        if life is None:
            life = SocketLife(since=self._clock.monotonic())
            self._lives[place] = life
            self._contain_socket(instance, place, life)
        life.enter(SocketState.WAITING, now=self._clock.monotonic())
        # a client that was replaced had sockets of the same places
        name = f"{region}/{instance['instanceNumber']}/{instance['id']}@{self.made_at:.3f}"
        socket = Socket(token=self._name, region=region, name=name)
        await self._opening.turn(life, socket, is_reconnect=instance["isReconnecting"])

    def _contain_socket(self, instance: SocketRecord, place: Place, life: SocketLife) -> None:
        hooks = SocketHooks(
            read=lambda message: self._read(life, message),
            watch=AttemptNotes(life, clock=self._clock, refuse=self._refuse),
            lost=lambda: self._lose_socket(place, life),
            is_served=self._seats.__contains__,
        )
        contain_socket(instance, calls=self.calls, clock=self._clock, hooks=hooks)

    def _read(self, life: SocketLife, message: object) -> Mapping[str, object] | None:
        life.heard_at = self._clock.monotonic()
        packet = read_synchronization(message, is_canary=self._canaries.wants)
        if packet is None:
            return None
        self._canaries.see(packet)
        return strip_specifications(packet)

    def _lose_socket(self, place: Place, life: SocketLife) -> None:
        life.enter(SocketState.DOWN, now=self._clock.monotonic())
        region, number, index = place
        for account_id in self._ws.get_assigned_accounts(number, index, region):
            if seat := self._seats.get(account_id):
                seat.listener.lose_socket(region=region, instance_number=number)

    def _lose_packets(self, account_id: str) -> None:
        if seat := self._seats.get(account_id):
            seat.listener.lose_packets()

    def _refuse(self) -> None:
        if not self.is_refused:
            self.is_refused = True
            self.end_sessions(Unauthorized("MetaApi's stream refuses the token"))

    def _note_hearing(self, account_id: str, seat: _Seat) -> None:
        """Count the sessions in a row that heard nothing, not even their socket."""
        index = self._ws._socket_instances_by_accounts[0].get(account_id)
        life = self._lives.get((self._ws.get_account_region(account_id), 0, index))
        self._has_heard = self.has_heard
        if seat.listener.has_heard or (life is not None and life.heard_at >= seat.opened_at):
            self._deaf_sessions = 0
        elif self._clock.monotonic() - seat.opened_at >= DEAF_SECONDS:
            self._deaf_sessions += 1


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
