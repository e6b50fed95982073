"""Cash deals get indexes of their own: among a million trades the last deposit is far away.

They hold the few rows that are not trades, so that writing trades costs nothing more.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_INDEXES = """
CREATE INDEX deals_account_cash ON brokerd.deals (account_id, time, deal_id)
    WHERE type NOT IN ('DEAL_TYPE_BUY', 'DEAL_TYPE_SELL');
CREATE INDEX deals_user_cash ON brokerd.deals (user_id, time, deal_id)
    WHERE type NOT IN ('DEAL_TYPE_BUY', 'DEAL_TYPE_SELL');
"""


def upgrade() -> None:
    """Create both."""
    op.execute(_INDEXES)
