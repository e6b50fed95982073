"""Totals per account and day in Postgres: a page reads the deals of its own days and no others.

It goes from day to day: one step in the index of the account's deals, from the end of a day to the
next deal, then from account to account. Each day is summed up when it is found, so a page ends as
soon as it is full. A plain GROUP BY would sum up the whole span for every page.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from brokerd.api.ports import DayTotals, TotalsQuery
from brokerd.domain import AccountId, LinkId, UserId
from brokerd.store.engine import Database

# It begins behind a day that is not shown: the cursor's, if that is of an account of theirs. Days
# end after 24 hours, not after '1 day': that would follow the session's daylight saving time.
_TOTALS = """
WITH RECURSIVE page AS (
  SELECT CAST(:after_account AS bigint) AS account_id, (
      SELECT CAST(:after_day AS timestamptz) FROM brokerd.accounts AS a
      WHERE {owner} AND a.account_id = :after_account
    ) AS day, 0 AS place, CAST(0 AS numeric) AS deals_before, CAST(0 AS bigint) AS deals,
    CAST(0 AS bigint) AS trades, CAST(0 AS numeric) AS volume, CAST(0 AS numeric) AS profit,
    CAST(0 AS numeric) AS commission, CAST(0 AS numeric) AS swap, CAST(0 AS numeric) AS balance,
    CAST(0 AS numeric) AS credit
  UNION ALL
  SELECT next.account_id, next.day, page.place + 1, page.deals_before + page.deals, t.*
  FROM page
  LEFT JOIN LATERAL (
    SELECT date_trunc('day', time, 'UTC') AS day FROM brokerd.deals
    WHERE account_id = page.account_id AND removed_at IS NULL AND time < CAST(:end AS timestamptz)
      AND time >= greatest(CAST(:start AS timestamptz), page.day + interval '24 hours')
      AND page.day IS NOT NULL
    ORDER BY time LIMIT 1
  ) AS same ON true
  LEFT JOIN LATERAL (
    SELECT a.account_id, first.day
    FROM brokerd.accounts AS a
    CROSS JOIN LATERAL (
      SELECT date_trunc('day', time, 'UTC') AS day FROM brokerd.deals
      WHERE account_id = a.account_id AND removed_at IS NULL
        AND time < CAST(:end AS timestamptz) AND time >= CAST(:start AS timestamptz)
      ORDER BY time LIMIT 1
    ) AS first
    WHERE same.day IS NULL AND {owner} AND a.account_id > page.account_id
    ORDER BY a.account_id LIMIT 1
  ) AS other ON true
  CROSS JOIN LATERAL (
    SELECT coalesce(other.account_id, page.account_id) AS account_id,
      coalesce(same.day, other.day) AS day
  ) AS next
  CROSS JOIN LATERAL (
    SELECT count(*) AS deals, count(*) FILTER (WHERE is_trade) AS trades,
      coalesce(sum(volume) FILTER (WHERE is_trade), 0) AS volume, sum(profit) AS profit,
      sum(commission) AS commission, sum(swap) AS swap,
      coalesce(sum(profit + commission + swap) FILTER (WHERE book = 'balance'), 0) AS balance,
      coalesce(sum(profit + commission + swap) FILTER (WHERE book = 'credit'), 0) AS credit
    FROM brokerd.deals
    CROSS JOIN LATERAL (SELECT type IN ('DEAL_TYPE_BUY', 'DEAL_TYPE_SELL') AS is_trade)
    WHERE account_id = next.account_id AND removed_at IS NULL
      AND time >= greatest(next.day, CAST(:start AS timestamptz))
      AND time < least(next.day + interval '24 hours', CAST(:end AS timestamptz))
  ) AS t
  WHERE next.day IS NOT NULL AND page.place < :limit
    AND page.deals_before + page.deals < :max_deals
)
SELECT a.account_id, a.link_id, a.user_id, a.currency, page.*
FROM page JOIN brokerd.accounts AS a ON a.account_id = page.account_id
WHERE page.place > 0
ORDER BY page.place
"""
_OF_USER = sa.text(_TOTALS.format(owner="a.user_id = :owner"))
_OF_LINK = sa.text(
    _TOTALS.format(
        owner="a.account_id = (SELECT account_id FROM brokerd.accounts WHERE link_id = :owner"
        " ORDER BY deleted_at DESC NULLS FIRST LIMIT 1)"
    )
)

Row = sa.Row[tuple[object, ...]]


class PostgresTotalsReader:
    """A `TotalsReader` over table `deals`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def totals(self, query: TotalsQuery) -> Sequence[DayTotals]:
        """Read one keyset page."""
        async with self._database.statement() as connection:
            rows = (await connection.execute(totals_statement(query))).all()
        return [_totals(row) for row in rows]


def totals_statement(query: TotalsQuery) -> sa.TextClause:
    """Build the statement of a page."""
    after_account, after_day = query.after or (0, None)
    return (_OF_USER if query.link_id is None else _OF_LINK).bindparams(
        owner=query.user_id if query.link_id is None else query.link_id,
        start=query.start or "-infinity",
        end=query.end or "infinity",
        after_account=after_account,
        after_day=None
        if after_day is None
        else datetime(after_day.year, after_day.month, after_day.day, tzinfo=UTC),
        limit=query.limit,
        max_deals=query.max_deals,
    )


def _totals(row: Row) -> DayTotals:
    return DayTotals(
        account_id=AccountId(row.account_id),
        link_id=LinkId(row.link_id),
        user_id=UserId(row.user_id),
        currency=row.currency,
        day=row.day.astimezone(UTC).date(),
        deals=row.deals,
        trades=row.trades,
        volume=row.volume,
        profit=row.profit,
        commission=row.commission,
        swap=row.swap,
        balance=row.balance,
        credit=row.credit,
    )
