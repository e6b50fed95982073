"""A ledger of realistic size and shape, loaded fast: for the tests of plans and the benchmark."""

from dataclasses import dataclass

import psycopg

ACCOUNTS = 5_000
"""Two to a user. The first two hold a tenth of all deals each; the others share the rest."""

_ACCOUNTS = """
INSERT INTO brokerd.accounts (link_id, user_id, platform, login, server, currency, token,
  metaapi_account_id, region, desired, priority)
SELECT 'link-' || lpad(n::text, 5, '0'), 'user-' || lpad((n - mod(n, 2))::text, 5, '0'), 'mt5',
  n::text, 'Demo', 'USD', 'main', 'm', 'london', 'live', 'normal'
FROM generate_series(0, %(accounts)s - 1) AS n
"""
_LEASES = """
INSERT INTO brokerd.leases (account_id, is_wanted, deadline)
SELECT account_id, true, now() + account_id * interval '1 second' FROM brokerd.accounts
"""
_LINKS = """
INSERT INTO brokerd.links (account_id, phase, reason, message, observed_generation, since)
SELECT account_id, 'queued', 'Queued', '', 1, now() FROM brokerd.accounts
"""
_HEADS = """
INSERT INTO brokerd.heads (account_id, watermark)
SELECT account_id, '2026-01-31Z'::timestamptz - interval '10 minutes' FROM brokerd.accounts
"""
# One deal in 53 is cash, some symbols are a hundred times as frequent as others.
_DEALS = """
INSERT INTO brokerd.deals (account_id, deal_id, user_id, type, entry, symbol, volume, price, time,
  broker_time, profit, commission, swap, order_id, position_id, book, raw, content_hash, source,
  write_id)
SELECT a.account_id, (10000000 + n)::text, a.user_id,
  CASE WHEN n %% 53 = 0 THEN 'DEAL_TYPE_BALANCE' WHEN n %% 2 = 0 THEN 'DEAL_TYPE_BUY'
    ELSE 'DEAL_TYPE_SELL' END,
  CASE WHEN n %% 53 > 0 THEN 'DEAL_ENTRY_OUT' END,
  CASE WHEN n %% 53 > 0 THEN
    CASE WHEN n %% 997 < 10 THEN 'RARE' ELSE 'S' || floor(sqrt(n * 7919 %% 100)) END END,
  CASE WHEN n %% 53 > 0 THEN 0.1 END, CASE WHEN n %% 53 > 0 THEN 1 + n %% 10000 / 10000.0 END,
  '2026-01-01Z'::timestamptz + n * (interval '30 days' / %(deals)s::float8),
  '2026-01-01 02:00:00.000',
  (n %% 999 - 499) / 100.0, -0.25, 0, n::text, n::text, 'balance',
  '{"id":"' || n || '","filler":"' || repeat('x', %(raw)s) || '"}', hashint8extended(n, 0), 'pull',
  1
FROM generate_series(1, %(deals)s::bigint) AS n
JOIN brokerd.accounts AS a ON a.login = (CASE n %% 10 WHEN 0 THEN 0 WHEN 1 THEN 1
  ELSE 2 + n * 7919 %% (%(accounts)s - 2) END)::text
"""
_INDEXES = """
SELECT indexdef, indexname FROM pg_indexes
WHERE schemaname = 'brokerd' AND tablename = 'deals' AND indexname <> 'deals_pkey'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeLedger:
    """How much to load; `raw_bytes` is about what MetaApi's JSON of a deal adds to each row."""

    deals: int
    raw_bytes: int = 0

    def load(self, url: str) -> None:
        """Fill an empty, migrated database; its other indexes are built last, which is faster."""
        sizes = {"accounts": ACCOUNTS, "deals": self.deals, "raw": self.raw_bytes}
        with psycopg.connect(url) as connection:
            indexes = connection.execute(_INDEXES).fetchall()
            for _, name in indexes:
                connection.execute(f"DROP INDEX brokerd.{name}")
            connection.execute("SET LOCAL maintenance_work_mem = '256MB'")
            connection.execute("SET LOCAL max_parallel_maintenance_workers = 2")
            for statement in (_ACCOUNTS, _LEASES, _LINKS, _HEADS, _DEALS):
                connection.execute(statement, sizes)
            for definition, _ in indexes:
                connection.execute(definition.replace(" ON ONLY ", " ON "))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
