"""The census of the fleet, over the tables `nodes` and `accounts`."""

from collections.abc import Sequence

import sqlalchemy as sa

from brokerd.connector.governor.ports import Demand
from brokerd.store.engine import Database
from brokerd.store.tables import accounts, nodes

_LIVE_NODES = (
    sa.select(sa.func.count())
    .select_from(nodes)
    .where(nodes.c.closed_at.is_(None), nodes.c.max_links > 0)
)
_ACCOUNT_ID = sa.func.coalesce(accounts.c.metaapi_account_id, accounts.c.created_account_id)
_DEMANDS = (
    sa.select(
        accounts.c.token,
        accounts.c.region,
        sa.func.count().label("wanted"),
        sa.func.count(_ACCOUNT_ID).label("accounts"),
        sa.func.min(_ACCOUNT_ID).label("example"),
    )
    .where(accounts.c.deleted_at.is_(None), accounts.c.desired != "stopped")
    .group_by(accounts.c.token, accounts.c.region)
    .order_by(accounts.c.token, accounts.c.region)
)


class PostgresCensus:
    """`Census` by two counting statements."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def live_nodes(self) -> int:
        """Count the nodes that are not closed and run links."""
        async with self._database.statement() as connection:
            counted = await connection.execute(_LIVE_NODES)
        return int(counted.scalar_one())

    async def demands(self) -> Sequence[Demand]:
        """Count the accounts that are neither stopped nor deleted."""
        async with self._database.statement() as connection:
            rows = (await connection.execute(_DEMANDS)).all()
        return [
            Demand(
                token=row.token,
                region=row.region,
                wanted=row.wanted,
                accounts=row.accounts,
                example_account_id=row.example,
            )
            for row in rows
        ]
