"""The SQL of the ledger: each write is one statement, sent whole, that checks its own fence.

Two rows guard an account. Its *lease* is locked FOR SHARE, in account order, so that a takeover
waits for a write in flight and a write that waited for a takeover finds the lease changed: after
a lock wait Postgres checks the row's condition again on its newest version.

Everything else the statement reads comes from the snapshot taken when it began, possibly long
before the lock was granted. The takeover itself cannot hurt: its owner writes under another
epoch. But an earlier write under the *same* fence can have committed meanwhile (its client lost
the connection and sent it again). So every statement raises the account's `heads.writes` from
what its snapshot shows, and does so only if that is still the newest version: the account of an
old snapshot drops out as `stale`, nothing of it is written, and it is sent again.
"""

COMMIT = """
-- `compared` and `gone` are the rules of ledger/change.py, but for one line: a row that carries
-- the write_id of this very write was changed by an earlier try of it.
WITH asked AS MATERIALIZED (
    SELECT * FROM unnest(
        %(account_ids)s::bigint[], %(owners)s::bigint[], %(epochs)s::bigint[],
        %(link_ids)s::text[], %(user_ids)s::text[], %(sources)s::text[],
        %(fetched_ats)s::timestamptz[], %(write_ids)s::bigint[]
    ) AS a(account_id, owner, epoch, link_id, user_id, source, fetched_at, write_id)
),
locked AS MATERIALIZED (
    SELECT a.* FROM asked a JOIN brokerd.leases l USING (account_id)
    WHERE l.owner = a.owner AND l.epoch = a.epoch
    ORDER BY a.account_id
    FOR SHARE OF l
),
owned AS MATERIALIZED (
    SELECT l.*, coalesce(b.writes, 0) + 1 AS writes,
        greatest(b.pulled_at, l.fetched_at) AS pulled_at,
        coalesce(l.fetched_at >= greatest(b.pulled_at, l.fetched_at), false) AS may_change
    FROM locked l LEFT JOIN brokerd.heads b USING (account_id)
),
compared AS MATERIALIZED (
    SELECT d.*, o.link_id, o.user_id, o.source, o.write_id, h AS old,
        CASE
            WHEN h.deal_id IS NULL THEN 'inserted'
            WHEN h.write_id = o.write_id
                THEN CASE WHEN h.revision = 0 THEN 'was inserted' ELSE 'was revised' END
            WHEN NOT o.may_change THEN 'kept'
            WHEN h.removed_at IS NOT NULL THEN 'restored'
            WHEN h.content_hash <> d.content_hash THEN 'revised'
            ELSE 'kept'
        END AS change
    FROM unnest(
        %(deal_accounts)s::bigint[], %(deal_ids)s::text[], %(types)s::text[],
        %(entries)s::text[], %(symbols)s::text[], %(volumes)s::numeric[],
        %(prices)s::numeric[], %(times)s::timestamptz[], %(broker_times)s::text[],
        %(profits)s::numeric[], %(commissions)s::numeric[], %(swaps)s::numeric[],
        %(order_ids)s::text[], %(position_ids)s::text[], %(books)s::text[], %(raws)s::text[],
        %(hashes)s::bigint[]
    ) AS d(
        account_id, deal_id, type, entry, symbol, volume, price, time, broker_time,
        profit, commission, swap, order_id, position_id, book, raw, content_hash
    )
    JOIN owned o USING (account_id)
    LEFT JOIN brokerd.deals h ON h.account_id = d.account_id AND h.deal_id = d.deal_id
),
gone AS MATERIALIZED (
    SELECT h.account_id, h.deal_id, o.link_id, o.user_id, o.write_id, h AS old,
        CASE
            WHEN h.write_id = o.write_id THEN 'was removed'
            WHEN h.removed_at IS NULL AND o.may_change THEN 'removed'
            ELSE 'kept'
        END AS change
    FROM unnest(%(removal_accounts)s::bigint[], %(removal_ids)s::text[])
        AS r(account_id, deal_id)
    JOIN owned o USING (account_id)
    JOIN brokerd.deals h ON h.account_id = r.account_id AND h.deal_id = r.deal_id
),
changed AS MATERIALIZED (
    SELECT account_id, deal_id, link_id, user_id, source, write_id, change, old,
        type, entry, symbol, volume, price, time, broker_time, profit, commission, swap,
        order_id, position_id, book, raw, content_hash
    FROM compared WHERE change IN ('inserted', 'revised', 'restored')
    UNION ALL
    SELECT account_id, deal_id, link_id, user_id, 'pull', write_id, change, old,
        (old).type, (old).entry, (old).symbol, (old).volume, (old).price, (old).time,
        (old).broker_time, (old).profit, (old).commission, (old).swap,
        (old).order_id, (old).position_id, (old).book, (old).raw, (old).content_hash
    FROM gone WHERE change = 'removed'
),
head AS (
    INSERT INTO brokerd.heads AS h (account_id, account_seq, writes, pulled_at)
    SELECT o.account_id, count(c.account_id), o.writes, o.pulled_at
    FROM owned o LEFT JOIN changed c USING (account_id)
    GROUP BY o.account_id, o.writes, o.pulled_at
    ORDER BY o.account_id
    ON CONFLICT (account_id) DO UPDATE
        SET account_seq = h.account_seq + excluded.account_seq, writes = excluded.writes,
            pulled_at = excluded.pulled_at
        WHERE h.writes = excluded.writes - 1
    RETURNING h.account_id, h.account_seq
),
-- From here on only accounts in `head` are written. IS TRUE keeps each look-up a hashed one: the
-- planner expects few rows and would rather compare every deal with every account.
inserted AS (
    INSERT INTO brokerd.deals (
        account_id, deal_id, user_id, type, entry, symbol, volume, price, time, broker_time,
        profit, commission, swap, order_id, position_id, book, raw, content_hash, source,
        write_id
    )
    SELECT account_id, deal_id, user_id, type, entry, symbol, volume, price, time, broker_time,
        profit, commission, swap, order_id, position_id, book, raw, content_hash, source,
        write_id
    FROM changed
    WHERE change = 'inserted' AND (account_id IN (SELECT account_id FROM head)) IS TRUE
),
updated AS (
    UPDATE brokerd.deals d SET
        type = c.type, entry = c.entry, symbol = c.symbol, volume = c.volume, price = c.price,
        time = c.time, broker_time = c.broker_time, profit = c.profit,
        commission = c.commission, swap = c.swap, order_id = c.order_id,
        position_id = c.position_id, book = c.book, raw = c.raw, content_hash = c.content_hash,
        user_id = c.user_id, write_id = c.write_id, revision = d.revision + 1,
        committed_at = clock_timestamp(),
        removed_at = CASE c.change WHEN 'removed' THEN clock_timestamp() END
    FROM changed c
    WHERE d.account_id = c.account_id AND d.deal_id = c.deal_id
        AND c.change IN ('revised', 'restored', 'removed')
        AND (c.account_id IN (SELECT account_id FROM head)) IS TRUE
),
kept AS (
    INSERT INTO brokerd.deal_revisions (account_id, deal_id, revision, kind, replaced)
    SELECT account_id, deal_id, (old).revision, change, to_jsonb(old)
    FROM changed
    WHERE change IN ('revised', 'restored', 'removed')
        AND (account_id IN (SELECT account_id FROM head)) IS TRUE
),
moved AS (
    SELECT account_id, time, 1 AS deals, content_hash, book, profit + commission + swap AS amount
    FROM changed WHERE change <> 'removed'
    UNION ALL
    SELECT account_id, (old).time, -1, (old).content_hash, (old).book,
        -((old).profit + (old).commission + (old).swap)
    FROM changed WHERE change IN ('revised', 'removed')
),
receipted AS (
    UPDATE brokerd.windows w SET
        deals = w.deals + m.deals, content_hash = w.content_hash # m.content_hash,
        balance = w.balance + m.balance, credit = w.credit + m.credit
    FROM (
        SELECT v.account_id, v.start, sum(m.deals) AS deals,
            bit_xor(m.content_hash) AS content_hash,
            coalesce(sum(m.amount) FILTER (WHERE m.book = 'balance'), 0) AS balance,
            coalesce(sum(m.amount) FILTER (WHERE m.book = 'credit'), 0) AS credit
        FROM moved m
        JOIN head USING (account_id)
        JOIN brokerd.windows v
            ON v.account_id = m.account_id AND v.start <= m.time AND m.time < v."end"
        GROUP BY v.account_id, v.start
    ) m
    WHERE w.account_id = m.account_id AND w.start = m.start
),
published AS (
    INSERT INTO brokerd.events (
        generation, account_id, account_seq, link_id, user_id, type, deal_id, revision, payload
    )
    SELECT (SELECT brokerd.feed_generation()), account_id,
        account_seq + 1 - row_number() OVER (
            PARTITION BY account_id ORDER BY time DESC, deal_id DESC
        ) AS seq,
        link_id, user_id,
        CASE change
            WHEN 'inserted' THEN 'deal.added'
            WHEN 'removed' THEN 'deal.removed'
            ELSE 'deal.revised'
        END,
        deal_id, coalesce((old).revision + 1, 0),
        jsonb_build_object(
            'type', type, 'entry', entry, 'symbol', symbol, 'volume', trim_scale(volume)::text,
            'price', trim_scale(price)::text,
            'time', to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'brokerTime', broker_time, 'profit', trim_scale(profit)::text,
            'commission', trim_scale(commission)::text, 'swap', trim_scale(swap)::text,
            'orderId', order_id, 'positionId', position_id
        )
    FROM changed JOIN head USING (account_id)
    ORDER BY account_id, seq
),
done AS (
    SELECT account_id,
        array_agg(deal_id) FILTER (WHERE change LIKE '%%inserted') AS inserted,
        array_agg(deal_id) FILTER (WHERE change LIKE '%%revised' OR change = 'restored')
            AS revised,
        array_agg(deal_id) FILTER (WHERE change LIKE '%%removed') AS removed
    FROM (
        SELECT account_id, deal_id, change FROM compared
        UNION ALL SELECT account_id, deal_id, change FROM gone
    ) each
    GROUP BY account_id
)
SELECT a.account_id,
    CASE WHEN o.account_id IS NULL THEN 'fenced'
         WHEN h.account_id IS NULL THEN 'stale' ELSE 'written' END AS verdict,
    coalesce(d.inserted, '{}') AS inserted, coalesce(d.revised, '{}') AS revised,
    coalesce(d.removed, '{}') AS removed
FROM asked a
LEFT JOIN owned o USING (account_id)
LEFT JOIN head h USING (account_id)
LEFT JOIN done d USING (account_id)
"""

