"""Totals per account and day in Postgres: a page reads the deals of its own days and no others.

The days of a page are found first, each by one step in the index of the account's deals from the
end of the day before to the next deal. A plain GROUP BY would sum up the whole span for every page.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from brokerd.api.ports import DayTotals, TotalsQuery
from brokerd.domain import AccountId, LinkId, UserId
from brokerd.store.engine import Database

# Days end after 24 hours, not after '1 day': that would follow the session's daylight saving time.
_TOTALS = """
WITH days_of_page AS MATERIALIZED (
  SELECT a.account_id, d.day
  FROM brokerd.accounts AS a
  CROSS JOIN LATERAL (
    WITH RECURSIVE days (day) AS (
      (SELECT date_trunc('day', time, 'UTC') FROM brokerd.deals
       WHERE account_id = a.account_id AND removed_at IS NULL AND time < CAST(:end AS timestamptz)
         AND time >= CASE WHEN a.account_id = :after_account
           THEN greatest(CAST(:start AS timestamptz),
               CAST(:after_day AS timestamptz) + interval '24 hours')
           ELSE CAST(:start AS timestamptz) END
       ORDER BY time LIMIT 1)
      UNION ALL
      SELECT next.day FROM days CROSS JOIN LATERAL (
        SELECT date_trunc('day', time, 'UTC') AS day FROM brokerd.deals
        WHERE account_id = a.account_id AND removed_at IS NULL
          AND time < CAST(:end AS timestamptz) AND time >= days.day + interval '24 hours'
        ORDER BY time LIMIT 1) AS next
    )
    SELECT day FROM days LIMIT :limit
  ) AS d
  WHERE {owner} AND a.account_id >= :after_account
  ORDER BY a.account_id, d.day
  LIMIT :limit
)
SELECT a.account_id, a.link_id, a.user_id, a.currency, p.day, t.*
FROM days_of_page AS p
JOIN brokerd.accounts AS a ON a.account_id = p.account_id
CROSS JOIN LATERAL (
  SELECT count(*) AS deals, count(*) FILTER (WHERE is_trade) AS trades,
    coalesce(sum(volume) FILTER (WHERE is_trade), 0) AS volume, sum(profit) AS profit,
    sum(commission) AS commission, sum(swap) AS swap,
    coalesce(sum(profit + commission + swap) FILTER (WHERE book = 'balance'), 0) AS balance,
    coalesce(sum(profit + commission + swap) FILTER (WHERE book = 'credit'), 0) AS credit
  FROM brokerd.deals
  CROSS JOIN LATERAL (SELECT type IN ('DEAL_TYPE_BUY', 'DEAL_TYPE_SELL') AS is_trade)
  WHERE account_id = p.account_id AND removed_at IS NULL
    AND time >= greatest(p.day, CAST(:start AS timestamptz))
    AND time < least(p.day + interval '24 hours', CAST(:end AS timestamptz))
) AS t
ORDER BY p.account_id, p.day
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
