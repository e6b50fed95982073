"""When a missing deal counts as removed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from brokerd.connector.ports import AccountInformation, HeldDeal
from brokerd.connector.removal import fold, is_proven_without, ripe
from brokerd.domain import Book, DealId, Platform, Totals

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
A, B = DealId("a"), DealId("b")


def folded(suspects, *, missing, at_seconds, looked_for=(A, B)):
    """Fold one pull, with a recheck of ten minutes."""
    return fold(
        suspects,
        looked_for=looked_for,
        missing=missing,
        now=NOON + timedelta(seconds=at_seconds),
        recheck_seconds=600,
    )


def test_three_absences_a_recheck_apart_ripen():
    """The pull that missed it first and two more, each ten minutes later, are needed."""
    suspects = {}
    for at_seconds in (0, 600, 1200):
        assert ripe(suspects) == frozenset()
        suspects = folded(suspects, missing=[A], at_seconds=at_seconds)
    assert ripe(suspects) == {A}


def test_hasty_pulls_do_not_count():
    """Pulls within the recheck leave the count as it was."""
    suspects = {}
    for at_seconds in (0, 1, 2, 3, 599):
        suspects = folded(suspects, missing=[A], at_seconds=at_seconds)
    assert suspects[A].absences == 1


def test_a_deal_that_came_back_is_cleared():
    """One answer with the deal in it ends the suspicion."""
    suspects = folded({}, missing=[A, B], at_seconds=0)
    suspects = folded(suspects, missing=[B], at_seconds=600)
    assert set(suspects) == {B}


def test_a_pull_of_another_span_says_nothing():
    """Only a pull that looked for the deal may clear or confirm it."""
    suspects = folded({}, missing=[A], at_seconds=0)
    assert folded(suspects, missing=[], at_seconds=600, looked_for=[B]) == suspects


READING = AccountInformation(
    platform=Platform.MT5,
    login="1",
    server="Demo",
    currency="USD",
    balance=Decimal(90),
    credit=Decimal(0),
    margin_mode=None,
    trade_mode=None,
    currency_digits=2,
)
TOTALS = Totals(deals=2, balance=Decimal(100), credit=Decimal(0), unmapped_types=frozenset())
GONE = [HeldDeal(book=Book.BALANCE, amount=Decimal(10))]


def test_the_balance_vouches_for_the_shorter_history():
    """The broker's balance equals the ledger without the deal."""
    assert is_proven_without(READING, TOTALS, GONE)


def test_a_balance_that_still_holds_the_deal_refuses():
    """The broker's balance still includes the deal: its answer was short."""
    assert not is_proven_without(replace(READING, balance=Decimal(100)), TOTALS, GONE)


def test_credit_is_vouched_for_apart():
    """A credit deal must show in credit, not in balance."""
    credit = [HeldDeal(book=Book.CREDIT, amount=Decimal(10))]
    assert not is_proven_without(READING, TOTALS, credit)
    totals = replace(TOTALS, balance=Decimal(90), credit=Decimal(10))
    assert is_proven_without(READING, totals, credit)


def test_an_unmapped_type_vouches_for_nothing():
    """Without a full sum there is no proof of absence."""
    odd = replace(TOTALS, unmapped_types=frozenset({"DEAL_TYPE_BONUS"}))
    assert not is_proven_without(READING, odd, GONE)


def test_sums_are_compared_as_the_currency_holds_them():
    """Dust below a cent in the ledger's sum does not keep a removed deal for ever."""
    dusty = replace(TOTALS, balance=Decimal("100.001"))
    assert is_proven_without(READING, dusty, GONE)
    assert not is_proven_without(replace(READING, currency_digits=3), dusty, GONE)
