"""The outbox as a feed: events by day, in generations, in the order a reader follows them.

A transaction id orders events only within one history of one database. A restore into another
cluster, or a promoted replica, may count them again from a lower one; so a generation stands
before it: `feed.base` plus the timeline of the WAL, which every promotion raises by itself. The
base of a new history is the second it began in, which is above all that any older one reached.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_FEED = """
CREATE TABLE brokerd.feed (
    is_only boolean DEFAULT true NOT NULL,
    origin text NOT NULL,
    base bigint NOT NULL,
    pruned_generation bigint DEFAULT 0 NOT NULL,
    pruned_xid xid8 DEFAULT '0' NOT NULL,
    pruned_seq bigint DEFAULT 0 NOT NULL,
    tended_at timestamptz,
    PRIMARY KEY (is_only),
    CONSTRAINT feed_is_one_row CHECK (is_only)
);
INSERT INTO brokerd.feed (origin, base)
SELECT system_identifier || '/' || d.oid, extract(epoch FROM clock_timestamp())::bigint
FROM pg_control_system(), pg_database d WHERE d.datname = current_database();
CREATE FUNCTION brokerd.feed_generation() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT base + ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint
    FROM brokerd.feed
$$;
"""

_EVENTS = """
ALTER TABLE brokerd.events RENAME TO events_before;
ALTER TABLE brokerd.events_before DROP CONSTRAINT events_pkey,
    DROP CONSTRAINT events_account_seq_key;
CREATE SEQUENCE brokerd.events_order;
CREATE TABLE brokerd.events (
    generation bigint DEFAULT brokerd.feed_generation() NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    seq bigint DEFAULT nextval('brokerd.events_order') NOT NULL,
    account_id bigint NOT NULL,
    account_seq bigint NOT NULL,
    link_id text NOT NULL,
    user_id text NOT NULL,
    type text NOT NULL,
    deal_id text,
    revision integer,
    payload jsonb NOT NULL,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    PRIMARY KEY (generation, xid, seq, created_at)
) PARTITION BY RANGE (created_at);
ALTER SEQUENCE brokerd.events_order OWNED BY brokerd.events.seq;
CREATE INDEX events_link ON brokerd.events (link_id, generation, xid, seq);
CREATE INDEX events_user ON brokerd.events (user_id, generation, xid, seq);
"""

# A day before the first event and a week ahead of now, in UTC.
_PARTITIONS = """
DO $$
DECLARE
    first_day date := (SELECT least(min(created_at), clock_timestamp()) AT TIME ZONE 'UTC'
        FROM brokerd.events_before);
    last_day date := clock_timestamp() AT TIME ZONE 'UTC';
BEGIN
    FOR offset_days IN -1 .. last_day - first_day + 7 LOOP
        EXECUTE format(
            'CREATE TABLE brokerd.%I PARTITION OF brokerd.events FOR VALUES FROM (%L) TO (%L)',
            'events_' || to_char(first_day + offset_days, 'YYYYMMDD'),
            to_char(first_day + offset_days, 'YYYY-MM-DD 00:00:00+00'),
            to_char(first_day + offset_days + 1, 'YYYY-MM-DD 00:00:00+00'));
    END LOOP;
END $$;
"""

_MOVE = """
INSERT INTO brokerd.events (xid, seq, account_id, account_seq, link_id, user_id, type, deal_id,
    revision, payload, created_at)
SELECT xid, seq, account_id, account_seq, link_id, user_id, type, deal_id, revision, payload,
    created_at
FROM brokerd.events_before ORDER BY seq;
SELECT setval('brokerd.events_order', coalesce(max(seq), 1), max(seq) IS NOT NULL)
FROM brokerd.events;
DROP TABLE brokerd.events_before;
"""


def upgrade() -> None:
    """Make the feed, and move the events there are into it."""
    for statements in (_FEED, _EVENTS, _PARTITIONS, _MOVE):
        op.execute(statements)
