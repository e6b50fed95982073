"""One pull: read a span of history page by page, commit it, and say what the broker left out.

A long history is not read at one go. After so many pages a pull ends where the last deal it read
begins: all deals before that moment were read, those of that very moment belong to the next span.
That rests on pages coming in the order of time, so it is checked on every page; of a history that
comes in no such order the pull ends where the history ends.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from brokerd.connector.identity import remote_of
from brokerd.connector.ports import PAGE_LIMIT, DealsPage, HeldDeal, LinkPorts
from brokerd.connector.quarantine import PullQuarantine, open_quarantine
from brokerd.domain import Claim, Deal, DealId, LinkWrite, Source, WriteOutcome
from brokerd.errors import Incomplete, Synchronizing

HORIZON = timedelta(days=1)
"""How far beyond our own clock a pull asks: a broker's clock may be ahead of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What a pull of [start, end) did; unless it `is_last`, the next one starts at `end`.

    `inserted` are new deals with their times, `missing` deals the ledger holds of the span and the
    answer lacked. `fetched_at` is when the pull began: what is before both it and `end` is covered.
    """

    start: datetime
    end: datetime
    is_last: bool
    fetched_at: datetime
    inserted: Mapping[DealId, datetime]
    revised: frozenset[DealId]
    held: Mapping[DealId, HeldDeal]
    missing: Mapping[DealId, HeldDeal]

    @property
    def through(self) -> datetime:
        """Return the time before which the ledger is complete now, if it was up to `start`."""
        return min(self.end, self.fetched_at)


CarryOut = Callable[[Callable[[], Awaitable[Pulled]]], Awaitable[Pulled]]
"""How the pull of a span is tried: once, or through failures."""


async def at_once(span: Callable[[], Awaitable[Pulled]]) -> Pulled:
    """Try once."""
    return await span()


class Puller:
    """Pulls for one claim; every write is fenced by it, and says which `source` it is of."""

    def __init__(self, claim: Claim, *, ports: LinkPorts, source: Source = Source.PULL) -> None:
        self._claim = claim
        self._source = source
        self._rest = ports.rest
        self._ledger = ports.ledger
        self._windows = ports.windows
        self._clock = ports.clock
        self._max_pages = ports.settings.pull_pages
        self._quarantine_blocks = ports.settings.quarantine_blocks

    async def pull(self, start: datetime, *, until: datetime | None = None) -> Pulled:
        """Pull a span from `start` and commit its pages; whole unless it exceeds the page budget.

        It reaches to `until`, or beyond now. Does not close a window: the caller first judges what
        is missing. Raises `Synchronizing` when MetaApi's copy is incomplete, `Incomplete` when
        history moved between two pages, or while the quarantine blocks.
        """
        fetched_at = self._clock.now()
        asked_end = fetched_at + HORIZON if until is None else until
        account_id = self._claim.fence.account_id
        end = await self._windows.span_end(
            account_id, start=start, end=asked_end, max_deals=self._max_pages * PAGE_LIMIT
        )
        held = await self._ledger.held(account_id, start=start, end=end)
        reading = _Reading(start=start, end=end, max_pages=self._max_pages)
        quarantine = await open_quarantine(self._claim, ledger=self._ledger)
        missing, inserted, revised = dict(held), dict[DealId, datetime](), set[DealId]()
        while not reading.is_done:
            page_fetched_at = self._clock.now()
            page = await self._page(start, end, reading.offset)
            deals = reading.take(page)
            await quarantine.keep(page)
            done = await self.commit(deals, fetched_at=page_fetched_at)
            inserted |= _times(deals, done.inserted)
            revised |= done.revised
            quarantine.saw(page.deals, refused=done.refused)
            for deal_id in _present(page):
                missing.pop(deal_id, None)
        inserted |= await self._heal(quarantine)
        if reading.end < end:  # what we hold beyond the cut was not looked for
            held = await self._ledger.held(account_id, start=start, end=reading.end)
            missing = {deal_id: deal for deal_id, deal in missing.items() if deal_id in held}
        return Pulled(
            start=start,
            end=reading.end,
            is_last=reading.end == asked_end,
            fetched_at=fetched_at,
            inserted=inserted,
            revised=frozenset(revised),
            held=held,
            missing=missing,
        )

    async def commit(
        self, deals: tuple[Deal, ...], *, fetched_at: datetime, removals: tuple[DealId, ...] = ()
    ) -> WriteOutcome:
        """Write what a pull fetched (or proved gone) and return what that changed."""
        if not deals and not removals:
            return _NOTHING
        return await self._ledger.write(
            LinkWrite(
                fence=self._claim.fence,
                link_id=self._claim.link_id,
                user_id=self._claim.spec.user_id,
                source=self._source,
                deals=deals,
                removals=removals,
                fetched_at=fetched_at,
            )
        )

    async def _heal(self, quarantine: PullQuarantine) -> Mapping[DealId, datetime]:
        """Store what can be read again, close what healed; return the deals that were new."""
        inserted: dict[DealId, datetime] = {}
        replayed: set[int] = set()
        for record, deal in quarantine.replays():
            done = await self.commit((deal,), fetched_at=record.seen_at)
            inserted |= _times((deal,), done.inserted)
            if not done.refused:
                replayed.add(record.quarantine_id)
        await quarantine.close(frozenset(replayed))
        if self._quarantine_blocks:
            left = await self._ledger.quarantine.open_records(self._claim.fence.account_id)
            if left:
                raise Incomplete(f"unreadable deals in quarantine, which blocks: {len(left)}")
        return inserted

    async def _page(self, start: datetime, end: datetime, offset: int) -> DealsPage:
        page = await self._rest.deals(remote_of(self._claim), start=start, end=end, offset=offset)
        if page.is_synchronizing:
            raise Synchronizing(f"MetaApi still synchronizes the history of {self._claim.link_id}")
        return page


_NOTHING = WriteOutcome(inserted=frozenset(), revised=frozenset(), removed=frozenset())


class _Reading:
    """Where one span's reading stands: the next page's offset, and where the span ends."""

    def __init__(self, *, start: datetime, end: datetime, max_pages: int) -> None:
        self.offset = 0
        self.end = end
        self.is_done = False
        self._start = start
        self._pages_left = max_pages
        self._last_key: str | None = None
        self._last_time = start
        self._is_ordered = True

    def take(self, page: DealsPage) -> tuple[Deal, ...]:
        """Note a page and return its new deals."""
        keys = page.keys
        deals = _continue(self._last_key, page, keys)
        if len(keys) < PAGE_LIMIT:
            self.is_done = True
            return deals
        self._is_ordered = self._is_ordered and _is_ordered(page.deals)
        self._last_key = keys[-1]
        if page.deals:
            self._last_time = page.deals[-1].time
        # One record of the last page is read again: if it is not first now, history moved.
        self.offset += len(keys) - 1
        self._pages_left -= 1
        if self._pages_left <= 0 and self._is_ordered and self._last_time > self._start:
            self.is_done, self.end = True, self._last_time
        return deals


def _times(deals: tuple[Deal, ...], inserted: frozenset[DealId]) -> dict[DealId, datetime]:
    return {deal.deal_id: deal.time for deal in deals if deal.deal_id in inserted}


def _is_ordered(deals: tuple[Deal, ...]) -> bool:
    return all(one.time <= two.time for one, two in pairwise(deals))


def _continue(last: str | None, page: DealsPage, keys: Sequence[str]) -> tuple[Deal, ...]:
    """Return the page's new deals; raise `Incomplete` unless it continues where `last` ended."""
    if last is None:
        return page.deals
    if not keys or keys[0] != last:
        raise Incomplete(f"history moved while it was read, around deal {last}")
    return page.deals if 0 in page.unreadable else page.deals[1:]


def _present(page: DealsPage) -> Iterator[DealId]:
    """Yield the deals that the broker has, readable or not."""
    for deal in page.deals:
        yield deal.deal_id
    for record in page.unreadable.values():
        if record.deal_id is not None:
            yield record.deal_id
