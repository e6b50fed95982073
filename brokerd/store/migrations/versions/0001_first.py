"""The first schema: registry, leases, ledger and outbox.

Written out rather than generated from `store.tables`: what a migration does must not change when
the tables move on. A test holds the result of all migrations to the tables.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_DEAL_PARTITIONS = 16

_ACCOUNTS = """
CREATE TABLE brokerd.accounts (
    account_id bigint GENERATED ALWAYS AS IDENTITY,
    link_id text NOT NULL,
    user_id text NOT NULL,
    platform text NOT NULL,
    login text NOT NULL,
    server text NOT NULL,
    currency text NOT NULL,
    margin_mode text,
    trade_mode text,
    token text NOT NULL,
    metaapi_account_id text NOT NULL,
    region text NOT NULL,
    desired text NOT NULL,
    priority text NOT NULL,
    sync_from timestamptz,
    max_staleness_seconds integer,
    labels jsonb DEFAULT '{}' NOT NULL,
    generation bigint DEFAULT 1 NOT NULL,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    deleted_at timestamptz,
    PRIMARY KEY (account_id),
    CONSTRAINT accounts_identity_key UNIQUE (platform, server, login)
);
CREATE INDEX accounts_link_id_any ON brokerd.accounts (link_id);
CREATE UNIQUE INDEX accounts_link_id_key ON brokerd.accounts (link_id) WHERE deleted_at IS NULL;
CREATE INDEX accounts_user_id ON brokerd.accounts (user_id, link_id);
"""

_LEASES = """
CREATE TABLE brokerd.leases (
    account_id bigint NOT NULL,
    owner bigint,
    epoch bigint DEFAULT 0 NOT NULL,
    is_wanted boolean NOT NULL,
    deadline timestamptz NOT NULL,
    queued_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    not_before timestamptz,
    attempt integer DEFAULT 0 NOT NULL,
    backoff_bound double precision DEFAULT 0 NOT NULL,
    PRIMARY KEY (account_id)
);
CREATE INDEX leases_not_before ON brokerd.leases (not_before) WHERE not_before IS NOT NULL;
CREATE INDEX leases_owner ON brokerd.leases (owner) WHERE owner IS NOT NULL;
CREATE INDEX leases_queue ON brokerd.leases (deadline, account_id)
    WHERE owner IS NULL AND is_wanted AND not_before IS NULL;
"""

_LINKS = """
CREATE TABLE brokerd.links (
    account_id bigint NOT NULL,
    phase text NOT NULL,
    reason text NOT NULL,
    message text NOT NULL,
    observed_generation bigint NOT NULL,
    since timestamptz NOT NULL,
    next_attempt_at timestamptz,
    attempt integer DEFAULT 0 NOT NULL,
    user_action text DEFAULT 'none' NOT NULL,
    proof text DEFAULT 'unknown' NOT NULL,
    proof_detail text DEFAULT '' NOT NULL,
    proven_at timestamptz,
    PRIMARY KEY (account_id)
);
"""

_LINK_TRANSITIONS = """
CREATE TABLE brokerd.link_transitions (
    transition_id bigint GENERATED ALWAYS AS IDENTITY,
    account_id bigint NOT NULL,
    at timestamptz DEFAULT clock_timestamp() NOT NULL,
    phase text NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (transition_id)
);
CREATE INDEX link_transitions_account ON brokerd.link_transitions (account_id, at);
"""

_NODES = """
CREATE TABLE brokerd.nodes (
    incarnation bigint GENERATED ALWAYS AS IDENTITY,
    name text NOT NULL,
    max_links integer NOT NULL,
    started_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    heartbeat_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    closed_at timestamptz,
    PRIMARY KEY (incarnation)
);
CREATE INDEX nodes_open ON brokerd.nodes (name) WHERE closed_at IS NULL;
"""

_DEALS = """
CREATE TABLE brokerd.deals (
    account_id bigint NOT NULL,
    deal_id text NOT NULL,
    user_id text NOT NULL,
    type text NOT NULL,
    entry text,
    symbol text,
    volume numeric(28,8),
    price numeric(28,8),
    time timestamptz NOT NULL,
    broker_time text NOT NULL,
    profit numeric(28,8) NOT NULL,
    commission numeric(28,8) NOT NULL,
    swap numeric(28,8) NOT NULL,
    order_id text,
    position_id text,
    book text NOT NULL,
    raw text NOT NULL,
    revision integer DEFAULT 0 NOT NULL,
    content_hash bigint NOT NULL,
    source text NOT NULL,
    write_id bigint NOT NULL,
    committed_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    removed_at timestamptz,
    PRIMARY KEY (account_id, deal_id)
) PARTITION BY HASH (account_id);
CREATE INDEX deals_account_time ON brokerd.deals (account_id, time, deal_id);
CREATE INDEX deals_user_symbol_time ON brokerd.deals (user_id, symbol, time, deal_id);
CREATE INDEX deals_user_time ON brokerd.deals (user_id, time, deal_id);
"""

_DEAL_REVISIONS = """
CREATE TABLE brokerd.deal_revisions (
    account_id bigint NOT NULL,
    deal_id text NOT NULL,
    revision integer NOT NULL,
    kind text NOT NULL,
    replaced jsonb NOT NULL,
    replaced_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    PRIMARY KEY (account_id, deal_id, revision)
);
"""

_WINDOWS = """
CREATE TABLE brokerd.windows (
    account_id bigint NOT NULL,
    start timestamptz NOT NULL,
    "end" timestamptz NOT NULL,
    deals bigint NOT NULL,
    content_hash bigint NOT NULL,
    balance numeric(28,8) NOT NULL,
    credit numeric(28,8) NOT NULL,
    verified_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    PRIMARY KEY (account_id, start),
    CONSTRAINT windows_span CHECK ("start" < "end")
);
"""

_HEADS = """
CREATE TABLE brokerd.heads (
    account_id bigint NOT NULL,
    watermark timestamptz,
    account_seq bigint DEFAULT 0 NOT NULL,
    writes bigint DEFAULT 0 NOT NULL,
    pulled_at timestamptz,
    PRIMARY KEY (account_id)
);
"""

_EVENTS = """
CREATE TABLE brokerd.events (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    account_id bigint NOT NULL,
    account_seq bigint NOT NULL,
    link_id text NOT NULL,
    user_id text NOT NULL,
    type text NOT NULL,
    deal_id text,
    revision integer,
    payload jsonb NOT NULL,
    created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    PRIMARY KEY (seq),
    CONSTRAINT events_account_seq_key UNIQUE (account_id, account_seq)
);
"""

_DDL = (
    _ACCOUNTS,
    _LEASES,
    _LINKS,
    _LINK_TRANSITIONS,
    _NODES,
    _DEALS,
    _DEAL_REVISIONS,
    _WINDOWS,
    _HEADS,
    _EVENTS,
)


def upgrade() -> None:
    """Create every table, and the partitions of the deals."""
    for statements in _DDL:
        op.execute(statements)
    for part in range(_DEAL_PARTITIONS):
        op.execute(
            f"CREATE TABLE brokerd.deals_{part:02d} PARTITION OF brokerd.deals"
            f" FOR VALUES WITH (MODULUS {_DEAL_PARTITIONS}, REMAINDER {part})"
        )
