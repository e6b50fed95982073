"""Streams on a sandbox, the SDK contained and plain, and packets fed by hand."""

import asyncio
import gc
import socket
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any

import httpx
import pytest
from governing import PacedSockets
from metaapi_cloud_sdk import MetaApi, SynchronizationListener
from metaapi_cloud_sdk.metaapi.memory_history_storage import MemoryHistoryStorage
from metaapi_cloud_sdk.metaapi.metatrader_account import MetatraderAccount
from prometheus_client import CollectorRegistry
from stream_accounts import REGION, account_of, remote_of

from brokerd.clock import SystemClock
from brokerd.config.settings import MetaApiSettings, Secret
from brokerd.connector.metaapi_stream.buffer import EventBuffer
from brokerd.connector.metaapi_stream.calls import Calls
from brokerd.connector.metaapi_stream.client import StreamClient
from brokerd.connector.metaapi_stream.dismantle import cancel_leftovers, dismantle
from brokerd.connector.metaapi_stream.listener import StreamListener
from brokerd.connector.metaapi_stream.overrides.process import prepare_process
from brokerd.connector.metaapi_stream.overrides.requests import request_over
from brokerd.connector.metaapi_stream.parts import ClientParts, StreamPorts
from brokerd.connector.metaapi_stream.routes import Routes
from brokerd.connector.metaapi_stream.stream import MetaApiStream
from brokerd.connector.ports import DealSeen, Session, StreamEvent
from brokerd.errors import BrokerdError
from brokerd.sandbox.server import DEFAULT_TOKEN, Sandbox
from brokerd.telemetry import Metrics

NOWHERE = "http://127.0.0.1:9"
SETTINGS = MetaApiSettings(
    tokens={"main": Secret(DEFAULT_TOKEN)}, socket_opens_per_second=20, admissions_per_second=50
)


class Watched:
    """A session whose events are collected as they come."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.events: list[StreamEvent] = []
        self.ended: BrokerdError | None = None
        self._news = asyncio.Event()

    async def read(self) -> None:
        """Collect until the session ends."""
        try:
            while True:
                self.events += await self.session.receive()
                self._news.set()
        except BrokerdError as failure:
            self.ended = failure
            self._news.set()

    def of(self, kind: type) -> list[Any]:
        """Return the events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def deal_ids(self) -> set[str]:
        """Return the deals seen so far."""
        return {event.deal.deal_id for event in self.of(DealSeen)}

    async def until(self, is_enough: Callable[[], object], *, seconds: float = 10) -> None:
        """Wait until the condition holds."""
        async with asyncio.timeout(seconds):
            while not is_enough():
                await self._news.wait()
                self._news.clear()


class Streaming:
    """A contained stream on a sandbox."""

    def __init__(self, stream: MetaApiStream, group: asyncio.TaskGroup) -> None:
        self.stream = stream
        self._group = group

    @property
    def clients(self) -> list[StreamClient]:
        """Return the clients in use and the retired ones."""
        return self.stream._clients.all

    def opens(self) -> float:
        """Return how many attempts to open a socket there were."""
        return self._sum("brokerd_stream_socket_opens_total")

    def clients_replaced(self) -> float:
        """Return how many clients were replaced."""
        return self._sum("brokerd_stream_clients_replaced_total")

    def synchronizations(self, specifications: str) -> float:
        """Return how many began with specifications told in this way."""
        return self._sum("brokerd_stream_synchronizations_total", specifications)

    def _sum(self, name: str, label: str | None = None) -> float:
        samples = (
            sample
            for metric in self.stream._ports.metrics.registry.collect()
            for sample in metric.samples
        )
        return sum(
            sample.value
            for sample in samples
            if sample.name == name and (label is None or label in sample.labels.values())
        )

    async def open(
        self, account_id: str, *, reliability: str = "regular", region: str = REGION
    ) -> Watched:
        """Open a session that is read at once."""
        watched = Watched(
            await self.stream.open(
                replace(remote_of(account_id), region=region),
                account=account_of(account_id, reliability=reliability, region=region),
                synced_through=datetime.now(UTC) - timedelta(hours=1),
            )
        )
        self._group.create_task(watched.read())
        return watched


