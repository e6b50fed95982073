"""Long work as clients ask for it, in Postgres: asking is one row, whoever will carry it out."""

import sqlalchemy as sa

from brokerd.api.ports import Asked
from brokerd.domain import LinkId
from brokerd.errors import StoreUnavailable
from brokerd.operations import Operation, OperationId, OperationKind
from brokerd.pool.postgres_operations import operation_of
from brokerd.store.engine import Database
from brokerd.store.tables import accounts, operations

_ASK_ATTEMPTS = 3
"""How often we look again when what was open ended before we could read it."""

_ASK = sa.text("""
INSERT INTO brokerd.operations (kind, account_id, link_id, expires_at)
SELECT :kind, account_id, link_id, clock_timestamp() + make_interval(secs => :expire_seconds)
FROM brokerd.accounts WHERE link_id = :link_id AND deleted_at IS NULL
ON CONFLICT (account_id, kind) WHERE finished_at IS NULL DO NOTHING
RETURNING *
""")
_IS_LIVING = sa.select(accounts.c.account_id).where(
    accounts.c.link_id == sa.bindparam("link_id"), accounts.c.deleted_at.is_(None)
)
_OPEN = (
    sa.select(*operations.c)
    .where(operations.c.account_id.in_(_IS_LIVING))
    .where(operations.c.link_id == sa.bindparam("link_id"))  # else it was asked of an earlier link
    .where(operations.c.kind == sa.bindparam("kind"), operations.c.finished_at.is_(None))
)


class PostgresOperationRegistry:
    """An `OperationRegistry` over tables `operations` and `accounts`."""

    def __init__(self, database: Database, *, expire_seconds: float) -> None:
        self._database = database
        self._expire_seconds = expire_seconds

    async def ask(self, link_id: LinkId, kind: OperationKind) -> Asked | None:
        """Ask something of a link, unless that is open already; None when there is no such link."""
        values = {"link_id": link_id, "kind": kind}
        asking = {**values, "expire_seconds": self._expire_seconds}
        async with self._database.statement() as connection:
            for _ in range(_ASK_ATTEMPTS):
                made = (await connection.execute(_ASK, asking)).one_or_none()
                if made is not None:
                    return Asked(operation=operation_of(made), is_new=True)
                found = (await connection.execute(_OPEN, values)).one_or_none()
                if found is not None:
                    return Asked(operation=operation_of(found), is_new=False)
                if await connection.scalar(_IS_LIVING, {"link_id": link_id}) is None:
                    return None
        raise StoreUnavailable(f"what is asked of link {link_id} changes all the time; try again")

    async def read(self, operation_id: OperationId) -> Operation | None:
        """Read one operation; None when it never was, or ended long ago."""
        query = sa.select(*operations.c).where(operations.c.operation_id == operation_id)
        async with self._database.statement() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else operation_of(row)
