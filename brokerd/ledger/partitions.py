"""The days of the feed: made ahead of time, dropped when they are older than anyone may be behind.

Any number of nodes may do this at once. New days are made under a lock of the transaction, as
tables of their own that are then attached: `CREATE TABLE … PARTITION OF` would wait for every
reader of the feed, a backup for instance, and keep all writers waiting behind it. Old days are one
node's turn; what a killed one left in the middle is found by its name and finished by the next.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import sqlalchemy as sa
import structlog

from brokerd.clock import Clock
from brokerd.errors import StoreUnavailable
from brokerd.ledger.generation import follow_history
from brokerd.store.engine import Database
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

DAYS_AHEAD = 7
DAYS_NEEDED = 2
"""With fewer a human has little time left: without room nothing can be written."""
_LOCK_KEY = 0x62726F6B64617973  # "brokdays": one maker of days at a time
_PERIOD_SECONDS = 600.0
_RETRY_SECONDS = 15.0
_NAME = re.compile(r"events_(\d{8})")

_LOCK = sa.text("SELECT pg_advisory_xact_lock(:key)")
_DAYS = sa.text("""
SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date AS today, c.relname AS name,
    i.inhrelid IS NOT NULL AS is_attached, coalesce(i.inhdetachpending, false) AS is_leaving
FROM (SELECT 1) AS always LEFT JOIN pg_class c
    ON c.relnamespace = 'brokerd'::regnamespace AND c.relkind = 'r'
    AND c.relname ~ '^events_\\d{8}$'
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
ORDER BY c.relname
""")
_TAKE_TURN = sa.text("""
UPDATE brokerd.feed SET tended_at = clock_timestamp()
WHERE coalesce(tended_at < clock_timestamp() - make_interval(secs => :pause_seconds), true)
RETURNING true
""")
_PRUNE = """
UPDATE brokerd.feed SET pruned_generation = last.generation, pruned_xid = last.xid,
    pruned_seq = last.seq
FROM (SELECT generation, xid, seq FROM brokerd.{name}
    ORDER BY generation DESC, xid DESC, seq DESC LIMIT 1) AS last
WHERE (last.generation, last.xid, last.seq) > (pruned_generation, pruned_xid, pruned_seq)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A day's table, as the database shows it."""

    day: date
    is_attached: bool
    is_leaving: bool  # somebody began to detach it

    @property
    def name(self) -> str:
        """Return the table's name."""
        return day_name(self.day)


def day_name(day: date) -> str:
    """Name the table of a day."""
    return f"events_{day:%Y%m%d}"


def missing_days(days: Sequence[Day], *, today: date) -> Sequence[date]:
    """Return the days to make: from yesterday, for a clock that is set back, to a week ahead."""
    known = {each.day for each in days if each.is_attached}
    wanted = (today + timedelta(days=n) for n in range(-1, DAYS_AHEAD + 1))
    return [day for day in wanted if day not in known]


def old_days(days: Sequence[Day], *, today: date, retention_days: int) -> Sequence[Day]:
    """Return the days whose last moment is longer ago than the retention."""
    return [each for each in days if each.day < today - timedelta(days=retention_days)]


class Partitions:
    """Keeps the feed's days; a service."""

    name = "ledger.partitions"

    def __init__(
        self, database: Database, *, retention_days: int, clock: Clock, metrics: Metrics
    ) -> None:
        self._database = database
        self._retention_days = retention_days
        self._clock = clock
        self._last_day = date.min
        self._is_delayed = False
        self._is_short = False
        metrics.events_days_ahead.set_function(self._days_ahead)

    async def run(self) -> None:
        """Tend the days for ever; a store that is away is asked again."""
        while True:
            try:
                await self.prepare()
                await self.drop_old()
            except StoreUnavailable as failure:
                level = log.debug if self._is_delayed else log.warning
                level("feed.upkeep_delayed", problem=str(failure))
                self._is_delayed = True
            else:
                self._is_delayed = False
            self._watch_room()
            await asyncio.sleep(_RETRY_SECONDS if self._is_delayed else _PERIOD_SECONDS)

    async def prepare(self) -> None:
        """Make the feed fit to be written: its generation, and room for a week.

        Raises `StoreUnavailable`. To be called before anything is written.
        """
        await follow_history(self._database)
        async with self._database.transaction() as connection:
            await connection.execute(_LOCK, {"key": _LOCK_KEY})
            today, days = _read((await connection.execute(_DAYS)).all())
            for day in missing_days(days, today=today):
                for statement in _making(day):
                    await connection.exec_driver_sql(statement)
        self._last_day = today + timedelta(days=DAYS_AHEAD)

    async def drop_old(self) -> None:
        """Detach and drop what is too old, if it is our turn. Raises `StoreUnavailable`."""
        async with self._database.statement() as connection:
            pause = {"pause_seconds": _PERIOD_SECONDS * 0.9}
            if (await connection.execute(_TAKE_TURN, pause)).one_or_none() is None:
                return
            today, days = _read((await connection.execute(_DAYS)).all())
        for old in old_days(days, today=today, retention_days=self._retention_days):
            for statement in _dropping(old):
                # each its own transaction: detaching concurrently refuses to be inside one
                async with self._database.statement() as connection:
                    await connection.exec_driver_sql(statement)
            log.info("feed.day_dropped", day=old.day.isoformat())

    def _watch_room(self) -> None:
        """Call for a human once, while there is still some room."""
        days_ahead = self._days_ahead()
        is_short = days_ahead < DAYS_NEEDED
        if is_short and not self._is_short:
            log.error("feed.days_short", days_ahead=days_ahead)
        self._is_short = is_short

    def _days_ahead(self) -> int:
        return max(0, (self._last_day - self._clock.now().astimezone(UTC).date()).days)


def _read(rows: Sequence[sa.Row[tuple[object, ...]]]) -> tuple[date, Sequence[Day]]:
    named = [(row, _NAME.fullmatch(row.name)) for row in rows if row.name is not None]
    days = [
        Day(
            day=datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC).date(),
            is_attached=row.is_attached,
            is_leaving=row.is_leaving,
        )
        for row, match in named
        if match is not None
    ]
    return rows[0].today, days


def _making(day: date) -> Sequence[str]:
    """Return the statements that make a day; the names are ours, dates spelt by us."""
    name, following = day_name(day), day + timedelta(days=1)
    bounds = f"FROM ('{day} 00:00:00+00') TO ('{following} 00:00:00+00')"
    return (
        f"CREATE TABLE IF NOT EXISTS brokerd.{name} (LIKE brokerd.events INCLUDING ALL)",
        f"ALTER TABLE brokerd.events ATTACH PARTITION brokerd.{name} FOR VALUES {bounds}",
    )


def _dropping(old: Day) -> Sequence[str]:
    """Return the statements that drop a day, from wherever somebody left off."""
    drop = f"DROP TABLE brokerd.{old.name}"
    if not old.is_attached:
        return (drop,)
    if old.is_leaving:
        return (f"ALTER TABLE brokerd.events DETACH PARTITION brokerd.{old.name} FINALIZE", drop)
    return (
        _PRUNE.format(name=old.name),
        f"ALTER TABLE brokerd.events DETACH PARTITION brokerd.{old.name} CONCURRENTLY",
        drop,
    )
