"""Whether the feed stands still, since when, and who holds it: any open transaction may."""

import asyncio

import sqlalchemy as sa
import structlog

from brokerd.errors import StoreUnavailable
from brokerd.store.engine import Database
from brokerd.telemetry import FEED_HOLDERS, Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_PERIOD_SECONDS = 5.0
_STALLED_SECONDS = 10.0
"""From when on a feed that stands still is logged."""

# What is committed but must wait, and the oldest transaction of each kind that others wait for.
# Without pg_read_all_stats we see only our own role's; then the holder stays unnamed.
_LOOK = sa.text("""
SELECT coalesce(extract(epoch FROM clock_timestamp() - (
    SELECT created_at FROM brokerd.events
    WHERE (generation, xid) >= (
        (SELECT brokerd.feed_generation()), pg_snapshot_xmin(pg_current_snapshot()))
    ORDER BY generation, xid, seq LIMIT 1
))::float8, 0) AS stall_seconds, h.*
FROM (SELECT 1) AS always LEFT JOIN (
    SELECT CASE application_name WHEN 'brokerd' THEN 'brokerd' ELSE 'other' END AS holder,
        pid, application_name AS name, state,
        extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age_seconds
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    UNION ALL
    SELECT 'prepared', NULL, gid, 'prepared',
        extract(epoch FROM clock_timestamp() - prepared)::float8
    FROM pg_prepared_xacts
) h ON true
ORDER BY h.age_seconds DESC NULLS LAST
""")


class FeedWatch:
    """Measures the feed's stall; a service."""

    name = "ledger.feed_watch"

    def __init__(self, database: Database, *, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        self._is_stalled = False

    async def run(self) -> None:
        """Look for ever; a store that is away is not looked at."""
        while True:
            try:
                await self.look()
            except StoreUnavailable as failure:
                log.debug("feed.look_delayed", problem=str(failure))
            await asyncio.sleep(_PERIOD_SECONDS)

    async def look(self) -> None:
        """Measure once. Raises `StoreUnavailable`."""
        async with self._database.statement() as connection:
            rows = (await connection.execute(_LOOK)).all()
        stall_seconds = max(0.0, rows[0].stall_seconds)
        self._metrics.feed_stall.set(stall_seconds)
        for holder in FEED_HOLDERS:
            ages = [row.age_seconds for row in rows if row.holder == holder]
            self._metrics.feed_holder_age.labels(holder=holder).set(max(ages, default=0.0))
        is_stalled = stall_seconds > _STALLED_SECONDS
        if is_stalled and not self._is_stalled:
            oldest = rows[0]
            log.warning(
                "feed.stalled",
                stall_seconds=round(stall_seconds, 1),
                holder=oldest.holder,
                pid=oldest.pid,
                name=oldest.name,
                state=oldest.state,
                age_seconds=oldest.age_seconds,
            )
        if self._is_stalled and not is_stalled:
            log.info("feed.recovered")
        self._is_stalled = is_stalled
