"""The SQL of intents, spending and sealed passwords."""

import sqlalchemy as sa
from psycopg import sql

STANDING = sa.text("""
SELECT clock_timestamp() AS now, a.created_account_id, a.auth, a.auth_at,
  a.validation_locked_until, h.watermark, c.version, c.state,
  EXISTS (SELECT FROM brokerd.rejected_credentials AS r
    WHERE r.digest = c.digest AND r.forget_at > clock_timestamp()) AS is_known_bad,
  i.intent_id, i.kind, i.transaction_id, i.credential_version AS intent_version, i.opened_at,
  last.code, last.problem, last.closed_at AS refused_at,
  (SELECT max(closed_at) FROM brokerd.intents
    WHERE account_id = a.account_id AND code = 'done' AND kind IN ('create', 'deploy')
  ) AS deployed_at
FROM brokerd.accounts AS a
LEFT JOIN brokerd.heads AS h USING (account_id)
LEFT JOIN brokerd.credentials AS c
  ON c.account_id = a.account_id AND c.version = a.credential_version
LEFT JOIN brokerd.intents AS i ON i.account_id = a.account_id AND i.closed_at IS NULL
LEFT JOIN LATERAL (
  SELECT code, problem, closed_at FROM brokerd.intents
  WHERE account_id = a.account_id AND closed_at IS NOT NULL AND generation = :generation
    AND credential_version = a.credential_version AND kind IN ('create', 'update', 'deploy')
  ORDER BY intent_id DESC LIMIT 1
) AS last ON last.code NOT IN ('done', 'abandoned')
WHERE a.account_id = :account_id
""")

_SUMS = sql.SQL("""
asked AS MATERIALIZED (
  SELECT %(reserve)s::numeric AS reserve, clock_timestamp() AS now,
    clock_timestamp() - make_interval(secs => %(link_seconds)s) AS link_since,
    clock_timestamp() - make_interval(secs => %(user_seconds)s) AS user_since,
    clock_timestamp() - make_interval(secs => %(day_seconds)s) AS day_since,
    clock_timestamp() - make_interval(secs => %(fleet_seconds)s) AS fleet_since
), recent AS MATERIALIZED (
  SELECT s.usd, s.at, s.account_id = mine.account_id AND s.at > link_since AS is_link,
    s.user_id = mine.user_id AND s.at > user_since AS is_user, s.at > day_since AS is_day
  FROM mine, asked, brokerd.spend AS s
  WHERE s.at > fleet_since AND s.charge <> 'none' AND reserve IS NOT NULL
), sums AS MATERIALIZED (
  SELECT ARRAY[count(*) FILTER (WHERE is_link), count(*) FILTER (WHERE is_user),
      count(*) FILTER (WHERE is_day), count(*)] AS attempts,
    ARRAY[coalesce(sum(usd) FILTER (WHERE is_link), 0),
      coalesce(sum(usd) FILTER (WHERE is_user), 0),
      coalesce(sum(usd) FILTER (WHERE is_day), 0), coalesce(sum(usd), 0)] AS usd,
    ARRAY[min(at) FILTER (WHERE is_link), min(at) FILTER (WHERE is_user),
      min(at) FILTER (WHERE is_day), min(at)] AS oldest
  FROM recent
)
""")
"""What was spent in the windows of `mine`: by its link, by its user, and by everybody."""

_FREES = sql.SQL("""
  ARRAY[
    extract(epoch FROM oldest[1] - link_since)::float8,
    extract(epoch FROM oldest[2] - user_since)::float8,
    extract(epoch FROM oldest[3] - day_since)::float8,
    extract(epoch FROM oldest[4] - fleet_since)::float8] AS frees_seconds
""")

# Behind the lock its snapshot holds every intent that was opened before, so the sums are exact.
OPEN = sql.SQL("""
WITH mine AS MATERIALIZED (
  SELECT a.account_id, a.user_id
  FROM brokerd.leases AS lease JOIN brokerd.accounts AS a USING (account_id)
  WHERE lease.account_id = %(account_id)s AND owner = %(owner)s AND epoch = %(epoch)s
  FOR SHARE OF lease
), {sums}, busy AS MATERIALIZED (
  SELECT 1 FROM mine JOIN brokerd.intents AS i USING (account_id) WHERE i.closed_at IS NULL
), opened AS (
  INSERT INTO brokerd.intents
    (account_id, kind, transaction_id, generation, credential_version, owner, epoch)
  SELECT account_id, %(kind)s, %(transaction_id)s, %(generation)s, %(credential_version)s,
    %(owner)s, %(epoch)s
  FROM mine, asked, sums
  WHERE NOT EXISTS (SELECT FROM busy)
    AND (reserve IS NULL OR (
      attempts[1] < %(link_attempts)s AND usd[1] + reserve <= %(link_usd)s
      AND attempts[2] < %(user_attempts)s AND usd[2] + reserve <= %(user_usd)s
      AND attempts[3] < %(day_attempts)s AND usd[3] + reserve <= %(day_usd)s
      AND attempts[4] < %(fleet_attempts)s AND usd[4] + reserve <= %(fleet_usd)s))
  RETURNING intent_id, opened_at
), paid AS (
  INSERT INTO brokerd.spend (intent_id, account_id, user_id, charge, usd)
  SELECT intent_id, account_id, user_id, 'reserved', reserve FROM opened, mine, asked
  WHERE reserve IS NOT NULL
)
SELECT EXISTS (SELECT FROM mine) AS is_held, (SELECT intent_id FROM opened) AS intent_id,
  (SELECT opened_at FROM opened) AS opened_at, EXISTS (SELECT FROM busy) AS is_busy,
  attempts, usd, {frees}
FROM sums, asked
""").format(sums=_SUMS, frees=_FREES)

