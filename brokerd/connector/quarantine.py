"""What one pull has to do with the quarantine: it fills it, and empties what healed.

A record that is no deal is kept raw and its neighbours commit. It leaves by itself once a pull
brings a readable deal under its id, or, when an operator asked for a replay, once the kept text
can be read by the code of today.
"""

from collections.abc import Sequence

import structlog

from brokerd.connector.poison import shown
from brokerd.connector.ports import DealsPage, Ledger
from brokerd.connector.wire import deal_from_record
from brokerd.domain import Claim, Deal, DealId, OpenRecord, Source
from brokerd.errors import BadDeal, MalformedAnswer

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MAX_UNREADABLE = 1_000
"""Of one pull. More are no poison records: then the answers themselves have changed."""


class PullQuarantine:
    """The quarantine as one pull meets it: what was open at its beginning, and what it saw."""

    def __init__(self, claim: Claim, *, ledger: Ledger, was_open: Sequence[OpenRecord]) -> None:
        self._claim = claim
        self._ledger = ledger
        self._was_open = was_open
        self._wanted = {record.deal_id for record in was_open if record.deal_id is not None}
        self._seen: set[DealId] = set()
        self._kept: set[str] = set()

    async def keep(self, page: DealsPage) -> None:
        """Keep the page's unreadable records; raises `MalformedAnswer` when they are too many."""
        records = tuple(page.unreadable.values())
        if not records:
            return
        self._kept.update(record.digest for record in records)
        if len(self._kept) > MAX_UNREADABLE:
            raise MalformedAnswer(
                f"more than {MAX_UNREADABLE} unreadable deals, such as: {records[0].problem}"
            )
        await self._ledger.quarantine.keep(
            self._claim.fence, records, link_id=self._claim.link_id, source=Source.PULL
        )

    def saw(self, deals: Sequence[Deal], *, refused: frozenset[DealId]) -> None:
        """Note deals that are in the ledger now."""
        if self._wanted:
            self._seen.update({deal.deal_id for deal in deals} & self._wanted - refused)

    def replays(self) -> Sequence[tuple[OpenRecord, Deal]]:
        """Read again what operators asked for; what is still unreadable is left out."""
        asked = [record for record in self._was_open if record.raw is not None]
        read = [(record, self._read(record)) for record in asked]
        return [(record, deal) for record, deal in read if deal is not None]

    async def close(self, replayed: frozenset[int]) -> None:
        """Close what healed: seen by the pull, or replayed."""
        healed = [
            record.quarantine_id
            for record in self._was_open
            if record.deal_id in self._seen or record.quarantine_id in replayed
        ]
        if healed:
            await self._ledger.quarantine.close(self._claim.fence, healed)
            log.info("ledger.quarantine_healed", link_id=self._claim.link_id, records=len(healed))

    def _read(self, record: OpenRecord) -> Deal | None:
        try:
            platform = self._claim.spec.identity.platform
            return deal_from_record((record.raw or "").encode(), platform=platform)
        except (BadDeal, MalformedAnswer) as error:
            log.warning(
                "ledger.replay_failed", link_id=self._claim.link_id, problem=shown(str(error))
            )
            return None


async def open_quarantine(claim: Claim, *, ledger: Ledger) -> PullQuarantine:
    """Look at the quarantine as a pull begins."""
    was_open = await ledger.quarantine.open_records(claim.fence.account_id)
    return PullQuarantine(claim, ledger=ledger, was_open=was_open)
