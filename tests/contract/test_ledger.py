"""Every ledger store keeps the same promises: one suite over memory and Postgres."""

import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_rig import DAY, Event, MemoryRig, PostgresRig, Rig, check_ledger, deal, recount
from prometheus_client import CollectorRegistry

from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.connector.ports import HeldDeal
from brokerd.domain import (
    AccountId,
    Book,
    Deal,
    DealId,
    Fence,
    Incarnation,
    LinkId,
    LinkWrite,
    Source,
    Totals,
    UserId,
    WriteOutcome,
)
from brokerd.errors import Fenced, LedgerRewound
from brokerd.ledger.content import receipt_of
from brokerd.ledger.ports import NumberedWrite
from brokerd.store.engine import open_database
from brokerd.telemetry import Metrics

NODE = Incarnation(1)
accounts = (AccountId(number) for number in itertools.count(1))
write_ids = itertools.count(1)


@pytest.fixture(params=["memory", "postgres"])
def rig_url(request: pytest.FixtureRequest) -> str | None:
    """Name the database, if it is to be one; the engines start outside any running loop."""
    return None if request.param == "memory" else request.getfixturevalue("database_url")


@pytest.fixture
async def rig(rig_url: str | None) -> AsyncIterator[Rig]:
    """Give each implementation in turn."""
    if rig_url is None:
        yield MemoryRig()
        return
    database_settings = DatabaseSettings(url=Secret(rig_url))
    metrics = Metrics(CollectorRegistry())
    async with open_database(database_settings, metrics=metrics, max_connections=4) as database:
        yield PostgresRig(database)


async def owned(rig: Rig) -> Fence:
    """Take the lease of an account that no test used before."""
    fence = Fence(account_id=next(accounts), incarnation=NODE, epoch=1)
    await rig.lease(fence)
    return fence


def write(
    fence: Fence,
    *deals: Deal,
    pulled: float | None = None,
    removals: Sequence[str] = (),
    number: int | None = None,
) -> NumberedWrite:
    """Build a write: from the stream, or from a pull that began `pulled` hours into the day."""
    return NumberedWrite(
        write_id=next(write_ids) if number is None else number,
        write=LinkWrite(
            fence=fence,
            link_id=LinkId(f"link-{fence.account_id}"),
            user_id=UserId("u1"),
            source=Source.STREAM if pulled is None else Source.PULL,
            deals=deals,
            removals=tuple(DealId(each) for each in removals),
            fetched_at=None if pulled is None else DAY + timedelta(days=1, hours=pulled),
        ),
    )


async def commit(rig: Rig, numbered: NumberedWrite) -> WriteOutcome:
    """Commit one write whose fence holds."""
    return (await rig.store.commit([numbered]))[numbered.write.fence.account_id]


def outcome(inserted: str = "", revised: str = "", removed: str = "") -> WriteOutcome:
    """Build an outcome from words."""
    return WriteOutcome(
        inserted=frozenset(DealId(each) for each in inserted.split()),
        revised=frozenset(DealId(each) for each in revised.split()),
        removed=frozenset(DealId(each) for each in removed.split()),
    )


async def test_inserts_what_is_new_exactly_as_sent(rig: Rig) -> None:
    """A deal comes back with every field as it was, nulls and quotes and all."""
    fence = await owned(rig)
    plain = deal(1)
    bare = deal(2, entry=None, symbol=None, volume=None, price=None, order_id=None, type="X")
    nasty = deal(3, symbol='{"a",NULL}', broker_time="", position_id="NULL", entry="a\\b 'c'\n")
    done = await commit(rig, write(fence, plain, bare, nasty))
    assert done == outcome("d1 d2 d3")
    rows = await rig.rows(fence.account_id)
    assert [rows[each.deal_id].deal for each in (plain, bare, nasty)] == [plain, bare, nasty]
    assert [rows[each.deal_id].deal.raw for each in (plain, nasty)] == [plain.raw, nasty.raw]
    assert {row.source for row in rows.values()} == {Source.STREAM}


async def test_money_is_exact_at_the_edges(rig: Rig) -> None:
    """Twenty digits before the point and eight after it survive, and add up."""
    fence = await owned(rig)
    huge = Decimal("99999999999999999999.99999999")
    await commit(rig, write(fence, deal(1, profit=str(huge), commission=-huge, swap=Decimal(0))))
    row = (await rig.rows(fence.account_id))["d1"]
    assert (row.deal.profit, row.deal.commission) == (huge, -huge)
    assert (await rig.store.totals(fence.account_id)).balance == 0


