"""The ledger in Postgres as clients read it: keyset pages that an index serves."""

from collections.abc import Sequence
from datetime import UTC

import sqlalchemy as sa

from brokerd.api.ports import DealQuery, StoredDeal
from brokerd.domain import AccountId, Deal, DealId, LinkId, Source, UserId
from brokerd.store.engine import Database
from brokerd.store.tables import accounts, deals

# Literals: so the planner sees, however the statement is prepared, that the indexes of cash serve.
_IS_TRADE = deals.c.type.in_(
    [sa.literal_column("'DEAL_TYPE_BUY'"), sa.literal_column("'DEAL_TYPE_SELL'")]
)

Row = sa.Row[tuple[object, ...]]


class PostgresDealReader:
    """A `DealReader` over table `deals`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def deals(self, query: DealQuery) -> Sequence[StoredDeal]:
        """Read one keyset page."""
        async with self._database.statement() as connection:
            rows = (await connection.execute(statement(query))).all()
        return [_stored(row) for row in rows]


def statement(query: DealQuery) -> sa.Select[tuple[object, ...]]:
    """Build the statement of a page."""
    chosen = sa.select(deals, accounts.c.link_id).join_from(
        deals, accounts, accounts.c.account_id == deals.c.account_id
    )
    key = (deals.c.time, deals.c.deal_id, deals.c.account_id)
    order = [column.desc() if query.is_newest_first else column for column in key]
    return chosen.where(*_conditions(query)).order_by(*order).limit(query.limit)


def _conditions(query: DealQuery) -> Sequence[sa.ColumnElement[bool]]:
    found = [*_owner(query), deals.c.removed_at.is_(None)]
    if query.symbol is not None:
        found.append(deals.c.symbol == query.symbol)
    if query.kind is not None:
        found.append(_IS_TRADE if query.kind == "trade" else sa.not_(_IS_TRADE))
    if query.start is not None:
        found.append(deals.c.time >= query.start)
    if query.end is not None:
        found.append(deals.c.time < query.end)
    if query.after is not None:
        key = sa.tuple_(deals.c.time, deals.c.deal_id, deals.c.account_id)
        last = sa.tuple_(*query.after)
        found.append(key < last if query.is_newest_first else key > last)
    return found


def _owner(query: DealQuery) -> Sequence[sa.ColumnElement[bool]]:
    """Choose by user, or by the account that bears, or else last bore, the link id."""
    if query.link_id is None:
        return [deals.c.user_id == query.user_id]
    bearer = (
        sa.select(accounts.c.account_id)
        .where(accounts.c.link_id == query.link_id)
        .order_by(accounts.c.deleted_at.desc().nulls_first())
        .limit(1)
    )
    is_theirs = deals.c.account_id == bearer.scalar_subquery()
    if query.symbol is None:
        return [is_theirs]
    # says nothing new, but lets the index of users and symbols serve
    user = bearer.with_only_columns(accounts.c.user_id).scalar_subquery()
    return [is_theirs, deals.c.user_id == user]


def _stored(row: Row) -> StoredDeal:
    return StoredDeal(
        account_id=AccountId(row.account_id),
        link_id=LinkId(row.link_id),
        user_id=UserId(row.user_id),
        deal=Deal(
            deal_id=DealId(row.deal_id),
            type=row.type,
            entry=row.entry,
            symbol=row.symbol,
            volume=row.volume,
            price=row.price,
            time=row.time.astimezone(UTC),
            broker_time=row.broker_time,
            profit=row.profit,
            commission=row.commission,
            swap=row.swap,
            order_id=row.order_id,
            position_id=row.position_id,
            raw=row.raw,
        ),
        revision=row.revision,
        source=Source(row.source),
        committed_at=row.committed_at.astimezone(UTC),
        removed_at=None,
    )
