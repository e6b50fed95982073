"""Builds what runs links: the ports of one link, and the pool that fills the slots."""

import asyncio
from dataclasses import dataclass, replace

import httpx

from brokerd.api.reporting import ForgettingLeases
from brokerd.api.snapshots import Snapshots
from brokerd.app.parts import Foundation, Membership
from brokerd.connector.governor.governor import Governor
from brokerd.connector.link import Link
from brokerd.connector.metaapi_rest.client import MetaApiRest
from brokerd.connector.metaapi_rest.provisioning import MetaApiProvisioning
from brokerd.connector.metaapi_rest.retries import retrying
from brokerd.connector.metaapi_rest.transport import RestPorts
from brokerd.connector.ports import LinkPorts, StreamPort
from brokerd.connector.provisioning.budgets import limits_of
from brokerd.connector.provisioning.errand import Errand, ErrandPorts, is_errand
from brokerd.connector.provisioning.outcome import Judge
from brokerd.connector.provisioning.postgres import PostgresIntents
from brokerd.connector.provisioning.prices import prices_of
from brokerd.connector.provisioning.provisioner import Provisioner, ProvisionPorts
from brokerd.connector.provisioning.transitions import Transitions
from brokerd.domain import Claim
from brokerd.ledger.postgres_windows import PostgresWindows
from brokerd.ledger.writer import Writer
from brokerd.pool.gate import GatedProvisioning
from brokerd.pool.manager import Manager
from brokerd.pool.operations import OperationDesk
from brokerd.pool.ports import RunningLink
from brokerd.pool.postgres_leases import PostgresLeases
from brokerd.pool.postgres_operations import PostgresOperations
from brokerd.pool.slots import SlotPorts
from brokerd.queue.postgres import PostgresQueue


def rest_ports(base: Foundation, *, http: httpx.AsyncClient, governor: Governor) -> RestPorts:
    """Build what requests to MetaApi need from the rest of the node."""
    return RestPorts(
        http=http,
        retrying=retrying(base.settings.metaapi.request_attempts, random=base.random),
        gate=governor,
        clock=base.clock,
        metrics=base.metrics,
    )


def build_provisioner(base: Foundation, membership: Membership, *, rest: RestPorts) -> Provisioner:
    """Build what brings MetaApi accounts up and puts them away."""
    settings = base.settings
    provisioning = GatedProvisioning(
        MetaApiProvisioning(settings.metaapi, ports=rest), heartbeat=membership.heartbeat
    )
    return Provisioner(
        ProvisionPorts(
            rest=MetaApiRest(settings.metaapi, ports=rest),
            provisioning=provisioning,
            intents=PostgresIntents(base.database),
            vault=base.vault,
            transitions=Transitions(
                provisioning, poll_seconds=settings.provisioning.poll_seconds, clock=base.clock
            ),
            judge=Judge(prices=prices_of(settings.money), settings=settings.provisioning),
            limits=limits_of(settings.budgets),
            settings=settings.provisioning,
            random=base.random,
            metrics=base.metrics,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """MetaApi as the node's links reach it."""

    rest: RestPorts
    provisioner: Provisioner
    stream: StreamPort


def link_ports(
    base: Foundation, *, remote: Remote, writer: Writer, operations: OperationDesk
) -> LinkPorts:
    """Build what every link of the node is made of."""
    settings, clock, metrics = base.settings, base.clock, base.metrics
    return LinkPorts(
        rest=MetaApiRest(settings.metaapi, ports=remote.rest),
        provisioning=remote.provisioner,
        stream=remote.stream,
        ledger=writer,
        windows=PostgresWindows(base.database),
        long_pulls=asyncio.Semaphore(settings.link.max_long_pulls),
        operations=operations,
        lease=PostgresLeases(
            base.database, patience_seconds=settings.queue.patience_seconds, told=base.tell
        ),
        incidents=base.incidents,
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
    base: Foundation,
    membership: Membership,
    *,
    links: LinkPorts,
    provisioner: Provisioner,
    snapshots: Snapshots,
) -> Manager:
    """Build the pool, which builds each link, or its errand, from its claim."""
    errands = ErrandPorts(
        provisioner=provisioner,
        lease=links.lease,
        settings=base.settings.link,
        clock=base.clock,
        random=base.random,
        metrics=base.metrics,
    )

    def build(claim: Claim) -> RunningLink:
        lease = ForgettingLeases(links.lease, link_id=claim.link_id, snapshots=snapshots)
        if is_errand(claim):
            return Errand(claim, ports=replace(errands, lease=lease))
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