async def test_a_duplicate_changes_nothing(rig: Rig) -> None:
    """The same deal again, by stream or pull, is neither a row nor a revision nor an event."""
    fence = await owned(rig)
    await commit(rig, write(fence, deal(1)))
    assert await commit(rig, write(fence, deal(1))) == outcome()
    assert await commit(rig, write(fence, deal(1), pulled=1)) == outcome()
    assert await rig.events(fence.account_id) == [Event(1, "deal.added", "d1", 0)]
    assert (await rig.rows(fence.account_id))["d1"].revision == 0


async def test_a_pull_revises_what_the_broker_changed(rig: Rig) -> None:
    """Content that differs is taken from a pull, and the old row is kept."""
    fence = await owned(rig)
    await commit(rig, write(fence, deal(1)))
    done = await commit(rig, write(fence, deal(1, profit="2"), deal(2), pulled=1))
    assert done == outcome("d2", "d1")
    row = (await rig.rows(fence.account_id))["d1"]
    assert (row.deal.profit, row.revision, row.source) == (2, 1, Source.STREAM)
    assert await rig.revisions(fence.account_id) == [("d1", "revised", 0)]
    assert Event(2, "deal.revised", "d1", 1) in await rig.events(fence.account_id)


async def test_a_different_spelling_of_a_number_is_no_revision(rig: Rig) -> None:
    """1.5 and 1.50 are the same profit."""
    fence = await owned(rig)
    await commit(rig, write(fence, deal(1, profit="1.5")))
    assert await commit(rig, write(fence, deal(1, profit="1.500"), pulled=1)) == outcome()


async def test_a_pull_that_began_earlier_never_undoes_a_later_one(rig: Rig) -> None:
    """Pulls count by when their fetch began, also when the later one found nothing new."""
    fence = await owned(rig)
    await commit(rig, write(fence, deal(1), pulled=1))
    await commit(rig, write(fence, deal(1), pulled=3))
    assert await commit(rig, write(fence, deal(1, profit="9"), pulled=2)) == outcome()
    assert await commit(rig, write(fence, pulled=2, removals=["d1"])) == outcome()
    assert (await rig.rows(fence.account_id))["d1"].deal.profit == Decimal("1.50")


async def test_a_slow_pull_is_late_for_the_account_and_not_only_for_a_deal(rig: Rig) -> None:
    """One mark orders an account's pulls; what a slow one could not change, the next one does."""
    fence = await owned(rig)
    await commit(rig, write(fence, deal(1), deal(2)))
    await commit(rig, write(fence, deal(1), pulled=3))
    slow = write(fence, deal(2, profit="9"), deal(3), pulled=2)
    assert await commit(rig, slow) == outcome("d3")
    assert await commit(rig, write(fence, deal(2, profit="9"), pulled=3)) == outcome(revised="d2")
    other = await owned(rig)
    await commit(rig, write(other, deal(1)))
    assert await commit(rig, write(other, deal(1, profit="9"), pulled=1)) == outcome(revised="d1")


async def test_a_late_stream_copy_never_undoes_a_revision(rig: Rig) -> None:
    """The stream may insert and nothing more."""
    fence = await owned(rig)
    await commit(rig, write(fence, deal(1)))
    await commit(rig, write(fence, deal(1, profit="2"), pulled=1))
    assert await commit(rig, write(fence, deal(1))) == outcome()
    assert (await rig.rows(fence.account_id))["d1"].deal.profit == 2


async def test_a_removal_stays_until_a_later_pull_has_the_deal_again(rig: Rig) -> None:
    """Neither a stale stream copy nor an older pull resurrects a deal; a newer pull does."""
    fence = await owned(rig)
    await commit(rig, write(fence, deal(1), deal(2), pulled=1))
    removal = write(fence, pulled=3, removals=["d1", "unknown"])
    assert await commit(rig, removal) == outcome(removed="d1")
    assert await commit(rig, replace(removal, write_id=next(write_ids))) == outcome()
    assert await commit(rig, write(fence, deal(1))) == outcome()
    assert await commit(rig, write(fence, deal(1), pulled=2)) == outcome()
    assert (await rig.rows(fence.account_id))["d1"].is_removed
    assert (await rig.store.totals(fence.account_id)).deals == 1
    assert await commit(rig, write(fence, deal(1), pulled=4)) == outcome(revised="d1")
    assert not (await rig.rows(fence.account_id))["d1"].is_removed
    assert await rig.revisions(fence.account_id) == [("d1", "removed", 0), ("d1", "restored", 1)]
    assert [(e.type, e.deal_id, e.revision) for e in await rig.events(fence.account_id)][2:] == [
        ("deal.removed", "d1", 1),
        ("deal.revised", "d1", 2),
    ]


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param({"epoch": 2}, id="a newer epoch"),
        pytest.param({"incarnation": Incarnation(2)}, id="another owner"),
    ],
)
async def test_a_fenced_link_drops_out_while_its_neighbours_commit(
    rig: Rig, lost: dict[str, int]
) -> None:
    """One batch, three links, the middle one no longer ours: nothing of it is written."""
    fences = [await owned(rig) for _ in range(3)]
    await rig.lease(replace(fences[1], **lost))
    done = await rig.store.commit([write(fence, deal(1)) for fence in fences])
    assert done == {fences[0].account_id: outcome("d1"), fences[2].account_id: outcome("d1")}
    assert await rig.rows(fences[1].account_id) == {}
    assert await rig.events(fences[1].account_id) == []
    with pytest.raises(Fenced):
        await rig.store.close_window(fences[1], start=DAY, end=DAY + timedelta(hours=1))
    assert await rig.windows(fences[1].account_id) == []


