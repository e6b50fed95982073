"""Builds what runs links: the ports of one link, and the pool that fills the slots."""

import asyncio
from dataclasses import replace

import httpx

from brokerd.api.reporting import ForgettingLeases
from brokerd.api.snapshots import Snapshots
from brokerd.app.parts import Foundation, Membership
from brokerd.connector.link import Link
from brokerd.connector.metaapi_rest.client import MetaApiRest
from brokerd.connector.metaapi_rest.retries import retrying
from brokerd.connector.ports import LinkPorts
from brokerd.domain import Claim
from brokerd.ledger.postgres_windows import PostgresWindows
from brokerd.ledger.writer import Writer
from brokerd.pool.gate import GatedStream
from brokerd.pool.manager import Manager
from brokerd.pool.operations import OperationDesk
from brokerd.pool.postgres_leases import PostgresLeases
from brokerd.pool.postgres_operations import PostgresOperations
from brokerd.pool.slots import SlotPorts
from brokerd.queue.postgres import PostgresQueue


def link_ports(
    base: Foundation,
    *,
    http: httpx.AsyncClient,
    stream: GatedStream,
    writer: Writer,
    operations: OperationDesk,
) -> LinkPorts:
    """Build what every link of the node is made of."""
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
        operations=operations,
        lease=PostgresLeases(
            base.database, patience_seconds=settings.queue.patience_seconds, told=base.tell
        ),
        settings=settings.link,
        clock=clock,
        random=base.random,
        metrics=metrics,
    )


def build_operations(base: Foundation, membership: Membership) -> OperationDesk:
    """Build where the node's links learn what clients asked of them."""
    return OperationDesk(
        membership.incarnation,
        store=PostgresOperations(base.database),
        settings=base.settings.operations,
        clock=base.clock,
        metrics=base.metrics,
    )


def build_manager(
    base: Foundation, membership: Membership, *, links: LinkPorts, snapshots: Snapshots
) -> Manager:
    """Build the pool, which builds each link from its claim."""

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
