from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.domain import Deal, DealId
from brokerd.ledger.content import EMPTY, add, content_hash, joined, receipt_of, remove

DEAL = Deal(
    deal_id=DealId("31"),
    type="DEAL_TYPE_BUY",
    entry="DEAL_ENTRY_IN",
    symbol="EURUSD",
    volume=Decimal("0.07"),
    price=Decimal("1.0842"),
    time=datetime(2026, 5, 4, 3, 2, 1, 234567, UTC),
    broker_time="2026-05-04 06:02:01.234",
    profit=Decimal(-3),
    commission=Decimal("-0.25"),
    swap=Decimal(0),
    order_id="41",
    position_id=None,
    raw="{}",
)

deals = st.builds(
    lambda number, kind, cents, minute: replace(
        DEAL,
        deal_id=DealId(f"d{number}"),
        type=kind,
        profit=Decimal(cents) / 100,
        time=DEAL.time + timedelta(minutes=minute),
    ),
    st.integers(0, 999),
    st.sampled_from(["DEAL_TYPE_SELL", "DEAL_TYPE_CREDIT", "DEAL_TYPE_BONUS"]),
    st.integers(-(10**9), 10**9),
    st.integers(0, 500),
)
histories = st.lists(deals, max_size=20, unique_by=lambda deal: deal.deal_id)


def test_the_hash_never_changes() -> None:
    """Rows written by an earlier process, or version, keep the number they were written with."""
    assert content_hash(DEAL) == 5335425238717193713


def test_the_spelling_of_a_value_does_not_matter() -> None:
    """1.0 is 1.00, -0 is 0, and one moment is the same in every zone."""
    same = replace(
        DEAL,
        volume=Decimal("0.0700"),
        profit=Decimal("-3.00000000"),
        swap=Decimal("-0.0"),
        time=DEAL.time.astimezone(timezone(timedelta(hours=3))),
        raw="other",
        broker_time="other",
    )
    assert content_hash(same) == content_hash(DEAL)


@pytest.mark.parametrize(
    "change",
    [
        {"deal_id": DealId("32")},
        {"type": "DEAL_TYPE_SELL"},
        {"entry": None},
        {"entry": ""},
        {"symbol": "EURUSD.m"},
        {"volume": Decimal("0.08")},
        {"volume": None},
        {"price": Decimal("1.08420001")},
        {"time": DEAL.time + timedelta(microseconds=1)},
        {"profit": Decimal(3)},
        {"commission": Decimal("-0.26")},
        {"swap": Decimal("0.00000001")},
        {"order_id": None, "position_id": "41"},
        {"order_id": "4", "position_id": "1"},
    ],
    ids=str,
)
def test_every_field_counts(change: dict[str, object]) -> None:
    """A change of any one field, however small, is a different content."""
    assert content_hash(replace(DEAL, **change)) != content_hash(DEAL)


@given(history=histories)
def test_the_hash_fits_a_signed_64_bit_column(history: list[Deal]) -> None:
    """Postgres's bigint holds every hash and every receipt."""
    for number in (*map(content_hash, history), receipt_of(history).content_hash):
        assert -(2**63) <= number < 2**63


@given(history=histories, order=st.randoms())
def test_a_receipt_does_not_depend_on_order(history: list[Deal], order: Random) -> None:
    """Whatever order deals arrive in, the receipt is one."""
    shuffled = list(history)
    order.shuffle(shuffled)
    assert receipt_of(shuffled) == receipt_of(history)


@given(history=histories, at=st.integers(0, 20))
def test_what_was_added_can_be_taken_out_and_spans_can_be_joined(
    history: list[Deal], at: int
) -> None:
    """Removing is adding's inverse, and two halves make the whole."""
    whole = receipt_of(history)
    assert joined(receipt_of(history[:at]), receipt_of(history[at:])) == whole
    for deal in history:
        whole = remove(whole, deal)
    assert whole == EMPTY
    assert add(EMPTY, DEAL) == receipt_of([DEAL])


def test_equal_fills_do_not_cancel_out() -> None:
    """Two deals that differ in nothing but their id leave a mark in the receipt."""
    twin = replace(DEAL, deal_id=DealId("32"))
    assert receipt_of([DEAL, twin]).content_hash != 0
