"""Builds a node bottom-up, registers it, and closes what it opened."""

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from random import Random

import httpx
from prometheus_client import CollectorRegistry

from brokerd.api.app import create_app
from brokerd.api.hints import LocalHints
from brokerd.api.postgres import PostgresRegistry
from brokerd.api.readiness import Readiness
from brokerd.api.server import ApiServer, bind
from brokerd.app.governor import build_fleet, build_governor, build_quota_watch
from brokerd.app.links import (
    Remote,
    build_manager,
    build_operations,
    build_provisioner,
    link_ports,
    rest_ports,
)
from brokerd.app.parts import Foundation, Membership, Node
from brokerd.app.routes import (
    Served,
    build_routes,
    open_feed,
    open_hints,
    open_relay,
    open_snapshots,
)
from brokerd.clock import SystemClock
from brokerd.config.settings import Settings
from brokerd.connector.governor.governor import Governor
from brokerd.connector.governor.stream import GovernedStream
from brokerd.connector.metaapi_rest.transport import open_http
from brokerd.connector.metaapi_stream.parts import StreamPorts
from brokerd.connector.metaapi_stream.stream import MetaApiStream
from brokerd.connector.provisioning.sealing import Vault
from brokerd.health.calendar import calendar_of
from brokerd.health.desk import IncidentDesk
from brokerd.health.notify import Notifier
from brokerd.health.postgres_past import PostgresPast
from brokerd.health.recycle import Recycler, RecyclerPorts
from brokerd.health.upkeep import PastUpkeep
from brokerd.health.watchdog import Watchdog
from brokerd.ledger.feed_watch import FeedWatch
from brokerd.ledger.partitions import Partitions
from brokerd.ledger.postgres import PostgresLedgerStore
from brokerd.ledger.writer import Writer
from brokerd.pool.gate import GatedStream
from brokerd.pool.heartbeat import Heartbeat
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.store.engine import open_database
from brokerd.store.migrate import check
from brokerd.store.redis import BestEffort, open_redis
from brokerd.store.replica import open_replica
from brokerd.telemetry import Metrics


@asynccontextmanager
async def open_node(
    settings: Settings, *, notifier: Notifier, recycle: Callable[[], None]
) -> AsyncIterator[Node]:
    """Build a node and register it; `recycle` is called when it should start afresh.

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
        clock, calendar = SystemClock(), calendar_of(settings.health.markets)
        random = Random()  # noqa: S311  # jitter, no secrets
        redis = await _open_redis(stack, settings=settings, metrics=metrics)
        feed = open_feed(settings, database, metrics=metrics)
        base = Foundation(
            settings=settings,
            clock=clock,
            random=random,
            metrics=metrics,
            vault=Vault(settings.secrets, random_bytes=os.urandom),
            database=database,
            read_database=await stack.enter_async_context(
                open_replica(settings.database, metrics=metrics)
            ),
            redis=redis,
            feed=feed,
            relay=open_relay(settings, redis, feed=feed, random=random),
            calendar=calendar,
            incidents=IncidentDesk(
                settings.health, calendar=calendar, clock=clock, metrics=metrics
            ),
        )
        heartbeats = await stack.enter_async_context(
            open_database(settings.database, metrics=metrics, max_connections=1)
        )
        fleet = build_fleet(base)
        partitions = _partitions(base)
        await partitions.prepare()  # before anything can be written
        membership = await _register(base, PostgresNodes(base.database, heartbeats=heartbeats))
        await fleet.prepare()
        ports = NodePorts(
            http=await stack.enter_async_context(open_http(settings.metaapi)),
            governor=build_governor(base, fleet),
            listener=listener,
            notifier=notifier,
        )
        node = _build(base, membership, ports)
        rest = rest_ports(base, http=ports.http, governor=ports.governor)
        upkeep = (
            partitions,
            FeedWatch(base.database, metrics=metrics),
            PastUpkeep(PostgresPast(base.database)),
            base.incidents,
            fleet,
            build_quota_watch(base, fleet, governor=ports.governor, rest=rest),
            _recycler(base, node.stream, recycle=recycle),
        )
        yield replace(node, upkeep=upkeep)


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


async def _register(base: Foundation, nodes: PostgresNodes) -> Membership:
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
    return Membership(incarnation=incarnation, nodes=nodes, heartbeat=heartbeat)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePorts:
    """The node's ways in and out."""

    http: httpx.AsyncClient
    governor: Governor
    listener: socket.socket
    notifier: Notifier


def _build(base: Foundation, membership: Membership, ports: NodePorts) -> Node:
    settings, clock, metrics = base.settings, base.clock, base.metrics
    snapshots = open_snapshots(base)
    writer = Writer(
        PostgresLedgerStore(base.database, told=base.tell),
        settings=settings.ledger,
        clock=clock,
        random=base.random,
        metrics=metrics,
    )
    stream = MetaApiStream(
        settings.metaapi,
        overlap_seconds=settings.link.stream_overlap_seconds,
        ports=StreamPorts(
            http=ports.http,
            sockets=ports.governor,
            clock=clock,
            random=base.random,
            metrics=metrics,
        ),
    )
    operations = build_operations(base, membership)
    rest = rest_ports(base, http=ports.http, governor=ports.governor)
    provisioner = build_provisioner(base, membership, rest=rest)
    remote = Remote(
        rest=rest,
        provisioner=provisioner,
        stream=GatedStream(
            GovernedStream(stream, gate=ports.governor), heartbeat=membership.heartbeat
        ),
    )
    links = link_ports(base, remote=remote, writer=writer, operations=operations)
    manager = build_manager(
        base, membership, links=links, provisioner=provisioner, snapshots=snapshots
    )

    def wake() -> None:
        manager.wake.set()
        operations.wake.set()

    hints = open_hints(base, wake)
    registry = PostgresRegistry(base.database, settings=settings.queue, clock=clock)
    readiness = Readiness(registry, clock=clock)
    routes = build_routes(
        base,
        Served(
            registry=registry,
            snapshots=snapshots,
            hints=hints or LocalHints(wake),
            readiness=readiness,
            governor=ports.governor,
        ),
    )
    return Node(
        membership=membership,
        writer=writer,
        stream=stream,
        manager=manager,
        operations=operations,
        hints=[each for each in (hints, base.relay) if each is not None],
        feed=base.feed,
        upkeep=(),
        api=ApiServer(
            create_app(routes, key=settings.api.key, metrics=metrics), listener=ports.listener
        ),
        readiness=readiness,
        watchdog=Watchdog(
            ports.notifier,
            stalled_seconds=lambda: manager.stalled_seconds,
            clock=clock,
            metrics=metrics,
        ),
        notifier=ports.notifier,
    )


def _recycler(base: Foundation, stream: MetaApiStream, *, recycle: Callable[[], None]) -> Recycler:
    return Recycler(
        tend=stream.tend,
        connections_made=lambda: stream.connections_made,
        recycle=recycle,
        ports=RecyclerPorts(clock=base.clock, random=base.random, metrics=base.metrics),
        settings=base.settings.health,
    )


def _partitions(base: Foundation) -> Partitions:
    return Partitions(
        base.database,
        retention_days=base.settings.ledger.events_retention_days,
        clock=base.clock,
        metrics=base.metrics,
    )
