"""Records that no deal can be made of are kept raw; the windows they lie in say so.

`incomplete_windows` is worked out from the records, not written beside them: whichever way windows
are split and merged, and records found and closed, it is true. A record without a readable time
may lie in any window of its account, so all of them are named.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_QUARANTINE = """
CREATE TABLE brokerd.quarantine (
    quarantine_id bigint GENERATED ALWAYS AS IDENTITY,
    account_id bigint NOT NULL,
    digest text NOT NULL,
    source text NOT NULL,
    reason text NOT NULL,
    problem text NOT NULL,
    deal_id text,
    time timestamptz,
    raw text NOT NULL,
    raw_bytes bigint NOT NULL,
    is_cut boolean NOT NULL,
    times bigint DEFAULT 1 NOT NULL,
    first_seen_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    last_seen_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    state text DEFAULT 'open' NOT NULL,
    replay_asked_at timestamptz,
    closed_at timestamptz,
    note text,
    PRIMARY KEY (quarantine_id),
    CONSTRAINT quarantine_digest_key UNIQUE (account_id, digest)
);
CREATE INDEX quarantine_account ON brokerd.quarantine (account_id, quarantine_id);
CREATE INDEX quarantine_open ON brokerd.quarantine (account_id) WHERE state = 'open';
"""

_INCOMPLETE_WINDOWS = """
CREATE VIEW brokerd.incomplete_windows AS
SELECT w.account_id, w.start, w."end", count(*) AS records
FROM brokerd.windows w JOIN brokerd.quarantine q
    ON q.account_id = w.account_id AND q.state = 'open'
    AND (q.time IS NULL OR (q.time >= w.start AND q.time < w."end"))
GROUP BY w.account_id, w.start, w."end";
"""


def upgrade() -> None:
    """Create the table and the view."""
    op.execute(_QUARANTINE)
    op.execute(_INCOMPLETE_WINDOWS)