SPENT_BY = sql.SQL("""
WITH mine AS MATERIALIZED (
  SELECT account_id, user_id FROM brokerd.accounts
  WHERE link_id = %(link_id)s AND deleted_at IS NULL
), {sums}
SELECT attempts, usd, {frees} FROM sums, asked
""").format(sums=_SUMS, frees=_FREES)

# The account's row is locked before the lease's, as whoever changes a spec locks them.
ADOPT = sa.text("""
WITH account AS MATERIALIZED (
  SELECT account_id FROM brokerd.accounts
  WHERE account_id = :account_id FOR NO KEY UPDATE
), mine AS MATERIALIZED (
  SELECT account.* FROM account JOIN brokerd.leases AS lease USING (account_id)
  WHERE lease.owner = :owner AND lease.epoch = :epoch FOR SHARE OF lease
), adopted AS (
  UPDATE brokerd.accounts AS a SET created_account_id = CAST(:created_id AS text)
  FROM mine WHERE a.account_id = mine.account_id
)
SELECT count(*) FROM mine
""")

# A password is erased with the end of what it waited for, and when a newer one took its place.
CLOSE = sa.text("""
WITH account AS MATERIALIZED (
  SELECT account_id, credential_version FROM brokerd.accounts
  WHERE account_id = :account_id FOR NO KEY UPDATE
), mine AS MATERIALIZED (
  SELECT account.* FROM account JOIN brokerd.leases AS lease USING (account_id)
  WHERE lease.owner = :owner AND lease.epoch = :epoch FOR SHARE OF lease
), said AS MATERIALIZED (
  SELECT CAST(:credential_version AS bigint) AS version, CAST(:state AS text) AS state,
    CAST(:auth AS text) AS auth, CAST(:charge AS text) AS charge, CAST(:usd AS numeric) AS usd,
    CAST(:remembers_seconds AS float8) AS remembers_seconds,
    CAST(:locked_seconds AS float8) AS locked_seconds, clock_timestamp() AS now
), closed AS (
  UPDATE brokerd.intents AS i SET closed_at = now, code = :code, problem = :problem
  FROM mine, said
  WHERE i.account_id = mine.account_id AND i.intent_id = :intent_id AND i.closed_at IS NULL
  RETURNING i.intent_id, mine.account_id, mine.credential_version AS newest
), settled AS (
  UPDATE brokerd.spend AS s
  SET charge = coalesce(said.charge, s.charge), usd = coalesce(said.usd, s.usd)
  FROM closed, said WHERE s.intent_id = closed.intent_id
), account_told AS (
  UPDATE brokerd.accounts AS a SET
    created_account_id = coalesce(CAST(:created_id AS text), a.created_account_id),
    auth = CASE WHEN newest = version THEN coalesce(said.auth, a.auth) ELSE a.auth END,
    auth_at = CASE WHEN newest = version AND said.auth IS NOT NULL THEN now ELSE a.auth_at END,
    validation_locked_until = CASE WHEN locked_seconds IS NULL THEN a.validation_locked_until
      ELSE now + make_interval(secs => locked_seconds) END
  FROM closed, said WHERE a.account_id = closed.account_id
), credentials_told AS (
  UPDATE brokerd.credentials AS c SET
    state = CASE WHEN c.version = said.version THEN coalesce(said.state, c.state)
      ELSE c.state END,
    sealed = CASE
      WHEN c.version < newest OR (c.version = said.version AND said.state IS NOT NULL) THEN NULL
      ELSE c.sealed END
  FROM closed, said
  WHERE c.account_id = closed.account_id AND (c.version = said.version OR c.sealed IS NOT NULL)
), remembered AS (
  INSERT INTO brokerd.rejected_credentials (digest, forget_at)
  SELECT c.digest, now + make_interval(secs => remembers_seconds)
  FROM closed JOIN brokerd.credentials AS c USING (account_id), said
  WHERE c.version = said.version AND remembers_seconds IS NOT NULL
  ON CONFLICT (digest) DO UPDATE
    SET rejected_at = clock_timestamp(), forget_at = excluded.forget_at
)
SELECT count(*) FROM mine
""")

SPENT = sa.text("""
WITH recent AS MATERIALIZED (
  SELECT * FROM brokerd.spend
  WHERE charge <> 'none' AND at > clock_timestamp() - make_interval(secs => :fleet_seconds)
), sums AS (
  SELECT 'link' AS name, count(*) AS attempts, sum(usd) AS usd FROM recent
  WHERE at > clock_timestamp() - make_interval(secs => :link_seconds) GROUP BY account_id
  UNION ALL
  SELECT 'user', count(*), sum(usd) FROM recent
  WHERE at > clock_timestamp() - make_interval(secs => :user_seconds) GROUP BY user_id
  UNION ALL
  SELECT 'day', count(*), sum(usd) FROM recent
  WHERE at > clock_timestamp() - make_interval(secs => :day_seconds)
  UNION ALL
  SELECT 'fleet', count(*), sum(usd) FROM recent
)
SELECT name, coalesce(max(attempts), 0) AS attempts, coalesce(max(usd), 0) AS usd
FROM unnest(ARRAY['link', 'user', 'day', 'fleet']) AS name LEFT JOIN sums USING (name)
GROUP BY name
""")

CHARGES = sa.text("""
SELECT charge, count(*) AS attempts, sum(usd) AS usd FROM brokerd.spend
WHERE at > clock_timestamp() - make_interval(secs => :window_seconds) GROUP BY charge
""")
