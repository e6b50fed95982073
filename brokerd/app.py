"""The composition root: names every concrete class, builds bottom-up, and ends in order."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from random import Random

import httpx
import structlog
import uvloop
from prometheus_client import CollectorRegistry

from brokerd.api.app import Routes, create_app
from brokerd.api.events import EventRoutes
from brokerd.api.feed import Feed, Limits
from brokerd.api.hints import Hints, LocalHints
from brokerd.api.links import LinkRoutes
from brokerd.api.postgres import PostgresRegistry
from brokerd.api.postgres_quarantine import PostgresQuarantineReader, QuarantineSize
from brokerd.api.postgres_reads import postgres_reads
from brokerd.api.quarantine import QuarantineRoutes
from brokerd.api.readiness import READY, Readiness
from brokerd.api.reads import DealRoutes, ProbeRoutes, TotalsRoutes
from brokerd.api.redis import BestEffort, RedisHints, RedisSnapshots, namespace_of, open_redis
from brokerd.api.reporting import ForgettingLeases
from brokerd.api.server import ApiServer, bind
from brokerd.api.snapshots import NoSnapshots, Snapshots
from brokerd.clock import Clock, SystemClock
from brokerd.config.settings import Settings
from brokerd.connector.link import Link
from brokerd.connector.metaapi_rest.client import MetaApiRest
from brokerd.connector.metaapi_rest.retries import retrying
from brokerd.connector.metaapi_rest.transport import open_http
from brokerd.connector.metaapi_stream.client import StreamPorts
from brokerd.connector.metaapi_stream.stream import MetaApiStream
from brokerd.connector.ports import LinkPorts
from brokerd.domain import Claim, Incarnation
from brokerd.errors import BrokerdError, StoreUnavailable, leaves
from brokerd.health.notify import Notifier
from brokerd.health.watchdog import Watchdog
from brokerd.ledger.feed_watch import FeedWatch
from brokerd.ledger.partitions import Partitions
from brokerd.ledger.postgres import PostgresLedgerStore
from brokerd.ledger.postgres_feed import PostgresFeedReader
from brokerd.ledger.postgres_windows import PostgresWindows
from brokerd.ledger.writer import Writer
from brokerd.pool.drain import Orders, Service, serve
from brokerd.pool.gate import GatedStream
from brokerd.pool.heartbeat import Heartbeat
from brokerd.pool.manager import Manager
from brokerd.pool.postgres_leases import PostgresLeases
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.pool.slots import SlotPorts
from brokerd.queue.postgres import PostgresQueue
from brokerd.store.engine import Database, open_database
from brokerd.store.migrate import check
from brokerd.store.replica import open_replica
from brokerd.telemetry import Metrics, configure_logging

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FLUSH_SECONDS = 10.0
"""What the last deals may take to become durable once the links have drained."""
STREAM_CLOSE_SECONDS = 3.0
EXIT_FAILED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """What everything in a node is built on."""

    settings: Settings
    clock: Clock
    random: Random
    metrics: Metrics
    database: Database
    read_database: Database | None
    redis: BestEffort | None
    feed: Feed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Membership:
    """This process's place in the fleet."""

    incarnation: Incarnation
    nodes: PostgresNodes
    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A built node, ready to run."""

    membership: _Membership
    writer: Writer
    stream: MetaApiStream
    manager: Manager
    hints: RedisHints | None
    feed: Feed
    upkeep: Sequence[Partitions | FeedWatch]
    api: ApiServer
    readiness: Readiness
    watchdog: Watchdog
    notifier: Notifier


def run(settings: Settings) -> int:
    """Run a node until SIGTERM; return the process's exit code. Raises `ConfigInvalid`."""
    configure_logging(level=settings.log.level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_run(settings))
        except ExceptionGroup as group:
            failures = list(leaves(group))
            if not all(isinstance(failure, BrokerdError) for failure in failures):
                raise
            log.error("app.failed", problems=[str(failure) for failure in failures])  # noqa: TRY400
            return EXIT_FAILED
    return 0


async def _run(settings: Settings) -> None:
    orders = Orders()
    orders.listen()
    async with open_node(settings, notifier=Notifier(environ=os.environ, pid=os.getpid())) as node:
        await serve(
            _services(node),
            orders=orders,
            announce=lambda: _announce(node),
            drain=lambda: _drain(node),
        )


def _services(node: Node) -> Sequence[Service]:
    hints = () if node.hints is None else (node.hints,)
    return (
        node.writer,
        node.membership.heartbeat,
        node.manager,
        node.api,
        node.watchdog,
        node.feed,
        *hints,
        *node.upkeep,
    )


