"""Long work that clients ask for is a row; of one kind at most one is open for an account."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_OPERATIONS = """
CREATE TABLE brokerd.operations (
    operation_id text DEFAULT gen_random_uuid()::text NOT NULL,
    kind text NOT NULL,
    account_id bigint NOT NULL,
    link_id text NOT NULL,
    state text DEFAULT 'pending' NOT NULL,
    asked_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    progress jsonb DEFAULT '{}' NOT NULL,
    result jsonb,
    failure text,
    PRIMARY KEY (operation_id)
);
CREATE UNIQUE INDEX operations_open ON brokerd.operations (account_id, kind)
    WHERE finished_at IS NULL;
CREATE INDEX operations_finished ON brokerd.operations (finished_at)
    WHERE finished_at IS NOT NULL;
"""


def upgrade() -> None:
    """Create the table."""
    op.execute(_OPERATIONS)
