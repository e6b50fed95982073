"""What a partial history starts from: the sums that lie before `syncFrom`, once proved equal.

Null where the history is whole, and until the first proof of a partial one.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both sums."""
    op.execute(
        "ALTER TABLE brokerd.heads ADD anchor_balance numeric(28, 8),"
        " ADD anchor_credit numeric(28, 8)"
    )
