"""The balance proof, decided without I/O."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from brokerd.connector.ports import AccountInformation
from brokerd.connector.proof import Finding, Verdict, compare, judge
from brokerd.domain import Platform, Proof, Totals

READING = AccountInformation(
    platform=Platform.MT5,
    login="1",
    server="Demo",
    currency="USD",
    balance=Decimal("100.10"),
    credit=Decimal(0),
    margin_mode=None,
    trade_mode=None,
    currency_digits=None,
)
TOTALS = Totals(deals=3, balance=Decimal("100.10"), credit=Decimal(0), unmapped_types=frozenset())
MISMATCH = Finding(proof=Proof.MISMATCH, detail="off by one")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def proof_of(reading=READING, totals=TOTALS, *, is_partial=False):
    """Compare one reading taken twice."""
    return compare(reading, reading, totals, is_partial=is_partial).proof


def test_equal_sums_are_proven():
    """Balance and credit equal to the ledger's sums prove it."""
    assert proof_of() is Proof.PROVEN


@pytest.mark.parametrize("field", ["balance", "credit"])
def test_one_cent_of_difference_is_a_mismatch_and_is_named(field):
    """The finding states the exact difference, broker minus ledger."""
    off = replace(READING, **{field: getattr(READING, field) + Decimal("0.01")})
    finding = compare(off, off, TOTALS, is_partial=False)
    assert finding.proof is Proof.MISMATCH
    assert f"{field} 0.01" in finding.detail


def test_digits_beyond_the_currency_do_not_count():
    """Float dust in the broker's balance is not a difference."""
    dusty = replace(READING, balance=Decimal("100.10000001"))
    assert proof_of(dusty) is Proof.PROVEN


def test_an_account_that_moved_between_readings_proves_nothing_yet():
    """Two unequal readings ask for another try."""
    later = replace(READING, balance=Decimal("101.10"))
    assert compare(READING, later, TOTALS, is_partial=False) is None


def test_an_unmapped_type_leaves_the_proof_unknown():
    """A deal type of unknown book is never guessed into a sum."""
    odd = replace(TOTALS, unmapped_types=frozenset({"DEAL_TYPE_BONUS"}))
    assert proof_of(totals=odd) is Proof.UNKNOWN


def test_an_unknown_currency_leaves_the_proof_unknown_unless_its_digits_are_told():
    """Precision comes from the broker or from the table, or the proof is Unknown."""
    odd = replace(READING, currency="XXZ")
    assert proof_of(odd) is Proof.UNKNOWN
    assert proof_of(replace(odd, currency_digits=2)) is Proof.PROVEN


def test_a_partial_history_is_unknown():
    """A history that starts at syncFrom cannot be summed to the balance."""
    assert proof_of(is_partial=True) is Proof.UNKNOWN


def test_false_takes_three_mismatches_a_while_apart():
    """One mismatch may be a deal on its way; three, a minute apart each, are a verdict."""
    verdict = Verdict(finding=Finding(proof=Proof.PROVEN, detail=""))
    shown = []
    for seconds in (0, 1, 60, 61, 120):
        verdict = judge(verdict, MISMATCH, now=NOON + timedelta(seconds=seconds), retry_seconds=60)
        shown.append((verdict.mismatches, verdict.finding.proof))
    unknown, mismatch = Proof.UNKNOWN, Proof.MISMATCH
    assert shown == [(1, unknown), (1, unknown), (2, unknown), (2, unknown), (3, mismatch)]


def test_a_proof_in_between_starts_the_count_again():
    """Mismatches count in a row only."""
    verdict = Verdict(finding=MISMATCH, mismatches=2, last_mismatch_at=NOON)
    verdict = judge(verdict, Finding(proof=Proof.PROVEN, detail=""), now=NOON, retry_seconds=60)
    assert (verdict.mismatches, verdict.finding.proof) == (0, Proof.PROVEN)
