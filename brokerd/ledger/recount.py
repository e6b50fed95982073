"""Every receipt against a recount of its window's deals: in one statement, over all accounts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

_FALSE = """
SELECT coalesce(a.link_id, '#' || w.account_id), w.start, w."end", w.deals, r.deals,
    w.balance + w.credit, r.balance + r.credit
FROM brokerd.windows w
CROSS JOIN LATERAL (
    SELECT count(*) AS deals, coalesce(bit_xor(d.content_hash), 0) AS content_hash,
        coalesce(sum(d.profit + d.commission + d.swap) FILTER (WHERE d.book = 'balance'), 0)
            AS balance,
        coalesce(sum(d.profit + d.commission + d.swap) FILTER (WHERE d.book = 'credit'), 0)
            AS credit
    FROM brokerd.deals d
    WHERE d.account_id = w.account_id AND d.time >= w.start AND d.time < w."end"
        AND d.removed_at IS NULL
) r
LEFT JOIN brokerd.accounts a USING (account_id)
WHERE (w.deals, w.content_hash, w.balance, w.credit)
    <> (r.deals, r.content_hash, r.balance, r.credit)
ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseReceipt:
    """A window whose receipt is not what its deals come to."""

    link_id: str
    start: datetime
    end: datetime
    deals: int
    deals_counted: int
    sum: str
    sum_counted: str

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.link_id}: the receipt of {self.start.isoformat()} to {self.end.isoformat()}"
            f" says {self.deals} deals of {self.sum}; counted {self.deals_counted}"
            f" of {self.sum_counted}"
        )


async def false_receipts(connection: psycopg.AsyncConnection) -> Sequence[FalseReceipt]:
    """Return every window whose receipt does not hold."""
    await connection.execute("ANALYZE brokerd.deals, brokerd.windows")
    rows = await (await connection.execute(_FALSE)).fetchall()
    return [
        FalseReceipt(
            link_id=link_id,
            start=start,
            end=end,
            deals=deals,
            deals_counted=deals_counted,
            sum=str(total),
            sum_counted=str(total_counted),
        )
        for link_id, start, end, deals, deals_counted, total, total_counted in rows
    ]
