"""The ledger over plain values as clients read it."""

from collections.abc import Sequence
from datetime import datetime

from brokerd.api.ports import DealQuery, StoredDeal
from brokerd.domain import AccountId, DealId, LinkId
from brokerd.store.memory import DealRow, MemoryState


class MemoryDealReader:
    """A `DealReader` over a `MemoryState`."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def deals(self, query: DealQuery) -> Sequence[StoredDeal]:
        """Read one keyset page."""
        account_id = None if query.link_id is None else bearer(self._state, query.link_id)
        found = [row for row in self._state.deals.values() if _matches(row, query, account_id)]
        found.sort(key=_key, reverse=query.is_newest_first)
        return [self._stored(row) for row in found[: query.limit]]

    def _stored(self, row: DealRow) -> StoredDeal:
        return StoredDeal(
            account_id=row.account_id,
            link_id=self._state.accounts[row.account_id].link_id,
            user_id=row.user_id,
            deal=row.deal,
            revision=row.revision,
            source=row.source,
            committed_at=row.committed_at,
            removed_at=None,
        )


def bearer(state: MemoryState, link_id: LinkId) -> AccountId | None:
    """Return the account that bears, or else last bore, the link id."""
    rows = [row for row in state.accounts.values() if row.link_id == link_id]
    living = [row for row in rows if row.deleted_at is None]
    ended = sorted((row.deleted_at, row.account_id) for row in rows if row.deleted_at is not None)
    if living:
        return living[0].account_id
    return ended[-1][1] if ended else None


def _key(row: DealRow) -> tuple[datetime, DealId, AccountId]:
    return row.deal.time, row.deal.deal_id, row.account_id


def _matches(row: DealRow, query: DealQuery, account_id: AccountId | None) -> bool:
    is_theirs = (
        row.user_id == query.user_id if query.link_id is None else row.account_id == account_id
    )
    is_behind = query.after is None or (
        _key(row) < query.after if query.is_newest_first else _key(row) > query.after
    )
    return (
        is_theirs
        and is_behind
        and row.removed_at is None
        and query.symbol in {None, row.deal.symbol}
        and query.kind in {None, "trade" if row.deal.is_trade else "cash"}
        and (query.start is None or row.deal.time >= query.start)
        and (query.end is None or row.deal.time < query.end)
    )
