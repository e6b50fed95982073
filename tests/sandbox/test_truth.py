"""The truth: sums that follow deals, history in order, changes told once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokerd.clock import SystemClock
from brokerd.domain import Book, DealId, Platform, book_of
from brokerd.errors import NotFound
from brokerd.sandbox.facts import (
    Amendment,
    Booking,
    ChangeKind,
    ConnectionStatus,
    ProvisioningState,
    TruthDeal,
    TruthPosition,
)
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.truth import AccountSpec, Broker, Change, TruthAccount

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
TYPES = ("DEAL_TYPE_BUY", "DEAL_TYPE_BALANCE", "DEAL_TYPE_CREDIT", "DEAL_TYPE_COMMISSION_DAILY")


def new_broker(seed: int = 1) -> Broker:
    """Return a broker without accounts."""
    return Broker(clock=SystemClock(), random=Random(seed))


def open_account(broker: Broker, platform: Platform = Platform.MT5) -> TruthAccount:
    """Open an empty account on a server of its own."""
    server = open_server(broker, ServerSpec(name=f"S{len(broker.servers)}", platform=platform))
    return broker.add_account(AccountSpec(server=server))


def deal(ticket: int, **fields: object) -> TruthDeal:
    """Return a deal; fields replace its defaults."""
    defaults = {
        "ticket": str(ticket),
        "platform": Platform.MT5,
        "type": "DEAL_TYPE_BALANCE",
        "time": NOON,
        "booked_at": NOON,
        "profit": Decimal(1),
    }
    return TruthDeal(**{**defaults, **fields})  # type: ignore[arg-type]


cents = st.decimals(-10_000, 10_000, places=2)
new_deals = st.tuples(
    st.sampled_from(TYPES), cents, cents, cents, st.integers(0, 100), st.booleans()
)
amendments = st.tuples(st.integers(0, 50), st.none() | cents, st.none() | cents, st.none() | cents)
actions = st.lists(new_deals | amendments | st.integers(0, 50), max_size=60)


@given(actions)
@settings(max_examples=80, deadline=None)
def test_sums_always_equal_the_deals(steps: list[object]) -> None:
    """Balance and credit are the sums of the deals whatever is booked, amended or deleted."""
    account = open_account(new_broker())
    for number, step in enumerate(steps):
        known = [held.deal_id for held in account.deals()]
        match step:
            case (str() as kind, profit, commission, swap, age, is_quiet):
                made = deal(
                    number,
                    type=kind,
                    profit=profit,
                    commission=commission,
                    swap=swap,
                    time=NOON - timedelta(hours=age),
                )
                (account.book_quietly if is_quiet else account.book)(Booking(deals=(made,)))
            case (int() as index, profit, commission, swap) if known:
                change = Amendment(profit=profit, commission=commission, swap=swap)
                account.amend(known[index % len(known)], change)
            case int() as index if known:
                account.delete(known[index % len(known)])
        deals = account.deals()
        sums = {book: sum(d.amount for d in deals if book_of(d.type) is book) for book in Book}
        assert account.balance == sums[Book.BALANCE]
        assert account.credit == sums[Book.CREDIT]
        assert [d.time for d in deals] == sorted(d.time for d in deals)


def test_history_includes_its_start_and_excludes_its_end() -> None:
    """Neighbouring spans hold every deal once."""
    account = open_account(new_broker())
    times = [NOON, NOON + timedelta(hours=1), NOON + timedelta(hours=2)]
    account.book(Booking(deals=tuple(deal(i, time=t) for i, t in enumerate(times))))
    first = account.deals(start=times[0], end=times[1])
    second = account.deals(start=times[1], end=times[2])
    assert [d.ticket for d in first] == ["0"]
    assert [d.ticket for d in second] == ["1"]
    assert account.deals(start=times[2], end=times[0]) == []


def test_pages_of_a_span_hold_each_deal_once() -> None:
    """Offset and limit cut within the span and never reach beyond its end."""
    account = open_account(new_broker())
    deals = tuple(deal(i, time=NOON + timedelta(minutes=i // 2)) for i in range(20))
    account.book(Booking(deals=deals))
    span = {"start": NOON + timedelta(minutes=2), "end": NOON + timedelta(minutes=8)}
    pages = [account.deals(**span, offset=offset, limit=5) for offset in (0, 5, 10)]
    assert [len(page) for page in pages] == [5, 5, 2]
    assert [d for page in pages for d in page] == account.deals(**span)


def test_a_back_dated_deal_takes_its_place_in_history() -> None:
    """A deal booked later with an earlier time stands before, and says when it was booked."""
    account = open_account(new_broker())
    account.book(Booking(deals=(deal(1),)))
    late = deal(2, time=NOON - timedelta(hours=3), booked_at=NOON + timedelta(hours=1))
    account.book_quietly(Booking(deals=(late,)))
    assert [d.ticket for d in account.deals()] == ["2", "1"]
    assert account.deals()[0].booked_at > account.deals()[0].time


def test_an_amended_time_moves_the_deal() -> None:
    """A deal whose time is amended is found under its new time alone."""
    account = open_account(new_broker())
    account.book(Booking(deals=(deal(1), deal(2, time=NOON + timedelta(hours=1)))))
    account.amend(DealId("1"), Amendment(time=NOON + timedelta(hours=2)))
    assert [d.ticket for d in account.deals()] == ["2", "1"]
    assert account.deals(end=NOON + timedelta(minutes=1)) == []


@pytest.mark.parametrize(
    "act",
    [
        lambda account: account.amend(DealId("9"), Amendment(profit=Decimal(1))),
        lambda account: account.delete(DealId("9")),
        lambda account: account.deal(DealId("9")),
    ],
    ids=["amend", "delete", "read"],
)
def test_an_unknown_deal_is_not_found(act: Callable[[TruthAccount], object]) -> None:
    """What does not exist cannot be read or changed, and nothing is told."""
    broker = new_broker()
    account = open_account(broker)
    told: list[Change] = []
    broker.listen(told.append)
    with pytest.raises(NotFound):
        act(account)
    assert told == []


def test_entry_and_exit_of_an_mt4_order_share_the_ticket_only() -> None:
    """Both deals of an MT4 ticket exist, and each can be deleted alone."""
    account = open_account(new_broker(), Platform.MT4)
    entry = deal(7, platform=Platform.MT4, entry="DEAL_ENTRY_IN", type="DEAL_TYPE_BUY")
    leave = deal(7, platform=Platform.MT4, entry="DEAL_ENTRY_OUT", type="DEAL_TYPE_SELL")
    account.book(Booking(deals=(entry, leave)))
    assert {d.deal_id for d in account.deals()} == {"7:IN", "7:OUT"}
    account.delete(DealId("7:OUT"))
    assert [d.deal_id for d in account.deals()] == ["7:IN"]


def test_changes_are_told_after_they_are_true_and_by_their_kind() -> None:
    """A listener sees the new truth at once; only what the market did counts as traded."""
    broker = new_broker()
    account = open_account(broker)
    seen: list[tuple[ChangeKind, Decimal, int]] = []
    broker.listen(lambda c: seen.append((c.kind, c.account.balance, len(c.deals))))
    account.book(Booking(deals=(deal(1), deal(2))))
    account.book_quietly(Booking(deals=(deal(3),)))
    account.amend(DealId("3"), Amendment(swap=Decimal(4)))
    account.delete(DealId("1"))
    account.set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)
    assert seen == [
        (ChangeKind.TRADED, Decimal(2), 2),
        (ChangeKind.BOOKED_QUIETLY, Decimal(3), 1),
        (ChangeKind.BOOKED_QUIETLY, Decimal(7), 1),
        (ChangeKind.BOOKED_QUIETLY, Decimal(6), 0),
        (ChangeKind.CONNECTION, Decimal(6), 0),
    ]


def test_the_terminal_follows_the_deployment() -> None:
    """An account is reachable only while it is deployed and its broker lets it in."""
    account = open_account(new_broker())
    assert account.is_reachable
    account.set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)
    assert not account.is_reachable
    account.set_state(ProvisioningState.UNDEPLOYING)
    assert account.connection_status is ConnectionStatus.DISCONNECTED
    account.set_state(ProvisioningState.DEPLOYED)
    assert account.is_reachable


def test_equity_and_margin_follow_the_open_positions() -> None:
    """Equity adds the floating profit to both sums; margin is the exposure over the leverage."""
    account = open_account(new_broker())
    symbol = next(iter(account.server.specs))
    account.server.prices[symbol] = Decimal("1.10500")
    position = TruthPosition(
        position_id="1",
        symbol=symbol,
        is_buy=True,
        volume=Decimal("0.50"),
        open_price=Decimal("1.10000"),
        time=NOON,
        update_time=NOON,
    )
    credit = deal(2, type="DEAL_TYPE_CREDIT", profit=Decimal(30))
    account.book(Booking(deals=(deal(1, profit=Decimal(100)), credit), positions=(position,)))
    assert account.floating_profit == Decimal("250.00")
    assert account.equity == Decimal("380.00")
    assert account.margin == Decimal("550.00")


def test_one_seed_makes_one_world() -> None:
    """Ids, logins and prices repeat with the seed; ids are UUIDs of equal length."""
    worlds = []
    for _ in range(2):
        broker = new_broker(seed=7)
        accounts = [open_account(broker) for _ in range(5)]
        worlds.append([(a.metaapi_id, a.login, a.server.prices) for a in accounts])
    assert worlds[0] == worlds[1]
    assert {len(metaapi_id) for metaapi_id, _, _ in worlds[0]} == {36}
