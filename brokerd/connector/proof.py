"""The balance proof: whether the broker's balance equals the sum of the ledger's deals."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from brokerd.connector.ports import AccountInformation
from brokerd.domain import Anchor, Proof, Totals
from brokerd.operations import Difference

MISMATCHES_NEEDED = 3
"""One mismatch may be a deal on its way; only as many, well apart, are a verdict (design.md 7)."""

NOT_ANCHORED = "history starts at syncFrom: not anchored to a balance yet"
"""The only doubt that a further look at the same readings resolves."""

_NOTHING_BEFORE = Anchor(balance=Decimal(0), credit=Decimal(0))

_DIGITS = {
    "AED": 2, "AUD": 2, "BTC": 8, "CAD": 2, "CHF": 2, "CNY": 2, "CZK": 2, "DKK": 2, "ETH": 8,
    "EUR": 2, "GBP": 2, "HKD": 2, "HUF": 2, "INR": 2, "JPY": 0, "KRW": 0, "MXN": 2, "NOK": 2,
    "NZD": 2, "PLN": 2, "SEK": 2, "SGD": 2, "THB": 2, "TRY": 2, "USC": 2, "USD": 2, "USDT": 2,
    "ZAR": 2,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one comparison says; `detail` is for people and names the exact difference.

    `difference` is there wherever broker and ledger could be compared, also when that proves
    nothing.
    """

    proof: Proof
    detail: str
    difference: Difference | None = None


def compare(
    before: AccountInformation,
    after: AccountInformation,
    totals: Totals,
    *,
    is_partial: bool,
) -> Finding | None:
    """Compare two equal readings with the ledger between them; None when the account moved.

    `is_partial`: the history was asked from a date on, so that its sum proves nothing before it is
    anchored; from then on every change of the balance must be one of the ledger.
    A record in quarantine, which may be worth anything, an unmapped deal type or an unknown
    currency precision leaves the proof Unknown.
    """
    if (before.balance, before.credit) != (after.balance, after.credit):
        return None
    doubt, found = _doubt(totals), difference(after, totals)
    if doubt is not None:
        return Finding(proof=Proof.UNKNOWN, detail=doubt, difference=found)
    if found is None:
        return Finding(proof=Proof.UNKNOWN, detail=f"unknown precision of {after.currency}")
    if is_partial and totals.anchor is None:
        return Finding(proof=Proof.UNKNOWN, detail=NOT_ANCHORED)
    if found.is_none:
        since = " since syncFrom" if is_partial else ""
        return Finding(proof=Proof.PROVEN, detail=f"{totals.deals} deals{since}", difference=found)
    return Finding(
        proof=Proof.MISMATCH,
        detail=f"broker minus ledger: balance {found.balance:f}, credit {found.credit:f} "
        f"{found.currency}",
        difference=found,
    )


def _doubt(totals: Totals) -> str | None:
    """Say why the ledger's sum cannot be held against the balance."""
    if totals.quarantined:
        return f"unreadable deals in quarantine: {totals.quarantined}"
    if totals.unmapped_types:
        return f"deal types of unknown book: {', '.join(sorted(totals.unmapped_types))}"
    return None


def anchor_of(seen: AccountInformation, totals: Totals) -> Anchor | None:
    """Return what the account held before a partial history; None when the digits are unknown."""
    found = difference(seen, replace(totals, anchor=None))
    return None if found is None else Anchor(balance=found.balance, credit=found.credit)


def difference(seen: AccountInformation, totals: Totals) -> Difference | None:
    """Subtract the ledger's sums from the broker's; None when the currency's digits are unknown."""
    digits = seen.currency_digits
    if digits is None:
        digits = _DIGITS.get(seen.currency.upper())
    if digits is None:
        return None
    before = totals.anchor or _NOTHING_BEFORE
    return Difference(
        balance=round(seen.balance, digits) - round(totals.balance + before.balance, digits),
        credit=round(seen.credit, digits) - round(totals.credit + before.credit, digits),
        currency=seen.currency,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Where the proof of a link stands: the finding to show and the mismatches in a row."""

    finding: Finding
    mismatches: int = 0
    last_mismatch_at: datetime | None = None

    @property
    def is_final(self) -> bool:
        """Say whether another look at the same sums would not change it."""
        if self.finding.proof is not Proof.UNKNOWN:
            return True
        return not self.mismatches and self.finding.detail != NOT_ANCHORED


def is_next_the_last(previous: Verdict, *, now: datetime, retry_seconds: float) -> bool:
    """Say whether one more mismatch now would make the verdict False."""
    return previous.mismatches == MISMATCHES_NEEDED - 1 and not _is_soon(
        previous, now=now, retry_seconds=retry_seconds
    )


def judge(previous: Verdict, finding: Finding, *, now: datetime, retry_seconds: float) -> Verdict:
    """Fold a finding into the verdict: False only after three mismatches, each a while apart."""
    if finding.proof is not Proof.MISMATCH:
        return Verdict(finding=finding)
    if _is_soon(previous, now=now, retry_seconds=retry_seconds):
        return previous
    mismatches = previous.mismatches + 1
    shown = finding
    if mismatches < MISMATCHES_NEEDED:
        shown = replace(
            finding,
            proof=Proof.UNKNOWN,
            detail=f"mismatch {mismatches} of {MISMATCHES_NEEDED}: {finding.detail}",
        )
    return Verdict(finding=shown, mismatches=mismatches, last_mismatch_at=now)


def _is_soon(previous: Verdict, *, now: datetime, retry_seconds: float) -> bool:
    last = previous.last_mismatch_at
    return last is not None and now - last < timedelta(seconds=retry_seconds)
