"""MetaApi accounts of our own: calls under intents, what they cost, and passwords that wait.

An account whose spec names no MetaApi account has one created. `credentials` keeps a password only
sealed and only while it waits; `rejected_credentials` keeps what is known to be refused, and no
password can be read from it.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ACCOUNTS = """
ALTER TABLE brokerd.accounts
    ALTER metaapi_account_id DROP NOT NULL,
    ADD created_account_id text,
    ADD removes_remote boolean DEFAULT false NOT NULL,
    ADD credential_version bigint DEFAULT 0 NOT NULL,
    ADD auth text DEFAULT 'ok' NOT NULL,
    ADD auth_at timestamptz,
    ADD validation_locked_until timestamptz;
"""

_LEASES = """
ALTER TABLE brokerd.leases ADD has_errand boolean DEFAULT false NOT NULL;
CREATE INDEX leases_errands ON brokerd.leases (queued_at, account_id)
    WHERE owner IS NULL AND has_errand;
"""

_CREDENTIALS = """
CREATE TABLE brokerd.credentials (
    account_id bigint NOT NULL,
    version bigint NOT NULL,
    digest text NOT NULL,
    key_id text NOT NULL,
    sealed bytea,
    state text DEFAULT 'waiting' NOT NULL,
    submitted_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    PRIMARY KEY (account_id, version)
);
CREATE INDEX credentials_sealed ON brokerd.credentials (account_id) WHERE sealed IS NOT NULL;
CREATE TABLE brokerd.rejected_credentials (
    digest text NOT NULL,
    rejected_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    forget_at timestamptz NOT NULL,
    PRIMARY KEY (digest)
);
"""

_INTENTS = """
CREATE TABLE brokerd.intents (
    intent_id bigint GENERATED ALWAYS AS IDENTITY,
    account_id bigint NOT NULL,
    kind text NOT NULL,
    transaction_id text NOT NULL,
    generation bigint NOT NULL,
    credential_version bigint NOT NULL,
    owner bigint NOT NULL,
    epoch bigint NOT NULL,
    opened_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    closed_at timestamptz,
    code text,
    problem text,
    PRIMARY KEY (intent_id)
);
CREATE INDEX intents_account ON brokerd.intents (account_id, intent_id);
CREATE UNIQUE INDEX intents_open ON brokerd.intents (account_id) WHERE closed_at IS NULL;
"""

_SPEND = """
CREATE TABLE brokerd.spend (
    intent_id bigint NOT NULL,
    account_id bigint NOT NULL,
    user_id text NOT NULL,
    charge text NOT NULL,
    usd numeric(12, 6) NOT NULL,
    at timestamptz DEFAULT clock_timestamp() NOT NULL,
    PRIMARY KEY (intent_id)
);
CREATE INDEX spend_at ON brokerd.spend (at);
"""


def upgrade() -> None:
    """Widen the registry, and create what money needs."""
    for statements in (_ACCOUNTS, _LEASES, _CREDENTIALS, _INTENTS, _SPEND):
        op.execute(statements)