@asynccontextmanager
async def open_node(settings: Settings, *, notifier: Notifier) -> AsyncIterator[Node]:
    """Build a node and register it.

    Takes the API's address first: a second process started by mistake fails there, before its
    registration would fence the first. Raises `ConfigInvalid` for an address that is taken or a
    schema that is not ours, `StoreUnavailable` without Postgres.
    """
    metrics = Metrics(CollectorRegistry())
    metrics.build.labels(version=version("brokerd"), sdk=version("metaapi-cloud-sdk")).set(1)
    await check(settings.database.url)
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(bind(settings.api))
        database = await stack.enter_async_context(
            open_database(settings.database, metrics=metrics)
        )
        base = _Base(
            settings=settings,
            clock=SystemClock(),
            random=Random(),  # noqa: S311  # jitter, no secrets
            metrics=metrics,
            database=database,
            read_database=await stack.enter_async_context(
                open_replica(settings.database, metrics=metrics)
            ),
            redis=await _open_redis(stack, settings=settings, metrics=metrics),
            feed=_feed(settings, database, metrics=metrics),
        )
        heartbeats = await stack.enter_async_context(
            open_database(settings.database, metrics=metrics, max_connections=1)
        )
        partitions = _partitions(base)
        await partitions.prepare()  # before anything can be written
        membership = await _register(base, PostgresNodes(base.database, heartbeats=heartbeats))
        http = await stack.enter_async_context(open_http(settings.metaapi))
        node = _build(base, membership, http=http, listener=listener, notifier=notifier)
        yield replace(node, upkeep=(partitions, FeedWatch(base.database, metrics=metrics)))


async def _open_redis(
    stack: AsyncExitStack, *, settings: Settings, metrics: Metrics
) -> BestEffort | None:
    if settings.redis.url is None:
        return None
    return await stack.enter_async_context(
        open_redis(
            settings.redis.url, settings=settings.redis, clock=SystemClock(), metrics=metrics
        )
    )


async def _register(base: _Base, nodes: PostgresNodes) -> _Membership:
    settings = base.settings
    registered_at = base.clock.boottime()
    incarnation = await nodes.register(settings.node_name, max_links=settings.pool.max_links)
    heartbeat = Heartbeat(
        incarnation,
        nodes=nodes,
        settings=settings.pool,
        clock=base.clock,
        registered_at=registered_at,
    )
    heartbeat.show(base.metrics)
    return _Membership(incarnation=incarnation, nodes=nodes, heartbeat=heartbeat)


def _build(
    base: _Base,
    membership: _Membership,
    *,
    http: httpx.AsyncClient,
    listener: socket.socket,
    notifier: Notifier,
) -> Node:
    settings, clock, metrics = base.settings, base.clock, base.metrics
    snapshots = _snapshots(base)
    writer = Writer(
        PostgresLedgerStore(base.database, told=base.feed.wake),
        settings=settings.ledger,
        clock=clock,
        random=base.random,
        metrics=metrics,
    )
    stream = MetaApiStream(
        settings.metaapi,
        overlap_seconds=settings.link.stream_overlap_seconds,
        ports=StreamPorts(http=http, clock=clock, random=base.random, metrics=metrics),
    )
    links = _link_ports(
        base,
        http=http,
        stream=GatedStream(stream, heartbeat=membership.heartbeat),
        writer=writer,
    )
    manager = _manager(base, membership, links=links, snapshots=snapshots)
    hints = _hints(base, manager)
    registry = PostgresRegistry(base.database, settings=settings.queue, clock=clock)
    readiness = Readiness(registry, clock=clock)
    routes = _routes(
        base,
        registry=registry,
        snapshots=snapshots,
        hints=hints or LocalHints(manager.wake),
        readiness=readiness,
    )
    return Node(
        membership=membership,
        writer=writer,
        stream=stream,
        manager=manager,
        hints=hints,
        feed=base.feed,
        upkeep=(),
        api=ApiServer(create_app(routes, key=settings.api.key, metrics=metrics), listener=listener),
        readiness=readiness,
        watchdog=Watchdog(
            notifier,
            stalled_seconds=lambda: manager.stalled_seconds,
            clock=clock,
            metrics=metrics,
        ),
        notifier=notifier,
    )