CLOSE_WINDOW = """
WITH owned AS MATERIALIZED (
    SELECT account_id FROM brokerd.leases
    WHERE account_id = %(account_id)s AND owner = %(owner)s AND epoch = %(epoch)s
    FOR SHARE
),
span AS MATERIALIZED (
    SELECT o.account_id, coalesce(b.writes, 0) + 1 AS writes,
        coalesce(b.watermark, %(start)s::timestamptz) AS start, %(end)s::timestamptz AS "end",
        coalesce(b.watermark < %(start)s::timestamptz, %(is_continuation)s) AS is_hole
    FROM owned o LEFT JOIN brokerd.heads b USING (account_id)
),
head AS (
    INSERT INTO brokerd.heads AS h (account_id, watermark, writes)
    SELECT account_id, greatest(start, "end"), writes FROM span WHERE NOT is_hole
    ON CONFLICT (account_id) DO UPDATE
        SET watermark = excluded.watermark, writes = excluded.writes
        WHERE h.writes = excluded.writes - 1
    RETURNING h.account_id
),
piece AS MATERIALIZED (
    SELECT s.account_id, s.start, s."end", l.start AS extends, r.*
    FROM span s
    JOIN head USING (account_id)
    LEFT JOIN LATERAL (
        SELECT w.start FROM brokerd.windows w WHERE w.account_id = s.account_id
        ORDER BY w.start DESC LIMIT 1
    ) l ON date_trunc('day', l.start, 'UTC') = date_trunc('day', s."end", 'UTC')
    CROSS JOIN LATERAL (
        SELECT count(*) AS deals, coalesce(bit_xor(d.content_hash), 0) AS content_hash,
            coalesce(sum(d.profit + d.commission + d.swap) FILTER (WHERE d.book = 'balance'), 0)
                AS balance,
            coalesce(sum(d.profit + d.commission + d.swap) FILTER (WHERE d.book = 'credit'), 0)
                AS credit
        FROM brokerd.deals d
        WHERE d.account_id = s.account_id AND d.time >= s.start AND d.time < s."end"
            AND d.removed_at IS NULL
    ) r
    WHERE s.start < s."end"
),
extended AS (
    UPDATE brokerd.windows w SET
        "end" = p."end", deals = w.deals + p.deals,
        content_hash = w.content_hash # p.content_hash,
        balance = w.balance + p.balance, credit = w.credit + p.credit,
        verified_at = clock_timestamp()
    FROM piece p WHERE w.account_id = p.account_id AND w.start = p.extends
),
opened AS (
    INSERT INTO brokerd.windows (account_id, start, "end", deals, content_hash, balance, credit)
    SELECT account_id, start, "end", deals, content_hash, balance, credit
    FROM piece WHERE extends IS NULL
)
SELECT
    CASE WHEN s.account_id IS NULL THEN 'fenced' WHEN s.is_hole THEN 'hole'
         WHEN h.account_id IS NULL THEN 'stale' ELSE 'written' END AS verdict
FROM (VALUES (%(account_id)s::bigint)) AS a(account_id)
LEFT JOIN span s USING (account_id)
LEFT JOIN head h USING (account_id)
"""