@pytest.fixture
def free_port() -> int:
    """Give a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def metrics() -> Metrics:
    """Give metrics on a registry of their own."""
    return Metrics(CollectorRegistry())


@pytest.fixture
def ports(metrics: Metrics) -> StreamPorts:
    """Give what the stream needs of the node; its HTTP client reaches nobody."""
    transport = httpx.MockTransport(lambda _: httpx.Response(503))
    return StreamPorts(
        http=httpx.AsyncClient(transport=transport),
        sockets=PacedSockets(per_second=SETTINGS.socket_opens_per_second),
        clock=SystemClock(),
        random=Random(1),
        metrics=metrics,
    )


@pytest.fixture
def streaming(ports: StreamPorts) -> Callable[..., Any]:
    """Give a context that runs our stream against a URL or a sandbox."""

    @asynccontextmanager
    async def run(server: Sandbox | str, **changes: Any) -> AsyncIterator[Streaming]:
        url = server if isinstance(server, str) else server.url
        settings = replace(SETTINGS, stream_url=url, **changes)
        stream = MetaApiStream(settings, overlap_seconds=60, ports=ports)
        async with asyncio.TaskGroup() as group:
            try:
                yield Streaming(stream, group)
            finally:
                await stream.close()

    return run


class Sdk:
    """The SDK twice: as it comes, and contained. One client of each kind and server."""

    def __init__(self, ports: StreamPorts) -> None:
        self._ports = ports
        self._calls = Calls(metrics=ports.metrics)
        self._plain: dict[str, MetaApi] = {}
        self._contained: dict[str, StreamClient] = {}
        self._http = httpx.AsyncClient()

    def api(self, kind: str, url: str = NOWHERE, **changes: Any) -> MetaApi:
        """Return a kind's client for a server; `changes` are those of our settings."""
        settings = replace(
            SETTINGS, stream_url=url, provisioning_url=url, client_url=url, **changes
        )
        if kind == "contained":
            return self._contain(url, settings)._api
        if url not in self._plain:
            self._plain[url] = api = MetaApi(DEFAULT_TOKEN, {})
            ws = api._metaapi_websocket_client
            ws.set_url(url)
            ws._connect_timeout = settings.connect_timeout_seconds  # a float, which opts refuse
            http_client = ws._domain_client._http_client
            request_over(http_client, self._http, Routes(settings).rewrite)
        return self._plain[url]

    def client(self, url: str = NOWHERE) -> StreamClient:
        """Return the contained client of a server."""
        return self._contained[url]

    async def leave(self, kind: str, url: str, connection: Any) -> None:
        """Close a connection, as its kind does."""
        if kind == "contained":
            await self._contained[url].leave(connection, account_id=connection.account.id)
        else:
            await connection.close()

    def connection(
        self,
        kind: str,
        url: str,
        account_id: str,
        *,
        reliability: str = "regular",
        region: str = REGION,
    ) -> Any:
        """Make a connection; of the plain SDK with its own memory, of ours with our listener."""
        if kind == "contained":
            listener = StreamListener(
                EventBuffer(limit=1000),
                synced_through=datetime.now(UTC) - timedelta(hours=1),
                overlap_seconds=60,
                clock=self._ports.clock,
            )
            return self._contained[url].connection(
                account_of(account_id, reliability=reliability, region=region),
                region=region,
                listener=listener,
            )
        of = self._plain[url].metatrader_account_api
        account = MetatraderAccount(
            {
                "_id": account_id,
                "region": region,
                "reliability": reliability,
                "state": "DEPLOYED",
                "server": "Sandbox-Demo",
                "type": "cloud-g2",
            },
            of._metatrader_account_client,
            of._metaapi_websocket_client,
            of._connection_registry,
            of._expert_advisor_client,
            of._historical_market_data_client,
            of._application,
        )
        return account.get_streaming_connection(_Memory())

    async def close(self) -> None:
        """End every client and what it left running."""
        for api in self._plain.values():
            await dismantle(api, calls=self._calls)
        for client in self._contained.values():
            await client.close()
        left = 1
        for _ in range(5):  # the plain SDK's loops wait for each other (B13), and end in turns
            left = left and await cancel_leftovers(calls=[self._calls])
        assert left == 0
        await self._http.aclose()

    def _contain(self, url: str, settings: MetaApiSettings) -> StreamClient:
        if url not in self._contained:
            sockets = PacedSockets(per_second=settings.socket_opens_per_second)
            parts = ClientParts(settings=settings, ports=replace(self._ports, sockets=sockets))
            secret = SETTINGS.tokens["main"]
            self._contained[url] = StreamClient(secret, name="main", parts=parts)
        return self._contained[url]