def _link_ports(
    base: _Base, *, http: httpx.AsyncClient, stream: GatedStream, writer: Writer
) -> LinkPorts:
    settings, clock, metrics = base.settings, base.clock, base.metrics
    return LinkPorts(
        rest=MetaApiRest(
            http,
            settings=settings.metaapi,
            retrying=retrying(settings.metaapi.request_attempts, random=base.random),
            clock=clock,
            metrics=metrics,
        ),
        stream=stream,
        ledger=writer,
        windows=PostgresWindows(base.database),
        long_pulls=asyncio.Semaphore(settings.link.max_long_pulls),
        lease=PostgresLeases(base.database, patience_seconds=settings.queue.patience_seconds),
        settings=settings.link,
        clock=clock,
        random=base.random,
        metrics=metrics,
    )


def _manager(
    base: _Base, membership: _Membership, *, links: LinkPorts, snapshots: Snapshots
) -> Manager:
    def build(claim: Claim) -> Link:
        lease = ForgettingLeases(links.lease, link_id=claim.link_id, snapshots=snapshots)
        return Link(claim, ports=replace(links, lease=lease))

    return Manager(
        membership.incarnation,
        queue=PostgresQueue(base.database),
        heartbeat=membership.heartbeat,
        ports=SlotPorts(
            build=build,
            leases=links.lease,
            settings=base.settings.link,
            clock=base.clock,
            random=base.random,
            metrics=base.metrics,
        ),
        settings=base.settings.pool,
    )


def _snapshots(base: _Base) -> Snapshots:
    if base.redis is None:
        return NoSnapshots()
    namespace = namespace_of(base.settings.database.url)
    return RedisSnapshots(base.redis, settings=base.settings.redis, namespace=namespace)


def _hints(base: _Base, manager: Manager) -> RedisHints | None:
    if base.redis is None:
        return None
    namespace = namespace_of(base.settings.database.url)
    return RedisHints(base.redis, wake=manager.wake, namespace=namespace)


def _partitions(base: _Base) -> Partitions:
    return Partitions(
        base.database,
        retention_days=base.settings.ledger.events_retention_days,
        clock=base.clock,
        metrics=base.metrics,
    )


def _feed(settings: Settings, database: Database, *, metrics: Metrics) -> Feed:
    return Feed(
        PostgresFeedReader(database),
        wake=asyncio.Event(),
        limits=Limits(
            max_streams=settings.api.max_streams,
            buffer_bytes=settings.api.stream_buffer_bytes,
            poll_seconds=settings.ledger.feed_poll_seconds,
        ),
        metrics=metrics,
    )


def _routes(
    base: _Base,
    *,
    registry: PostgresRegistry,
    snapshots: Snapshots,
    hints: Hints,
    readiness: Readiness,
) -> Routes:
    def registry_of(database: Database) -> PostgresRegistry:
        if database is base.database:
            return registry  # whose cached standing forgets what clients changed
        return PostgresRegistry(database, settings=base.settings.queue, clock=base.clock)

    reads = postgres_reads(
        base.database,
        copy=base.read_database,
        registry=registry_of,
        clock=base.clock,
        metrics=base.metrics,
    )
    return Routes(
        links=LinkRoutes(
            registry=registry,
            pages=reads.links,
            snapshots=snapshots,
            hints=hints,
            clock=base.clock,
            tokens=frozenset(base.settings.metaapi.tokens),
        ),
        deals=DealRoutes(reads=reads.deals),
        totals=TotalsRoutes(reads=reads.totals),
        events=EventRoutes(feed=base.feed, metrics=base.metrics),
        quarantine=QuarantineRoutes(records=PostgresQuarantineReader(base.database)),
        probes=ProbeRoutes(
            readiness=readiness,
            metrics=base.metrics.registry,
            sampled=[*reads.sampled, QuarantineSize(base.database, metrics=base.metrics)],
        ),
    )


async def _announce(node: Node) -> None:
    """Tell the world once the first plan was made."""
    await node.manager.first_plan.wait()
    node.readiness.enter(READY)
    node.notifier.ready()
    log.info("app.ready", incarnation=node.membership.incarnation, url=node.api.url)


async def _drain(node: Node) -> None:
    """Stop intake, flush, release, say farewell; the API answers to the last."""
    node.readiness.enter("draining")
    node.notifier.stopping()
    log.info("app.draining", incarnation=node.membership.incarnation)
    await node.manager.drain()
    try:
        async with asyncio.timeout(FLUSH_SECONDS):
            await node.writer.drain()
    except TimeoutError:
        log.warning("app.flush_timed_out", limit_seconds=FLUSH_SECONDS)
    with suppress(TimeoutError):
        async with asyncio.timeout(STREAM_CLOSE_SECONDS):
            await node.stream.close()
    with suppress(StoreUnavailable):  # then others bury us after a lease of silence
        await node.membership.nodes.retire(node.membership.incarnation)
    node.feed.stop()  # an open stream would keep the API from stopping
    node.api.stop()
