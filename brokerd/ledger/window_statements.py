"""The SQL that tends windows already closed: as fenced and as whole as the writes beside it.

Those that touch receipts raise `heads.writes`, for the reason told in `ledger.statements`: a
receipt computed from a snapshot that missed a write would be wrong for ever.
"""

_OWNED = """
WITH owned AS MATERIALIZED (
    SELECT account_id FROM brokerd.leases
    WHERE account_id = %(account_id)s AND owner = %(owner)s AND epoch = %(epoch)s
    FOR SHARE
),
"""

_HEAD = """
head AS (
    UPDATE brokerd.heads h SET writes = s.writes FROM span s
    WHERE h.account_id = s.account_id AND h.writes = s.writes - 1
    RETURNING h.account_id
),
"""

ANCHOR = f"""
{_OWNED}
anchored AS (
    INSERT INTO brokerd.heads AS h (account_id, anchor_balance, anchor_credit)
    SELECT account_id, %(balance)s::numeric, %(credit)s::numeric FROM owned
    ON CONFLICT (account_id) DO UPDATE
        SET anchor_balance = excluded.anchor_balance, anchor_credit = excluded.anchor_credit
        WHERE h.anchor_balance IS NULL
)
SELECT CASE WHEN o.account_id IS NULL THEN 'fenced' ELSE 'written' END AS verdict,
    true AS is_true
FROM (VALUES (%(account_id)s::bigint)) AS a(account_id)
LEFT JOIN owned o USING (account_id)
"""  # noqa: S608  # put together from constants

MERGE = f"""
{_OWNED}
parts AS MATERIALIZED (
    SELECT account_id, min(start) AS start, max("end") AS "end", count(*) AS parts,
        sum(deals) AS deals, bit_xor(content_hash) AS content_hash,
        sum(balance) AS balance, sum(credit) AS credit, min(verified_at) AS verified_at
    FROM brokerd.windows
    WHERE account_id = %(account_id)s
        AND start >= %(start)s::timestamptz AND "end" <= %(end)s::timestamptz
    GROUP BY account_id
),
span AS MATERIALIZED (
    SELECT p.*, b.writes + 1 AS writes
    FROM owned o JOIN brokerd.heads b USING (account_id) JOIN parts p USING (account_id)
    WHERE p.start = %(start)s::timestamptz AND p."end" = %(end)s::timestamptz AND p.parts > 1
),
{_HEAD}
dropped AS (
    DELETE FROM brokerd.windows w USING span s JOIN head USING (account_id)
    WHERE w.account_id = s.account_id AND w.start > s.start AND w.start < s."end"
),
grown AS (
    UPDATE brokerd.windows w SET
        "end" = s."end", deals = s.deals, content_hash = s.content_hash,
        balance = s.balance, credit = s.credit, verified_at = s.verified_at
    FROM span s JOIN head USING (account_id)
    WHERE w.account_id = s.account_id AND w.start = s.start
)
SELECT
    CASE WHEN o.account_id IS NULL THEN 'fenced' WHEN s.account_id IS NULL THEN 'absent'
         WHEN h.account_id IS NULL THEN 'stale' ELSE 'written' END AS verdict,
    true AS is_true
FROM (VALUES (%(account_id)s::bigint)) AS a(account_id)
LEFT JOIN owned o USING (account_id)
LEFT JOIN span s USING (account_id)
LEFT JOIN head h USING (account_id)
"""  # noqa: S608  # put together from constants

VERIFY = f"""
{_OWNED}
span AS MATERIALIZED (
    SELECT w.account_id, w.start, b.writes + 1 AS writes, r.*,
        (w.deals, w.content_hash, w.balance, w.credit)
            = (r.deals, r.content_hash, r.balance, r.credit) AS is_true
    FROM owned o
    JOIN brokerd.heads b USING (account_id)
    JOIN brokerd.windows w ON w.account_id = o.account_id AND w.start = %(start)s::timestamptz
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
),
{_HEAD}
noted AS (
    UPDATE brokerd.windows w SET
        deals = s.deals, content_hash = s.content_hash, balance = s.balance, credit = s.credit,
        verified_at = clock_timestamp()
    FROM span s JOIN head USING (account_id)
    WHERE w.account_id = s.account_id AND w.start = s.start
)
SELECT
    CASE WHEN o.account_id IS NULL THEN 'fenced' WHEN s.account_id IS NULL THEN 'absent'
         WHEN h.account_id IS NULL THEN 'stale' ELSE 'written' END AS verdict,
    s.is_true
FROM (VALUES (%(account_id)s::bigint)) AS a(account_id)
LEFT JOIN owned o USING (account_id)
LEFT JOIN span s USING (account_id)
LEFT JOIN head h USING (account_id)
"""  # noqa: S608  # put together from constants
