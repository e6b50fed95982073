"""What links went through, in Postgres."""

from collections.abc import Sequence

import sqlalchemy as sa

from brokerd.domain import LinkId, Phase
from brokerd.health.uptime import Entered
from brokerd.store.engine import Database
from brokerd.store.tables import accounts, link_transitions

_NEWEST = (
    sa.select(link_transitions.c.phase, link_transitions.c.reason, link_transitions.c.at)
    .join_from(link_transitions, accounts, accounts.c.account_id == link_transitions.c.account_id)
    .where(accounts.c.link_id == sa.bindparam("link_id"), accounts.c.deleted_at.is_(None))
    .order_by(link_transitions.c.at.desc(), link_transitions.c.transition_id.desc())
    .limit(sa.bindparam("most"))
)
# The newest change of a link says what it has been since: that one stays, however old it is.
_FORGET = sa.text("""
DELETE FROM brokerd.link_transitions WHERE transition_id IN (
  SELECT old.transition_id FROM brokerd.link_transitions AS old
  WHERE old.at < clock_timestamp() - make_interval(days => :days) AND EXISTS (
    SELECT FROM brokerd.link_transitions AS newer
    WHERE newer.account_id = old.account_id AND newer.at > old.at
  )
  LIMIT :most
)
""")


class PostgresPast:
    """A `Past` over table `link_transitions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, link_id: LinkId, *, limit: int) -> Sequence[Entered]:
        """Return the newest changes of phase, the oldest of them first."""
        async with self._database.statement() as connection:
            rows = await connection.execute(_NEWEST, {"link_id": link_id, "most": limit})
        found = [
            Entered(phase=Phase(row.phase), reason=row.reason, at=row.at) for row in rows.all()
        ]
        return found[::-1]

    async def forget(self, *, older_than_days: int, limit: int) -> int:
        """Forget up to `limit` old changes, never a link's newest one."""
        async with self._database.statement() as connection:
            gone = await connection.execute(_FORGET, {"days": older_than_days, "most": limit})
        return gone.rowcount
