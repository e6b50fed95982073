"""Builds the one way out to MetaApi, and what divides its budgets among the fleet."""

import asyncio

from brokerd.app.parts import Foundation
from brokerd.connector.governor.fleet import Fleet
from brokerd.connector.governor.governor import Governor, GovernorPorts
from brokerd.connector.governor.pace import Pace
from brokerd.connector.governor.postgres import PostgresCensus
from brokerd.connector.governor.quota_watch import QuotaWatch
from brokerd.connector.governor.redis import RedisPot
from brokerd.connector.metaapi_rest.quotas import MetaApiQuotas
from brokerd.connector.metaapi_rest.raw import MetaApiRaw
from brokerd.connector.metaapi_rest.transport import RestPorts
from brokerd.store.redis import namespace_of


def build_fleet(base: Foundation) -> Fleet:
    """Build what knows how many nodes there are, and for how many accounts."""
    return Fleet(
        PostgresCensus(base.database),
        node_count_seconds=base.settings.governor.node_count_seconds,
    )


def build_governor(base: Foundation, fleet: Fleet) -> Governor:
    """Build the governor, with a pot that all nodes share if there is a Redis."""
    metaapi = base.settings.metaapi
    return Governor(
        base.settings.governor,
        ports=GovernorPorts(
            fleet=fleet,
            pot=_open_pot(base),
            pace=Pace(per_second=metaapi.requests_per_second, burst=metaapi.requests_per_second),
            socket_pace=Pace(per_second=metaapi.socket_opens_per_second),
            clock=base.clock,
            sleep=asyncio.sleep,
            metrics=base.metrics,
        ),
    )


def build_quota_watch(
    base: Foundation, fleet: Fleet, *, governor: Governor, rest: RestPorts
) -> QuotaWatch:
    """Build what warns before MetaApi's quotas refuse links."""
    return QuotaWatch(
        MetaApiQuotas(MetaApiRaw(base.settings.metaapi, ports=rest)),
        fleet=fleet,
        subscriptions=governor.subscriptions,
        settings=base.settings.governor,
        metrics=base.metrics,
    )


def _open_pot(base: Foundation) -> RedisPot | None:
    if base.redis is None:
        return None
    namespace = namespace_of(base.settings.database.url)
    return RedisPot(base.redis, namespace=namespace, clock=base.clock)
