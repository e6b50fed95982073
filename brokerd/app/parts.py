"""What a node is made of: what everything is built on, its place in the fleet, and the whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from brokerd.api.feed import Feed
from brokerd.api.readiness import Readiness
from brokerd.api.redis import RedisHints
from brokerd.api.relay import FeedRelay
from brokerd.api.server import ApiServer
from brokerd.clock import Clock
from brokerd.config.settings import Settings
from brokerd.connector.metaapi_stream.stream import MetaApiStream
from brokerd.connector.provisioning.sealing import Vault
from brokerd.domain import Incarnation
from brokerd.health.calendar import Calendar
from brokerd.health.desk import IncidentDesk
from brokerd.health.notify import Notifier
from brokerd.health.watchdog import Watchdog
from brokerd.ledger.writer import Writer
from brokerd.pool.drain import Service
from brokerd.pool.heartbeat import Heartbeat
from brokerd.pool.manager import Manager
from brokerd.pool.operations import OperationDesk
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.store.engine import Database
from brokerd.store.redis import BestEffort
from brokerd.telemetry import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Foundation:
    """What everything in a node is built on."""

    settings: Settings
    clock: Clock
    random: Random
    metrics: Metrics
    vault: Vault
    database: Database
    read_database: Database | None
    redis: BestEffort | None
    feed: Feed
    relay: FeedRelay | None
    calendar: Calendar
    incidents: IncidentDesk

    def tell(self) -> None:
        """Wake whoever reads the feed, here and on other nodes: something was told."""
        if self.relay is None:
            self.feed.wake.set()
        else:
            self.relay.tell()


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """This process's place in the fleet."""

    incarnation: Incarnation
    nodes: PostgresNodes
    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A built node, ready to run."""

    membership: Membership
    writer: Writer
    stream: MetaApiStream
    manager: Manager
    operations: OperationDesk
    hints: Sequence[RedisHints | FeedRelay]
    feed: Feed
    upkeep: Sequence[Service]
    api: ApiServer
    readiness: Readiness
    watchdog: Watchdog
    notifier: Notifier