async def test_an_unknown_account_is_fenced(rig: Rig) -> None:
    """Without a lease there is nothing to write under."""
    fence = Fence(account_id=next(accounts), incarnation=NODE, epoch=1)
    assert await rig.store.commit([write(fence, deal(1))]) == {}


async def test_two_writes_of_one_account_are_our_mistake(rig: Rig) -> None:
    """A batch holds each account once."""
    fence = await owned(rig)
    with pytest.raises(ValueError, match="two writes"):
        await rig.store.commit([write(fence, deal(1)), write(fence, deal(2))])


async def test_an_answer_lost_and_asked_again_claims_no_less(rig: Rig) -> None:
    """A write sent again under its number reports what its first try did, and does it once."""
    fence = await owned(rig)
    await commit(rig, write(fence, deal(1), deal(2), pulled=1))
    again = write(fence, deal(1, profit="7"), deal(2), deal(3), pulled=2)
    removal = write(fence, pulled=3, removals=["d2"])
    for _ in range(3):
        assert await commit(rig, again) == outcome("d3", "d1")
    for _ in range(3):
        assert await commit(rig, removal) == outcome(removed="d2")
    assert [event.seq for event in await rig.events(fence.account_id)] == [1, 2, 3, 4, 5]


async def test_a_window_holds_the_receipt_of_its_deals(rig: Rig) -> None:
    """The span is half open, credit and balance are apart, what lies outside is not counted."""
    fence = await owned(rig)
    inside = [deal(1, hour=0), deal(2, hour=1, type="DEAL_TYPE_CREDIT"), deal(3, type="ODD")]
    await commit(rig, write(fence, *inside, deal(4, hour=2), deal(5, hour=-1), pulled=1))
    assert await rig.store.watermark(fence.account_id) is None
    await rig.store.close_window(fence, start=DAY, end=DAY + timedelta(hours=2))
    (window,) = await rig.windows(fence.account_id)
    assert (window.start, window.end) == (DAY, DAY + timedelta(hours=2))
    assert window.receipt == receipt_of(inside)
    assert await rig.store.watermark(fence.account_id) == DAY + timedelta(hours=2)


async def test_windows_grow_for_a_day_and_never_overlap(rig: Rig) -> None:
    """A pull that overlaps the watermark adds only what lies behind it; a new day begins anew."""
    fence = await owned(rig)
    all_deals = [deal(number, hour=number) for number in range(40)]
    await commit(rig, write(fence, *all_deals, pulled=1))
    for start, end in ((0, 5), (2, 9), (9, 23), (20, 26), (1, 26), (3, 20), (25, 30)):
        await rig.store.close_window(
            fence, start=DAY + timedelta(hours=start), end=DAY + timedelta(hours=end)
        )
    windows = await rig.windows(fence.account_id)
    assert [(w.start, w.end) for w in windows] == [
        (DAY, DAY + timedelta(hours=23)),
        (DAY + timedelta(hours=23), DAY + timedelta(hours=26)),
        (DAY + timedelta(hours=26), DAY + timedelta(hours=30)),
    ]
    for window in windows:
        assert window.receipt == recount(await rig.rows(fence.account_id), window)


async def test_a_hole_behind_the_watermark_is_refused(rig: Rig) -> None:
    """A window may not begin after what is complete."""
    fence = await owned(rig)
    await rig.store.close_window(fence, start=DAY, end=DAY + timedelta(hours=1))
    with pytest.raises(LedgerRewound, match="hole"):
        await rig.store.close_window(
            fence, start=DAY + timedelta(hours=1, seconds=1), end=DAY + timedelta(hours=2)
        )
    assert await rig.store.watermark(fence.account_id) == DAY + timedelta(hours=1)


