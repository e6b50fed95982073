"""When a deal that is gone from the broker's answer counts as removed.

A short answer is a failure more often than a truth. So a deal that a pull did not return is asked
for by its ticket, must stay away in two further pulls, each a recheck apart, and is removed only
when the broker's balance and credit equal the ledger without it (design.md 7).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from brokerd.connector.ports import AccountInformation, HeldDeal
from brokerd.connector.proof import difference
from brokerd.domain import Book, DealId, Totals

ABSENCES_NEEDED = 3
"""The pull that missed the deal first, and two more."""

TICKETS_ASKED = 20
"""Look-ups by ticket in one pull; the balance must vouch for more missing deals than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """How often, and when last, a pull missed a deal the ledger holds."""

    absences: int
    last_absent_at: datetime


Suspects = Mapping[DealId, Suspicion]


def fold(
    suspects: Suspects,
    *,
    looked_for: Collection[DealId],
    missing: Collection[DealId],
    now: datetime,
    recheck_seconds: float,
) -> dict[DealId, Suspicion]:
    """Fold one pull into the suspects.

    `looked_for` are the deals the ledger held in the pulled span; one that came back is cleared,
    one outside the span is left as it was. An absence counts only a recheck after the last one.
    """
    kept = {deal: seen for deal, seen in suspects.items() if deal not in looked_for}
    for deal in missing:
        earlier = suspects.get(deal)
        if earlier is None:
            kept[deal] = Suspicion(absences=1, last_absent_at=now)
        elif now - earlier.last_absent_at >= timedelta(seconds=recheck_seconds):
            kept[deal] = Suspicion(absences=earlier.absences + 1, last_absent_at=now)
        else:
            kept[deal] = earlier
    return kept


def ripe(suspects: Suspects) -> frozenset[DealId]:
    """Return the suspects that were absent often enough to ask the balance."""
    return frozenset(d for d, seen in suspects.items() if seen.absences >= ABSENCES_NEEDED)


def is_proven_without(seen: AccountInformation, totals: Totals, gone: Collection[HeldDeal]) -> bool:
    """Say whether balance and credit equal the ledger without the deals that are gone."""
    if totals.unmapped_types or totals.quarantined:
        return False
    balance = sum((deal.amount for deal in gone if deal.book is Book.BALANCE), Decimal(0))
    credit = sum((deal.amount for deal in gone if deal.book is Book.CREDIT), Decimal(0))
    found = difference(
        seen, replace(totals, balance=totals.balance - balance, credit=totals.credit - credit)
    )
    return found is not None and found.is_none
