"""Builds what runs links: the ports of one link, and the pool that fills the slots."""

import asyncio
from dataclasses import replace

import httpx

from brokerd.api.reporting import ForgettingLeases
from brokerd.api.snapshots import Snapshots
from brokerd.app.parts import Foundation, Membership
from brokerd.connector.governor.governor import Governor
from brokerd.connector.link import Link
from brokerd.connector.metaapi_rest.client import MetaApiRest
from brokerd.connector.metaapi_rest.retries import retrying
from brokerd.connector.metaapi_rest.transport import RestPorts
from brokerd.connector.ports import LinkPorts, StreamPort
from brokerd.domain import Claim
from brokerd.ledger.postgres_windows import PostgresWindows
from brokerd.ledger.writer import Writer
from brokerd.pool.manager import Manager
from brokerd.pool.postgres_leases import PostgresLeases
from brokerd.pool.slots import SlotPorts
from brokerd.queue.postgres import PostgresQueue


def link_ports(
    base: Foundation,
    *,
    http: httpx.AsyncClient,
    governor: Governor,
    stream: StreamPort,
    writer: Writer,
) -> LinkPorts:
    """Build what every link of the node is made of."""
    settings, clock, metrics = base.settings, base.clock, base.metrics
    return LinkPorts(
        rest=MetaApiRest(
            settings.metaapi,
            ports=RestPorts(
                http=http,
                retrying=retrying(settings.metaapi.request_attempts, random=base.random),
                gate=governor,
                clock=clock,
                metrics=metrics,
            ),
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
