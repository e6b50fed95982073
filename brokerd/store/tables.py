"""The tables of schema `brokerd`; migrations create them, adapters speak through them."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

SCHEMA = "brokerd"
DEAL_PARTITIONS = 16

metadata = sa.MetaData(schema=SCHEMA)

MONEY = sa.Numeric(28, 8)
"""Room for 20 digits before the point; eight after it is what `connector.wire` quantises to."""
MOMENT = sa.TIMESTAMP(timezone=True)


class XID8(sa.types.UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction id; read as text."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Name the type in DDL."""
        return "xid8"


_NOW = sa.text("clock_timestamp()")

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("account_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("link_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("platform", sa.Text, nullable=False),
    sa.Column("login", sa.Text, nullable=False),
    sa.Column("server", sa.Text, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("margin_mode", sa.Text),  # as the first connect saw it
    sa.Column("trade_mode", sa.Text),  # demo, contest or real, likewise
    sa.Column("token", sa.Text, nullable=False),  # a configured name, never the secret
    sa.Column("metaapi_account_id", sa.Text),  # as the spec names it; null = ours to create
    sa.Column("created_account_id", sa.Text),  # what we created or found for such a spec
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("desired", sa.Text, nullable=False),
    sa.Column("priority", sa.Text, nullable=False),
    sa.Column("sync_from", MOMENT),
    sa.Column("max_staleness_seconds", sa.Integer),
    sa.Column("labels", pg.JSONB, nullable=False, server_default=sa.text("'{}'")),
    sa.Column("generation", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("created_at", MOMENT, nullable=False, server_default=_NOW),
    sa.Column("updated_at", MOMENT, nullable=False, server_default=_NOW),
    sa.Column("deleted_at", MOMENT),
    sa.Column("removes_remote", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("credential_version", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("auth", sa.Text, nullable=False, server_default="ok"),  # `provisioning.ports.Auth`
    sa.Column("auth_at", MOMENT),
    sa.Column("validation_locked_until", MOMENT),
    sa.UniqueConstraint("platform", "server", "login", name="accounts_identity_key"),
    sa.Index(
        "accounts_link_id_key",
        "link_id",
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    ),
    sa.Index("accounts_link_id_any", "link_id"),  # a deleted link's ledger stays readable
    sa.Index("accounts_user_id", "user_id", "link_id"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("account_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("owner", sa.BigInteger),  # an incarnation; null and wanted = queued
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("is_wanted", sa.Boolean, nullable=False),
    sa.Column("deadline", MOMENT, nullable=False),
    sa.Column("queued_at", MOMENT, nullable=False, server_default=_NOW),
    sa.Column("not_before", MOMENT),  # set = in backoff, outside the claim index
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("backoff_bound", sa.Double, nullable=False, server_default="0"),
    # what must be done at MetaApi for a link that is not wanted: undeploy or remove its account
    sa.Column("has_errand", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index(
        "leases_queue",
        "deadline",
        "account_id",
        postgresql_where=sa.text("owner IS NULL AND is_wanted AND not_before IS NULL"),
    ),
    sa.Index("leases_not_before", "not_before", postgresql_where=sa.text("not_before IS NOT NULL")),
    sa.Index("leases_owner", "owner", postgresql_where=sa.text("owner IS NOT NULL")),
    sa.Index(
        "leases_errands",
        "queued_at",
        "account_id",
        postgresql_where=sa.text("owner IS NULL AND has_errand"),
    ),
)

links = sa.Table(
    "links",
    metadata,
    sa.Column("account_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("observed_generation", sa.BigInteger, nullable=False),
    sa.Column("since", MOMENT, nullable=False),
    sa.Column("next_attempt_at", MOMENT),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("user_action", sa.Text, nullable=False, server_default="none"),
    sa.Column("proof", sa.Text, nullable=False, server_default="unknown"),
    sa.Column("proof_detail", sa.Text, nullable=False, server_default=""),
    sa.Column("proven_at", MOMENT),
)

link_transitions = sa.Table(
    "link_transitions",
    metadata,
    sa.Column("transition_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("account_id", sa.BigInteger, nullable=False),
    sa.Column("at", MOMENT, nullable=False, server_default=_NOW),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Index("link_transitions_account", "account_id", "at"),
)

nodes = sa.Table(
    "nodes",
    metadata,
    # numbered by the clock: see pool/postgres_nodes.py
    sa.Column("incarnation", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("max_links", sa.Integer, nullable=False),
    sa.Column("started_at", MOMENT, nullable=False, server_default=_NOW),
    sa.Column("heartbeat_at", MOMENT, nullable=False, server_default=_NOW),
    sa.Column("closed_at", MOMENT),  # set = this incarnation may never write again
    sa.Index("nodes_open", "name", postgresql_where=sa.text("closed_at IS NULL")),
)

deals = sa.Table(
    "deals",
    metadata,
    sa.Column("account_id", sa.BigInteger, primary_key=True),
    sa.Column("deal_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("entry", sa.Text),
    sa.Column("symbol", sa.Text),
    sa.Column("volume", MONEY),
    sa.Column("price", MONEY),
    sa.Column("time", MOMENT, nullable=False),
    sa.Column("broker_time", sa.Text, nullable=False),
    sa.Column("profit", MONEY, nullable=False),
    sa.Column("commission", MONEY, nullable=False),
    sa.Column("swap", MONEY, nullable=False),
    sa.Column("order_id", sa.Text),
    sa.Column("position_id", sa.Text),
    sa.Column("book", sa.Text, nullable=False),
    sa.Column("raw", sa.Text, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
    sa.Column("content_hash", sa.BigInteger, nullable=False),
    sa.Column("source", sa.Text, nullable=False),  # who saw it first
    sa.Column("write_id", sa.BigInteger, nullable=False),  # of the write that last changed it
    sa.Column("committed_at", MOMENT, nullable=False, server_default=_NOW),
    sa.Column("removed_at", MOMENT),  # set = the broker removed it; kept so a stale copy is known
    sa.Index("deals_account_time", "account_id", "time", "deal_id"),
    sa.Index("deals_user_time", "user_id", "time", "deal_id"),
    sa.Index("deals_user_symbol_time", "user_id", "symbol", "time", "deal_id"),
    sa.Index(
        "deals_account_cash",
        "account_id",
        "time",
        "deal_id",
        postgresql_where=sa.text("type NOT IN ('DEAL_TYPE_BUY', 'DEAL_TYPE_SELL')"),
    ),
    sa.Index(
        "deals_user_cash",
        "user_id",
        "time",
        "deal_id",
        postgresql_where=sa.text("type NOT IN ('DEAL_TYPE_BUY', 'DEAL_TYPE_SELL')"),
    ),
    postgresql_partition_by="HASH (account_id)",
)

deal_revisions = sa.Table(
    "deal_revisions",
    metadata,
    sa.Column("account_id", sa.BigInteger, primary_key=True),
    sa.Column("deal_id", sa.Text, primary_key=True),
    sa.Column("revision", sa.Integer, primary_key=True),  # of the row that was replaced
    sa.Column("kind", sa.Text, nullable=False),  # revised, removed, restored
    sa.Column("replaced", pg.JSONB, nullable=False),  # the row as it was
    sa.Column("replaced_at", MOMENT, nullable=False, server_default=_NOW),
)

windows = sa.Table(
    "windows",
    metadata,
    sa.Column("account_id", sa.BigInteger, primary_key=True),
    sa.Column("start", MOMENT, primary_key=True),
    sa.Column("end", MOMENT, nullable=False),
    sa.Column("deals", sa.BigInteger, nullable=False),
    sa.Column("content_hash", sa.BigInteger, nullable=False),  # bit_xor over the deals' hashes
    sa.Column("balance", MONEY, nullable=False),
    sa.Column("credit", MONEY, nullable=False),
    sa.Column("verified_at", MOMENT, nullable=False, server_default=_NOW),
    sa.CheckConstraint('"start" < "end"', name="windows_span"),
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("quarantine_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("account_id", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),  # of the record as it came
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),  # `domain.BadReason`
    sa.Column("problem", sa.Text, nullable=False),
    sa.Column("deal_id", sa.Text),
    sa.Column("time", MOMENT),
    sa.Column("raw", sa.Text, nullable=False),
    sa.Column("raw_bytes", sa.BigInteger, nullable=False),  # as it came, before any cut
    sa.Column("is_cut", sa.Boolean, nullable=False),
    sa.Column("times", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("first_seen_at", MOMENT, nullable=False, server_default=_NOW),
    sa.Column("last_seen_at", MOMENT, nullable=False, server_default=_NOW),
    sa.Column("state", sa.Text, nullable=False, server_default="open"),
    sa.Column("replay_asked_at", MOMENT),  # the owner reads it again at its next pull
    sa.Column("closed_at", MOMENT),
    sa.Column("note", sa.Text),  # why it was discarded
    sa.UniqueConstraint("account_id", "digest", name="quarantine_digest_key"),
    sa.Index("quarantine_account", "account_id", "quarantine_id"),
    sa.Index("quarantine_open", "account_id", postgresql_where=sa.text("state = 'open'")),
)

operations = sa.Table(
    "operations",
    metadata,
    sa.Column(
        "operation_id",
        sa.Text,
        primary_key=True,
        server_default=sa.text("(gen_random_uuid())::text"),
    ),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("account_id", sa.BigInteger, nullable=False),
    sa.Column("link_id", sa.Text, nullable=False),  # under which it was asked
    sa.Column("state", sa.Text, nullable=False, server_default="pending"),
    sa.Column("asked_at", MOMENT, nullable=False, server_default=_NOW),
    sa.Column("expires_at", MOMENT, nullable=False),
    sa.Column("started_at", MOMENT),
    sa.Column("finished_at", MOMENT),  # null = open
    sa.Column("progress", pg.JSONB, nullable=False, server_default=sa.text("'{}'")),
    sa.Column("result", pg.JSONB),
    sa.Column("failure", sa.Text),
    sa.Index(
        "operations_open",
        "account_id",
        "kind",
        unique=True,
        postgresql_where=sa.text("finished_at IS NULL"),
    ),
    sa.Index(
        "operations_finished",
        "finished_at",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    ),
)

heads = sa.Table(
    "heads",
    metadata,
    sa.Column("account_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("watermark", MOMENT),
    sa.Column("account_seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("writes", sa.BigInteger, nullable=False, server_default="0"),  # ledger statements
    sa.Column("pulled_at", MOMENT),  # latest beginning of a pull that was written
    sa.Column("anchor_balance", MONEY),  # what lies before a partial history, once anchored
    sa.Column("anchor_credit", MONEY),
)

feed = sa.Table(
    "feed",
    metadata,
    sa.Column("is_only", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("origin", sa.Text, nullable=False),  # cluster and database the events belong to
    sa.Column("base", sa.BigInteger, nullable=False),  # a generation less the WAL's timeline
    sa.Column("pruned_generation", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("pruned_xid", XID8, nullable=False, server_default="0"),
    sa.Column("pruned_seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tended_at", MOMENT),  # when a node last took its turn at the old partitions
    sa.CheckConstraint("is_only", name="feed_is_one_row"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column(
        "generation",
        sa.BigInteger,
        primary_key=True,
        autoincrement=False,
        server_default=sa.text("brokerd.feed_generation()"),
    ),
    sa.Column("xid", XID8, primary_key=True, server_default=sa.text("pg_current_xact_id()")),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=True),
    sa.Column("account_id", sa.BigInteger, nullable=False),
    sa.Column("account_seq", sa.BigInteger, nullable=False),
    sa.Column("link_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),  # `ledger.feed.EventType`
    sa.Column("deal_id", sa.Text),
    sa.Column("revision", sa.Integer),
    sa.Column("payload", pg.JSONB, nullable=False),
    sa.Column("created_at", MOMENT, primary_key=True, server_default=_NOW),
    sa.Index("events_link", "link_id", "generation", "xid", "seq"),
    sa.Index("events_user", "user_id", "generation", "xid", "seq"),
    postgresql_partition_by="RANGE (created_at)",
)

credentials = sa.Table(
    "credentials",
    metadata,
    sa.Column("account_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.Text, nullable=False),  # key id and HMAC; never the password
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("sealed", sa.LargeBinary),  # null = erased, because nothing waits for it any more
    sa.Column("state", sa.Text, nullable=False, server_default="waiting"),
    sa.Column("submitted_at", MOMENT, nullable=False, server_default=_NOW),
    sa.Index("credentials_sealed", "account_id", postgresql_where=sa.text("sealed IS NOT NULL")),
)

rejected_credentials = sa.Table(
    "rejected_credentials",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("rejected_at", MOMENT, nullable=False, server_default=_NOW),
    sa.Column("forget_at", MOMENT, nullable=False),
)

intents = sa.Table(
    "intents",
    metadata,
    sa.Column("intent_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("account_id", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),  # `provisioning.ports.IntentKind`
    sa.Column("transaction_id", sa.Text, nullable=False),  # MetaApi makes one account of each
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("credential_version", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.BigInteger, nullable=False),  # who opened it
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("opened_at", MOMENT, nullable=False, server_default=_NOW),
    sa.Column("closed_at", MOMENT),  # null = nobody knows yet how the call ended
    sa.Column("code", sa.Text),
    sa.Column("problem", sa.Text),
    sa.Index("intents_account", "account_id", "intent_id"),
    sa.Index(
        "intents_open", "account_id", unique=True, postgresql_where=sa.text("closed_at IS NULL")
    ),
)

spend = sa.Table(
    "spend",
    metadata,
    sa.Column("intent_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("account_id", sa.BigInteger, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("charge", sa.Text, nullable=False),  # `provisioning.ports.Charge`
    sa.Column("usd", sa.Numeric(12, 6), nullable=False),
    sa.Column("at", MOMENT, nullable=False, server_default=_NOW),
    sa.Index("spend_at", "at"),
)
