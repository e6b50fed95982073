"""Proves one account's balance from its whole history, without a ledger."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import assert_never

from brokerd.clock import Clock
from brokerd.connector.inspection.report import Finding, Verdict
from brokerd.connector.ports import PAGE_LIMIT, RestPort
from brokerd.connector.proof import compare
from brokerd.domain import Book, Deal, DealId, MetaApiRef, Proof, Totals
from brokerd.errors import Incomplete, Synchronizing

BEGINNING = datetime(1971, 1, 1, tzinfo=UTC)
HORIZON = timedelta(days=1)
_ATTEMPTS = 3
_VERDICTS = {
    Proof.PROVEN: Verdict.AS_KNOWN,
    Proof.UNKNOWN: Verdict.DIFFERS,
    Proof.MISMATCH: Verdict.FAILED,
}


@dataclass(slots=True)
class History:
    """What was read of an account: which deals, and what they add up to."""

    deal_ids: set[DealId] = field(default_factory=set)
    balance: Decimal = Decimal(0)
    credit: Decimal = Decimal(0)
    unmapped_types: set[str] = field(default_factory=set)
    unreadable: int = 0

    def add(self, deal: Deal) -> None:
        """Count a deal, once."""
        if deal.deal_id in self.deal_ids:
            return
        self.deal_ids.add(deal.deal_id)
        match deal.book:
            case Book.BALANCE:
                self.balance += deal.amount
            case Book.CREDIT:
                self.credit += deal.amount
            case Book.UNMAPPED:
                self.unmapped_types.add(deal.type)
            case _:
                assert_never(deal.book)

    @property
    def totals(self) -> Totals:
        """Return the sums as a ledger states them."""
        return Totals(
            deals=len(self.deal_ids),
            balance=self.balance,
            credit=self.credit,
            unmapped_types=frozenset(self.unmapped_types),
            quarantined=self.unreadable,
        )


async def prove(remote: MetaApiRef, *, rest: RestPort, clock: Clock) -> tuple[Finding, History]:
    """Compare the balance with the sum of all deals; once more while the account trades."""
    for _ in range(_ATTEMPTS):
        before = await rest.account_information(remote)
        history = await _read(remote, rest=rest, end=clock.now() + HORIZON)
        after = await rest.account_information(remote)
        found = compare(before, after, history.totals, is_partial=False)
        if found is not None:
            verdict = _VERDICTS[found.proof]
            seen = f"{found.proof}: {found.detail}"
            return Finding(
                check="balance proof", verdict=verdict, seen=seen, known="proven"
            ), history
    raise Incomplete("the balance changed while history was read, again and again")


async def _read(remote: MetaApiRef, *, rest: RestPort, end: datetime) -> History:
    history, offset = History(), 0
    while True:
        page = await rest.deals(remote, start=BEGINNING, end=end, offset=offset)
        if page.is_synchronizing:
            raise Synchronizing("MetaApi still synchronizes the history of the account")
        for deal in page.deals:
            history.add(deal)
        history.unreadable += len(page.unreadable)
        offset += len(page.keys)
        if len(page.keys) < PAGE_LIMIT:
            return history
