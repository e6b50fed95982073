"""The verdict of the demo must not be fooled."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from brokerd.demo.tally import (
    Facts,
    LedgerRow,
    LiveSpan,
    TruthRow,
    first_seen,
    percentile,
    tally,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FACTS = Facts(
    type="DEAL_TYPE_BUY",
    entry="DEAL_ENTRY_OUT",
    symbol="EURUSD",
    volume=Decimal("0.10"),
    price=Decimal("1.1"),
    time=NOON,
    profit=Decimal("-85.26"),
    commission=Decimal(0),
    swap=Decimal(0),
    order_id="2",
    position_id="3",
)
TRUTH = {("a", "1"): TruthRow(facts=FACTS, booked_at=NOON)}
LEDGER = {
    ("a", "1"): LedgerRow(
        facts=FACTS, source="stream", committed_at=NOON + timedelta(milliseconds=20)
    )
}


def test_equal_is_clean():
    """The same deals, told once, are clean; 0.10 lots are 0.1 lots."""
    same = replace(FACTS, volume=Decimal("0.1"))
    ledger = {("a", "1"): replace(LEDGER["a", "1"], facts=same)}
    assert tally(TRUTH, ledger, [("a", "1", 0)]).is_clean


def test_a_missing_deal_is_found():
    """A deal the broker holds and the ledger lacks."""
    found = tally(TRUTH, {}, [])
    assert (found.missing, found.is_clean) == ((("a", "1"),), False)


def test_an_invented_deal_is_found():
    """A deal in the ledger that the broker does not hold, or no longer."""
    found = tally({}, LEDGER, [])
    assert (found.invented, found.is_clean) == ((("a", "1"),), False)


@pytest.mark.parametrize("field", ["profit", "commission", "swap", "volume", "price"])
def test_the_smallest_difference_is_found(field):
    """Any amount that is off by 10^-8 is different."""
    off = replace(FACTS, **{field: getattr(FACTS, field) + Decimal("0.00000001")})
    ledger = {("a", "1"): replace(LEDGER["a", "1"], facts=off)}
    assert tally(TRUTH, ledger, []).different == (("a", "1"),)


def test_a_fact_told_twice_is_counted():
    """Two events for one revision are one too many; another revision is another fact."""
    told = [("a", "1", 0), ("a", "1", 0), ("a", "1", 1)]
    found = tally(TRUTH, LEDGER, told)
    assert (found.duplicated, found.is_clean) == (1, False)


def seen(*, booked_at=NOON, live=((0, 60),), until_seconds=60, source="stream"):
    """Judge one deal against stretches of live seconds."""
    spans = [
        LiveSpan(start=NOON + timedelta(seconds=a - 1), end=NOON + timedelta(seconds=b))
        for a, b in live
    ]
    return first_seen(
        {("a", "1"): TruthRow(facts=FACTS, booked_at=booked_at)},
        {("a", "1"): replace(LEDGER["a", "1"], source=source)},
        {"a": spans},
        until=NOON + timedelta(seconds=until_seconds),
    )


def test_a_live_deal_counts_for_what_brought_it():
    """Stream and pull are told apart; latency is taken from the stream's."""
    assert (seen().stream, seen().pull, seen().latencies_ms) == (1, 0, (20.0,))
    assert (seen(source="pull").stream, seen(source="pull").pull) == (0, 1)


def test_deals_made_while_not_live_or_after_the_freeze_do_not_count():
    """Only what the stream could have brought is asked of it."""
    assert seen(live=()).stream == 0
    assert seen(live=((10, 20),)).stream == 0
    assert seen(until_seconds=0).stream == 0


def test_percentiles_are_values_that_occurred():
    """No interpolation: p50 of 1..100 is 50, p99 is 99; of nothing it is None."""
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99)) == (50.0, 99.0)
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([], 0.5) is None
