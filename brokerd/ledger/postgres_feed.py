"""The feed in Postgres: pages of what is committed for good, read by index."""

from collections.abc import Mapping
from datetime import UTC

import sqlalchemy as sa

from brokerd.domain import AccountId, DealId, LinkId, UserId
from brokerd.errors import CursorLost
from brokerd.ledger.feed import (
    BEGINNING,
    EventType,
    FeedCursor,
    FeedEvent,
    FeedFilter,
    FeedPage,
)
from brokerd.store.engine import Database

# Everything of an older generation is committed: a generation ends with its writers. The moment a
# reader may trust and the events themselves are read in one snapshot.
_PAGE = """
WITH present AS MATERIALIZED (
    SELECT brokerd.feed_generation() AS generation_now, pg_snapshot_xmin(s) AS xmin,
        pg_snapshot_xmax(s) AS xmax, pruned_generation, pruned_xid, pruned_seq
    FROM brokerd.feed, pg_current_snapshot() s
)
SELECT present.*, e.*
FROM present LEFT JOIN (
    SELECT generation, xid, seq, account_id, account_seq, link_id, user_id, type, deal_id,
        revision, payload::text AS payload, created_at
    FROM brokerd.events
    WHERE (generation, xid, seq) > (:generation, CAST(CAST(:xid AS text) AS xid8), :seq)
        AND (generation, xid) < (
            (SELECT generation_now FROM present), (SELECT xmin FROM present))
        {wanted}
    ORDER BY generation, xid, seq LIMIT :limit
) e ON true
ORDER BY e.generation, e.xid, e.seq
"""

_END = sa.text("""
SELECT brokerd.feed_generation() AS generation, pg_snapshot_xmin(pg_current_snapshot()) AS xmin
""")

_Row = sa.Row[tuple[object, ...]]


class PostgresFeedReader:
    """A `FeedReader` over table `events`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, after: FeedCursor, *, wanted: FeedFilter, limit: int) -> FeedPage:
        """Read the wanted events behind a cursor, as many as `limit`."""
        async with self._database.statement() as connection:
            result = await connection.execute(
                statement(wanted), {**parameters(after, wanted), "limit": limit}
            )
            rows = result.all()
        if after != BEGINNING:
            _require_kept(after, rows[0])
        events = tuple(_event(row) for row in rows if row.seq is not None)
        is_whole = len(events) < limit
        through = FeedCursor(rows[0].generation_now, int(rows[0].xmin), 0)
        if not is_whole:
            through = events[-1].cursor if events else after
        return FeedPage(events=events, through=max(after, through), is_whole=is_whole)

    async def end(self) -> FeedCursor:
        """Return the place behind everything that can be read now."""
        async with self._database.statement() as connection:
            row = (await connection.execute(_END)).one()
        return FeedCursor(row.generation, int(row.xmin), 0)


def statement(wanted: FeedFilter) -> sa.TextClause:
    """Build the statement of a page."""
    conditions = [
        text
        for text, is_asked in (
            ("AND user_id = :user_id", wanted.user_id is not None),
            ("AND link_id = :link_id", wanted.link_id is not None),
            ("AND type = ANY(:types)", bool(wanted.types)),
        )
        if is_asked
    ]
    return sa.text(_PAGE.format(wanted=" ".join(conditions)))


def parameters(after: FeedCursor, wanted: FeedFilter) -> Mapping[str, object]:
    """Return what the statement is asked with, beside its limit."""
    asked: dict[str, object] = {
        "generation": after.generation,
        "xid": str(after.xid),
        "seq": after.seq,
    }
    if wanted.user_id is not None:
        asked["user_id"] = wanted.user_id
    if wanted.link_id is not None:
        asked["link_id"] = wanted.link_id
    if wanted.types:
        asked["types"] = sorted(wanted.types)
    return asked


def _require_kept(after: FeedCursor, row: _Row) -> None:
    """Refuse a cursor behind which something was dropped, or that history has taken back."""
    pruned = FeedCursor(row.pruned_generation, int(row.pruned_xid), row.pruned_seq)
    if after < pruned:
        raise CursorLost("the events behind it are no longer kept")
    if (after.generation, after.xid) > (row.generation_now, int(row.xmax)):
        raise CursorLost("it comes from a history that this database no longer has")


def _event(row: _Row) -> FeedEvent:
    return FeedEvent(
        cursor=FeedCursor(row.generation, int(row.xid), row.seq),
        type=EventType(row.type),
        account_id=AccountId(row.account_id),
        account_seq=row.account_seq,
        link_id=LinkId(row.link_id),
        user_id=UserId(row.user_id),
        deal_id=None if row.deal_id is None else DealId(row.deal_id),
        revision=row.revision,
        payload=row.payload,
        created_at=row.created_at.astimezone(UTC),
    )
