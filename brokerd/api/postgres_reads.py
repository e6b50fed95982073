"""The readers of lists over Postgres and over its replica, and what to sample of both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from brokerd.api.ports import DealReader, Registry, TotalsReader
from brokerd.api.postgres_deals import PostgresDealReader
from brokerd.api.postgres_totals import PostgresTotalsReader
from brokerd.api.reads import Sampled
from brokerd.api.replica import Copy, Reads, Replica
from brokerd.clock import Clock
from brokerd.store.engine import Database
from brokerd.store.replica import lag_seconds
from brokerd.store.statistics import DatabaseStatistics
from brokerd.telemetry import Metrics

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresReads:
    """One way to read for each kind of list; `sampled` are the metrics that a scrape asks for."""

    links: Reads[Registry]
    deals: Reads[DealReader]
    totals: Reads[TotalsReader]
    sampled: Sequence[Sampled]


def postgres_reads(
    database: Database,
    *,
    copy: Database | None,
    registry: Callable[[Database], Registry],
    clock: Clock,
    metrics: Metrics,
) -> PostgresReads:
    """Build the readers; `copy` is the replica's pool."""
    replica = None
    statistics = DatabaseStatistics(database, clock=clock, metrics=metrics)
    if copy is not None:
        replica = Replica(partial(lag_seconds, copy), clock=clock, metrics=metrics)

    def reads(make: Callable[[Database], R]) -> Reads[R]:
        if copy is None or replica is None:
            return Reads(primary=make(database))
        copied = Copy(reader=make(copy), replica=replica)
        return Reads(primary=make(database), copy=copied)

    return PostgresReads(
        links=reads(registry),
        deals=reads(PostgresDealReader),
        totals=reads(PostgresTotalsReader),
        sampled=[statistics] if replica is None else [statistics, replica],
    )