class _Memory(MemoryHistoryStorage):
    """The SDK's own storage, without the files it would write to the working directory."""

    async def initialize(self, account_id: str, application: str = "MetaApi") -> None:
        """Load nothing."""

    async def update_disk_storage(self) -> None:
        """Write nothing."""


@pytest.fixture
async def sdk(ports: StreamPorts) -> AsyncIterator[Sdk]:
    """Give the SDK in both kinds."""
    prepare_process()
    both = Sdk(ports)
    yield both
    await both.close()
    if not both._plain:
        return
    del both
    with warnings.catch_warnings():  # it forgets to close a socket that was dropped
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class DealListener(SynchronizationListener):
    """Remembers the deals it gets; each takes its time, or is spoilt by what `spoil` raises."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.deals: list[str] = []
        self.spoil: BaseException | None = None

    async def on_deal_added(self, _instance_index: str, deal: Any) -> None:
        """Remember the deal."""
        spoil, self.spoil = self.spoil, None
        if spoil is not None:
            raise spoil
        self.deals.append(deal["id"])
        await asyncio.sleep(self.seconds)


class Feed:
    """Feeds a websocket client with the packets of one account, as a socket would."""

    def __init__(self, ws: Any, account_id: str = "acc") -> None:
        self.ws = ws
        self.account_id = account_id
        self._numbers = {0: count(), 1: count()}
        self._times = count(1)
        ws.add_account_cache(account_id, {REGION: account_id})
        ws._subscription_manager._subscription_state[account_id] = True
        ws._latency_service._latency_cache[REGION] = 0.0

    def send(self, type: str, *, instance: int = 0, **fields: Any) -> None:  # noqa: A002
        """Queue one sequenced packet."""
        packet = {
            "type": type,
            "accountId": self.account_id,
            "instanceIndex": instance,
            "host": f"host-{instance}",
            "sequenceNumber": next(self._numbers[instance]),
            "sequenceTimestamp": next(self._times),
            **fields,
        }
        self.ws.queue_packet(packet)

    def start(self, *, instance: int = 0, sync: str = "sync") -> None:
        """Begin a synchronization."""
        self.send("synchronizationStarted", instance=instance, synchronizationId=sync)

    def finish(self, *, instance: int = 0, sync: str = "sync") -> None:
        """End it."""
        self.send("dealSynchronizationFinished", instance=instance, synchronizationId=sync)

    def deal(self, deal_id: str, *, instance: int = 0) -> None:
        """Send one live deal."""
        self.send("update", instance=instance, deals=[{"id": deal_id}])


@pytest.fixture
def feed() -> Callable[..., Feed]:
    """Give the maker of feeds."""
    return Feed


@pytest.fixture
def deal_listener() -> Callable[..., DealListener]:
    """Give the maker of listeners."""
    return DealListener
