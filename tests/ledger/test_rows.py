from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from brokerd.domain import (
    AccountId,
    Deal,
    DealId,
    Fence,
    Incarnation,
    LinkId,
    LinkWrite,
    Source,
    UserId,
)
from brokerd.errors import BadDeal
from brokerd.ledger.rows import MAX_RAW_BYTES, check, distinct, pieces, sift, size_of

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def deal(number: int = 1, **fields: object) -> Deal:
    """Build a deal that is fine but for the fields given."""
    values = {
        "deal_id": DealId(f"d{number}"),
        "type": "DEAL_TYPE_BUY",
        "entry": None,
        "symbol": None,
        "volume": None,
        "price": None,
        "time": NOON,
        "broker_time": "",
        "profit": Decimal(1),
        "commission": Decimal(0),
        "swap": Decimal(0),
        "order_id": None,
        "position_id": None,
        "raw": "{}",
        **fields,
    }
    return Deal(**values)


def write(*deals: Deal, removals: tuple[str, ...] = (), is_pull: bool = True) -> LinkWrite:
    """Build a write of one link."""
    return LinkWrite(
        fence=Fence(account_id=AccountId(1), incarnation=Incarnation(1), epoch=1),
        link_id=LinkId("l"),
        user_id=UserId("u"),
        source=Source.PULL if is_pull else Source.STREAM,
        deals=deals,
        removals=tuple(DealId(each) for each in removals),
        fetched_at=NOON if is_pull else None,
    )


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("deal_id", "", "deal_id is empty"),
        ("deal_id", "x" * 129, "deal_id is longer than 128"),
        ("symbol", "EUR\0USD", "symbol contains NUL"),
        ("entry", "half \ud83d smile", "entry contains half of a character"),
        ("order_id", "є" * 65, "order_id is longer than 128"),
        ("raw", "x" * (MAX_RAW_BYTES + 1), "raw is longer than 65536"),
        ("raw", '{"comment": "\0"}', "raw contains NUL"),
        ("profit", Decimal("NaN"), "profit is not a number"),
        ("swap", Decimal("-Infinity"), "swap is not a number"),
        ("volume", Decimal(10) ** 20, "volume is too large"),
        ("price", Decimal("1.000000001"), "price has more than 8 decimals"),
        ("time", datetime(2026, 1, 2), "time has no zone"),  # noqa: DTZ001  # the case itself
    ],
)
def test_refuses_what_postgres_would_refuse_or_change(
    field: str, value: object, reason: str
) -> None:
    """Each such deal is parted from its neighbours, and named with the field and the reason."""
    sound, bad = sift(write(deal(1), deal(2, **{field: value}), deal(3)))
    assert [each.deal_id for each in sound.deals] == ["d1", "d3"]
    ((_, record),) = bad
    assert reason in record.problem
    assert "\0" not in record.raw
    record.raw.encode()


def test_a_bad_deal_is_one_record_whichever_way_it_came() -> None:
    """Stream and REST write it differently; another content is another record."""
    first, second, third = (
        sift(write(deal(1, symbol="A\0", raw=raw, position_id=position)))[1][0][1].digest
        for raw, position in (('{"a":1}', "7"), ('{"a": 1.0}', "7"), ('{"a":1}', "8"))
    )
    assert first == second != third


def test_accepts_what_is_at_the_limits() -> None:
    """The longest texts, the largest numbers and every character of Unicode are stored."""
    largest = Decimal("-99999999999999999999.99999999")
    sound = write(
        deal(deal_id=DealId("x" * 128), profit=largest, price=Decimal("1.000000000")),
        deal(raw="x" * MAX_RAW_BYTES, symbol="😀", volume=Decimal("1E+19")),
        removals=("d9",),
    )
    check(sound)
    assert sift(sound) == (sound, ())


def test_refuses_a_removal_that_cannot_be_a_deal() -> None:
    """Removals are looked at as well."""
    with pytest.raises(BadDeal, match="NUL"):
        check(write(removals=("d\0",)))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(replace(write(), fetched_at=None), id="a pull without a beginning"),
        pytest.param(replace(write(is_pull=False), fetched_at=NOON), id="a stream with one"),
        pytest.param(replace(write(is_pull=False), removals=("d1",)), id="a stream that removes"),
    ],
)
def test_a_contradictory_write_is_our_mistake(wrong: LinkWrite) -> None:
    """Only a pull says when it began, and only a pull removes."""
    with pytest.raises(ValueError, match="only a pull"):
        check(wrong)


def test_of_two_copies_a_pull_keeps_the_last_and_the_stream_the_first() -> None:
    """A page fetched later is newer; a stream's repetition is a replay."""
    first, other, second = deal(1), deal(2), deal(1, profit=Decimal(5))
    assert set(distinct(write(first, other, second)).deals) == {second, other}
    assert set(distinct(write(first, other, second, is_pull=False)).deals) == {first, other}


def test_a_deal_that_is_sent_is_not_removed() -> None:
    """Presence is the stronger evidence, and a repeated removal is one."""
    cleaned = distinct(write(deal(1), removals=("d1", "d2", "d2")))
    assert (cleaned.deals, cleaned.removals) == ((deal(1),), ("d2",))


def test_cuts_a_large_write_into_pieces_in_order() -> None:
    """Nothing is lost, nothing repeated, and no piece exceeds the batch."""
    large = write(*(deal(number) for number in range(7)), removals=("a", "b", "c", "d"))
    cut = pieces(large, max_rows=3, max_bytes=100_000)
    assert [len(piece.deals) + len(piece.removals) for piece in cut] == [3, 3, 1, 3, 1]
    assert tuple(each for piece in cut for each in piece.deals) == large.deals
    assert tuple(each for piece in cut for each in piece.removals) == large.removals
    assert pieces(large, max_rows=11, max_bytes=100_000) == (large,)


def test_cuts_a_heavy_write_into_pieces_in_order() -> None:
    """By bytes as well; a deal that alone is beyond the bound is a piece of its own."""
    raws = ("x" * 300, "x" * 300, "я" * 2_000, "x", "x", "x" * 1_500)
    heavy = write(*(deal(number, raw=raw) for number, raw in enumerate(raws)))
    cut = pieces(heavy, max_rows=10, max_bytes=2_000)
    assert [[len(each.raw) for each in piece.deals] for piece in cut] == [
        [300, 300],
        [2_000],
        [1, 1],
        [1_500],
    ]
    assert tuple(each for piece in cut for each in piece.deals) == heavy.deals
    assert all(len(piece.deals) == 1 or sum(map(size_of, piece.deals)) <= 2_000 for piece in cut)
