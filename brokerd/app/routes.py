"""Builds what the API serves, and what stands between it and the database."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from brokerd.api.app import Routes
from brokerd.api.budgets import Books, BudgetGauges, BudgetRoutes
from brokerd.api.credentials import CredentialRoutes, Purse
from brokerd.api.events import EventRoutes
from brokerd.api.explain import ExplainRoutes
from brokerd.api.feed import Feed, Limits
from brokerd.api.hints import Hints
from brokerd.api.links import LinkRoutes
from brokerd.api.operations import OperationRoutes
from brokerd.api.postgres import PostgresRegistry
from brokerd.api.postgres_operations import PostgresOperationRegistry
from brokerd.api.postgres_quarantine import PostgresQuarantineReader, QuarantineSize
from brokerd.api.postgres_reads import postgres_reads
from brokerd.api.quarantine import QuarantineRoutes
from brokerd.api.readiness import Readiness
from brokerd.api.reads import DealRoutes, ProbeRoutes, TotalsRoutes
from brokerd.api.redis import RedisHints, RedisSnapshots
from brokerd.api.relay import FeedRelay
from brokerd.api.snapshots import NoSnapshots, Snapshots
from brokerd.app.parts import Foundation
from brokerd.config.settings import Settings
from brokerd.connector.governor.governor import Governor
from brokerd.connector.governor.postgres import PostgresCensus
from brokerd.connector.provisioning.budgets import limits_of
from brokerd.connector.provisioning.postgres import PostgresSpend
from brokerd.connector.provisioning.prices import prices_of
from brokerd.health.postgres_past import PostgresPast
from brokerd.ledger.postgres_feed import PostgresFeedReader
from brokerd.store.engine import Database
from brokerd.store.redis import BestEffort, namespace_of
from brokerd.telemetry import Metrics


def open_snapshots(base: Foundation) -> Snapshots:
    """Keep snapshots of links in Redis, or none without it."""
    if base.redis is None:
        return NoSnapshots()
    namespace = namespace_of(base.settings.database.url)
    return RedisSnapshots(base.redis, settings=base.settings.redis, namespace=namespace)


def open_hints(base: Foundation, wake: Callable[[], None]) -> RedisHints | None:
    """Listen for hints of other nodes through Redis; None without it."""
    if base.redis is None:
        return None
    namespace = namespace_of(base.settings.database.url)
    return RedisHints(base.redis, wake=wake, namespace=namespace)


def open_feed(settings: Settings, database: Database, *, metrics: Metrics) -> Feed:
    """Build the process's one reader of the feed."""
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


def open_relay(
    settings: Settings, redis: BestEffort | None, *, feed: Feed, random: Random
) -> FeedRelay | None:
    """Let other nodes know through Redis that something was told; None without it."""
    if redis is None:
        return None
    return FeedRelay(
        redis,
        wake=feed.wake.set,
        namespace=namespace_of(settings.database.url),
        sender=random.randbytes(8),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the API speaks for; of the governor it shows the metrics."""

    registry: PostgresRegistry
    snapshots: Snapshots
    hints: Hints
    readiness: Readiness
    governor: Governor


def open_books(settings: Settings, database: Database) -> Books:
    """Build what reads everything about money."""
    return Books(
        spend=PostgresSpend(database),
        census=PostgresCensus(database),
        limits=limits_of(settings.budgets),
        prices=prices_of(settings.money),
    )


def build_routes(base: Foundation, served: Served) -> Routes:
    """Build everything the API answers with."""

    def registry_of(database: Database) -> PostgresRegistry:
        if database is base.database:
            return served.registry  # whose cached standing forgets what clients changed
        return PostgresRegistry(database, settings=base.settings.queue, clock=base.clock)

    reads = postgres_reads(
        base.database,
        copy=base.read_database,
        registry=registry_of,
        clock=base.clock,
        metrics=base.metrics,
    )
    books = open_books(base.settings, base.database)
    return Routes(
        links=LinkRoutes(
            registry=served.registry,
            pages=reads.links,
            snapshots=served.snapshots,
            hints=served.hints,
            clock=base.clock,
            calendar=base.calendar,
            tokens=frozenset(base.settings.metaapi.tokens),
            can_create=base.vault.has_keys,
        ),
        explain=ExplainRoutes(
            registry=served.registry, past=PostgresPast(base.database), calendar=base.calendar
        ),
        credentials=CredentialRoutes(
            registry=served.registry,
            book=served.registry,
            purse=Purse(
                spend=books.spend,
                limits=books.limits,
                failed_attempt_usd=books.prices.failed_attempt,
            ),
            vault=base.vault,
            snapshots=served.snapshots,
            hints=served.hints,
            metrics=base.metrics,
        ),
        budgets=BudgetRoutes(books=books),
        deals=DealRoutes(reads=reads.deals),
        totals=TotalsRoutes(reads=reads.totals),
        events=EventRoutes(feed=base.feed, metrics=base.metrics),
        quarantine=QuarantineRoutes(records=PostgresQuarantineReader(base.database)),
        operations=OperationRoutes(
            operations=PostgresOperationRegistry(
                base.database, expire_seconds=base.settings.operations.expire_seconds
            ),
            registry=served.registry,
            hints=served.hints,
        ),
        probes=ProbeRoutes(
            readiness=served.readiness,
            metrics=base.metrics.registry,
            sampled=[
                *reads.sampled,
                QuarantineSize(base.database, metrics=base.metrics),
                BudgetGauges(books, metrics=base.metrics),
                served.governor,
            ],
        ),
    )
