"""One pull: read a span of history page by page, commit it, and say what the broker left out."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from brokerd.clock import Clock
from brokerd.connector.ports import PAGE_LIMIT, DealsPage, HeldDeal, Ledger, RestPort
from brokerd.domain import Claim, Deal, DealId, LinkWrite, Source
from brokerd.errors import Incomplete, Synchronizing

HORIZON = timedelta(days=1)
"""How far beyond our own clock a pull asks: a broker's clock may be ahead of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What a pull did. `missing` are deals the ledger holds of the span and the answer lacked.

    `fetched_at` is when the pull began: everything before it is covered.
    """

    start: datetime
    fetched_at: datetime
    inserted: frozenset[DealId]
    held: Mapping[DealId, HeldDeal]
    missing: Mapping[DealId, HeldDeal]


class Puller:
    """Pulls for one claim; every write is fenced by it."""

    def __init__(self, claim: Claim, *, rest: RestPort, ledger: Ledger, clock: Clock) -> None:
        self._claim = claim
        self._rest = rest
        self._ledger = ledger
        self._clock = clock

    async def pull(self, start: datetime) -> Pulled:
        """Pull from `start` to beyond now and commit every page.

        Does not close a window: the caller first judges what is missing. Raises `Synchronizing`
        when MetaApi's copy is incomplete, `Incomplete` when history moved between two pages.
        """
        fetched_at = self._clock.now()
        end = fetched_at + HORIZON
        account_id = self._claim.fence.account_id
        held = await self._ledger.held(account_id, start=start, end=end)
        missing = dict(held)
        inserted: set[DealId] = set()
        offset = 0
        last: Deal | None = None
        while True:
            page_fetched_at = self._clock.now()
            page = await self._page(start, end, offset)
            deals = _continue(last, page)
            inserted |= await self.commit(deals, fetched_at=page_fetched_at)
            for deal in page.deals:
                missing.pop(deal.deal_id, None)
            if len(page.deals) < PAGE_LIMIT:
                break
            last = page.deals[-1]
            # One deal of the last page is read again: if it is not first now, history moved.
            offset += len(page.deals) - 1
        return Pulled(
            start=start,
            fetched_at=fetched_at,
            inserted=frozenset(inserted),
            held=held,
            missing=missing,
        )

    async def commit(
        self, deals: tuple[Deal, ...], *, fetched_at: datetime, removals: tuple[DealId, ...] = ()
    ) -> frozenset[DealId]:
        """Write what a pull fetched (or proved gone) and return the deals that were new."""
        if not deals and not removals:
            return frozenset()
        outcome = await self._ledger.write(
            LinkWrite(
                fence=self._claim.fence,
                link_id=self._claim.link_id,
                user_id=self._claim.spec.user_id,
                source=Source.PULL,
                deals=deals,
                removals=removals,
                fetched_at=fetched_at,
            )
        )
        return outcome.inserted

    async def _page(self, start: datetime, end: datetime, offset: int) -> DealsPage:
        page = await self._rest.deals(self._claim.spec.metaapi, start=start, end=end, offset=offset)
        if page.is_synchronizing:
            raise Synchronizing(f"MetaApi still synchronizes the history of {self._claim.link_id}")
        return page


def _continue(last: Deal | None, page: DealsPage) -> tuple[Deal, ...]:
    """Return the page's new deals; raise `Incomplete` unless it continues where `last` ended."""
    if last is None:
        return page.deals
    if not page.deals or page.deals[0].deal_id != last.deal_id:
        raise Incomplete(f"history moved while it was read, around deal {last.deal_id}")
    return page.deals[1:]