async def test_a_continuation_without_a_watermark_is_refused(rig: Rig) -> None:
    """Who knows of earlier windows may not open a history in which they are missing."""
    fence = await owned(rig)
    span = {"start": DAY, "end": DAY + timedelta(hours=1)}
    with pytest.raises(LedgerRewound, match="hole"):
        await rig.store.close_window(fence, **span, is_continuation=True)
    assert await rig.store.watermark(fence.account_id) is None
    assert await rig.windows(fence.account_id) == []
    await rig.store.close_window(fence, **span)
    await rig.store.close_window(
        fence, start=span["end"], end=DAY + timedelta(hours=2), is_continuation=True
    )
    assert await rig.store.watermark(fence.account_id) == DAY + timedelta(hours=2)


async def test_a_changed_time_moves_between_the_receipts(rig: Rig) -> None:
    """A deal that the broker re-dated leaves one window and enters the other."""
    fence = await owned(rig)
    await commit(rig, write(fence, deal(1, hour=1), deal(2, hour=2), pulled=1))
    for hours in (0, 30):
        await rig.store.close_window(fence, start=DAY, end=DAY + timedelta(hours=hours + 10))
    await commit(rig, write(fence, deal(1, hour=20, profit="4"), pulled=2))
    first, second = await rig.windows(fence.account_id)
    assert first.receipt == receipt_of([deal(2, hour=2)])
    assert second.receipt == receipt_of([deal(1, hour=20, profit="4")])


async def test_tells_what_it_holds_and_its_totals(rig: Rig) -> None:
    """Sums leave out what was removed; unmapped types are named, not summed."""
    fence = await owned(rig)
    await commit(
        rig,
        write(
            fence,
            deal(1, hour=1),
            deal(2, hour=2, type="DEAL_TYPE_CREDIT", profit="100"),
            deal(3, hour=3, type="DEAL_TYPE_BONUS"),
            deal(4, hour=4, profit="1000"),
            pulled=1,
        ),
    )
    await commit(rig, write(fence, pulled=2, removals=["d4"]))
    assert await rig.store.totals(fence.account_id) == Totals(
        deals=3,
        balance=Decimal("1.13"),
        credit=Decimal("99.63"),
        unmapped_types=frozenset({"DEAL_TYPE_BONUS"}),
    )
    held = await rig.store.held(
        fence.account_id, start=DAY + timedelta(hours=2), end=DAY + timedelta(hours=9)
    )
    assert held == {
        "d2": HeldDeal(book=Book.CREDIT, amount=Decimal("99.63")),
        "d3": HeldDeal(book=Book.UNMAPPED, amount=Decimal("1.13")),
    }


async def test_an_empty_account_has_zero_totals(rig: Rig) -> None:
    """Nothing known is zero, not null."""
    assert await rig.store.totals(next(accounts)) == Totals(
        deals=0, balance=Decimal(0), credit=Decimal(0), unmapped_types=frozenset()
    )


copies = st.builds(
    deal,
    st.integers(1, 6),
    hour=st.integers(-2, 60),
    profit=st.sampled_from(["1", "-2.5", "0.00000001"]),
    type=st.sampled_from(["DEAL_TYPE_BUY", "DEAL_TYPE_CREDIT", "ODD"]),
)
distinct_copies = st.lists(copies, max_size=5, unique_by=lambda each: each.deal_id)
steps = st.one_of(
    st.tuples(st.just("stream"), distinct_copies, st.none()),
    st.tuples(st.just("pull"), distinct_copies, st.integers(1, 9)),
    st.tuples(st.just("remove"), st.sets(st.integers(1, 7), max_size=3), st.integers(1, 9)),
    st.tuples(st.just("close"), st.integers(0, 2), st.integers(1, 40)),
    st.tuples(st.just("again"), st.none(), st.none()),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(program=st.lists(steps, min_size=1, max_size=12))
async def test_any_sequence_keeps_receipts_events_and_revisions_true(
    rig: Rig, program: list[tuple[str, object, object]]
) -> None:
    """Receipts equal a recount, sequence numbers have no gap, each change has one event."""
    fence, last = await owned(rig), None
    claimed: list[str] = []
    for kind, what, when in program:
        if kind == "close":
            watermark = await rig.store.watermark(fence.account_id) or DAY
            end = watermark + timedelta(hours=when)
            await rig.store.close_window(fence, start=watermark - timedelta(hours=what), end=end)
            continue
        if kind == "again":
            if last is not None:
                await commit(rig, last)
            continue
        if kind == "remove":
            last = write(fence, pulled=when, removals=[f"d{number}" for number in what])
        else:
            last = write(fence, *what, pulled=when)
        done = await commit(rig, last)
        claimed += sorted(f"deal.added {each}" for each in done.inserted)
        claimed += sorted(f"deal.revised {each}" for each in done.revised)
        claimed += sorted(f"deal.removed {each}" for each in done.removed)
    await check_ledger(rig, fence.account_id)
    events = await rig.events(fence.account_id)
    assert sorted(f"{event.type} {event.deal_id}" for event in events) == sorted(claimed)
