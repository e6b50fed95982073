"""Every reader of totals keeps the same promises: one suite over memory and Postgres."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from brokerd.api.memory_totals import MemoryTotalsReader
from brokerd.api.ports import DayTotals, TotalsQuery, TotalsReader
from brokerd.api.postgres_totals import PostgresTotalsReader
from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.domain import AccountId, Deal, DealId, LinkId, Source, UserId
from brokerd.store import tables
from brokerd.store.engine import open_database
from brokerd.store.memory import DealRow
from brokerd.telemetry import Metrics

DAY = datetime(2026, 3, 28, tzinfo=UTC)  # the clocks of Europe change in the night that follows
_numbers = count(1)


def deal(*, at=0.0, kind="DEAL_TYPE_BUY", profit="1.10", volume="0.10"):
    """Build a deal `at` hours into the first day."""
    number = next(_numbers)
    return Deal(
        deal_id=DealId(str(number)),
        type=kind,
        entry="DEAL_ENTRY_IN",
        symbol="EURUSD",
        volume=None if volume is None else Decimal(volume),
        price=Decimal("1.10234"),
        time=DAY + timedelta(hours=at),
        broker_time="",
        profit=Decimal(profit),
        commission=Decimal("-0.25"),
        swap=Decimal("-0.01"),
        order_id=None,
        position_id=None,
        raw="{}",
    )


class Ledger:
    """The reader, and a way to put deals before it."""

    def __init__(self, fleet, add):
        self._fleet, self._add = fleet, add
        self.reader: TotalsReader = (
            MemoryTotalsReader(fleet.state)
            if hasattr(fleet, "state")
            else PostgresTotalsReader(fleet.database)
        )
        self.users: dict[AccountId, UserId] = {}

    async def account(self, user=None) -> AccountId:
        """Register an account; with a user's name, as one more of theirs."""
        account_id = await self._add()
        if hasattr(self._fleet, "state"):
            row = self._fleet.state.accounts[account_id]
            user = user or row.spec.user_id
            row = replace(row, spec=replace(row.spec, user_id=user))
            self._fleet.state.accounts[account_id] = row
        else:
            accounts = tables.accounts
            update = sa.update(accounts).where(accounts.c.account_id == account_id)
            async with self._fleet.database.statement() as connection:
                if user is not None:
                    await connection.execute(update.values(user_id=user))
                query = sa.select(accounts.c.user_id).where(accounts.c.account_id == account_id)
                user = await connection.scalar(query)
        self.users[account_id] = UserId(user)
        return account_id

    async def put(self, account_id, *deals, is_removed=False):
        """Put deals into the ledger."""
        rows = [
            DealRow(
                account_id=account_id,
                user_id=self.users[account_id],
                deal=each,
                revision=0,
                content_hash=1,
                source=Source.PULL,
                write_id=1,
                committed_at=DAY,
                removed_at=DAY if is_removed else None,
            )
            for each in deals
        ]
        if hasattr(self._fleet, "state"):
            self._fleet.state.deals |= {(account_id, row.deal.deal_id): row for row in rows}
            return
        async with self._fleet.database.statement() as connection:
            await connection.execute(sa.insert(tables.deals), [_values(row) for row in rows])

    async def all(self, *, limit=1000, **query) -> list[DayTotals]:
        """Read page after page to the end."""
        found, after = [], None
        while True:
            asked = ask(limit=limit, after=after, **query)
            page = await self.reader.totals(asked)
            assert len(page) <= limit
            found += page
            if not asked.is_full(page):
                return found
            after = (page[-1].account_id, page[-1].day)


def _values(row):
    fields = ("deal_id", "type", "entry", "symbol", "volume", "price", "time", "broker_time")
    fields += ("profit", "commission", "swap", "raw", "book")
    return {
        **{name: getattr(row.deal, name) for name in fields},
        **{name: getattr(row, name) for name in ("account_id", "user_id", "removed_at")},
        "content_hash": 1,
        "source": "pull",
        "write_id": 1,
    }


def ask(**query):
    """Build a query; unnamed conditions are open."""
    bare = {"link_id": None, "user_id": None, "start": None, "end": None, "after": None}
    return TotalsQuery(**{**bare, "limit": 100, "max_deals": 10_000, **query})


@pytest.fixture
def ledger(fleet, add) -> Ledger:
    """Give each implementation in turn."""
    return Ledger(fleet, add)


async def link_of(ledger, account_id) -> LinkId:
    """Return the link id as the totals tell it."""
    return (await ledger.all(user_id=ledger.users[account_id]))[0].link_id


async def test_a_day_is_summed_exactly(ledger):
    """Trades and cash are told apart, and money is exact."""
    account = await ledger.account()
    await ledger.put(
        account,
        deal(at=0, profit="1.10"),
        deal(at=1, kind="DEAL_TYPE_SELL", profit="-0.00000001", volume="2.5"),
        deal(at=2, kind="DEAL_TYPE_BALANCE", profit="1000", volume=None),
        deal(at=3, kind="DEAL_TYPE_CREDIT", profit="50", volume=None),
        deal(at=4, kind="DEAL_TYPE_BONUS", profit="7", volume="9"),
    )
    (day,) = await ledger.all(user_id=ledger.users[account])
    assert day == DayTotals(
        account_id=account,
        link_id=day.link_id,
        user_id=ledger.users[account],
        currency="USD",
        day=date(2026, 3, 28),
        deals=5,
        trades=2,
        volume=Decimal("2.6"),
        profit=Decimal("1058.09999999"),
        commission=Decimal("-1.25"),
        swap=Decimal("-0.05"),
        balance=Decimal("1001.09999999") - 3 * Decimal("0.26"),
        credit=Decimal("49.74"),
    )


async def test_days_are_utc_days_of_24_hours(ledger):
    """The first moment of a day is inside, its last is not, whatever the clocks do that night."""
    account = await ledger.account()
    await ledger.put(account, *(deal(at=at) for at in (0, 23.9999, 24, 47.9999, 48, 240)))
    found = await ledger.all(user_id=ledger.users[account])
    assert [(each.day.isoformat(), each.deals) for each in found] == [
        ("2026-03-28", 2),
        ("2026-03-29", 2),
        ("2026-03-30", 1),
        ("2026-04-07", 1),
    ]


async def test_a_session_in_another_time_zone_changes_nothing(ledger, fleet_url):
    """A role's own time zone, with its daylight saving, neither moves nor stretches a day."""
    account = await ledger.account()
    await ledger.put(account, *(deal(at=at) for at in (22.5, 23.5, 24.5, 46.5, 47.5, 48.5)))
    expected = await ledger.all(user_id=ledger.users[account])
    assert [each.deals for each in expected] == [2, 3, 1]
    if fleet_url is None:
        return
    berlin = Secret(f"{fleet_url}&options=-c%20TimeZone%3DEurope/Berlin")
    metrics = Metrics(CollectorRegistry())
    async with open_database(DatabaseSettings(url=berlin), metrics=metrics) as database:
        reader = PostgresTotalsReader(database)
        assert await reader.totals(ask(user_id=ledger.users[account])) == expected


async def test_removed_deals_do_not_count(ledger):
    """What the broker took back is in no sum, and makes no day."""
    account = await ledger.account()
    await ledger.put(account, deal(at=1))
    await ledger.put(account, deal(at=2), deal(at=30), is_removed=True)
    assert [each.deals for each in await ledger.all(user_id=ledger.users[account])] == [1]


async def test_totals_are_of_one_link_or_of_one_user(ledger):
    """A user's accounts stay apart, in the order of registration; nobody else's are shown."""
    first, second = await ledger.account("ann"), await ledger.account("ann")
    other = await ledger.account()
    for account in (second, other, first):
        await ledger.put(account, deal(at=1), deal(at=25))
    found = await ledger.all(user_id=UserId("ann"))
    assert [each.account_id for each in found] == [first, first, second, second]
    link_id = found[2].link_id
    assert await ledger.all(link_id=link_id) == found[2:]
    assert await ledger.all(link_id=LinkId("nobody")) == []
    assert await ledger.all(user_id=UserId("nobody")) == []


async def test_a_span_cuts_days(ledger):
    """`start` is inside and `end` is not; of the days they cut only the inside counts."""
    account = await ledger.account()
    await ledger.put(account, *(deal(at=at) for at in (1, 2, 30, 50, 51, 52)))
    found = await ledger.all(
        user_id=ledger.users[account],
        start=DAY + timedelta(hours=2),
        end=DAY + timedelta(hours=52),
    )
    assert [each.deals for each in found] == [1, 1, 2]


async def test_a_deleted_link_s_totals_stay_readable(ledger, alter):
    """The id finds them after the end of the link."""
    account = await ledger.account()
    await ledger.put(account, deal())
    link_id = await link_of(ledger, account)
    await alter(account, is_wanted=False, is_deleted=True)
    assert len(await ledger.all(link_id=link_id)) == 1


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_pages_join_without_gap_or_double(ledger, limit):
    """Reading page by page gives what one page would have given, in spans as well."""
    for at in range(3):
        account = await ledger.account("ann")
        await ledger.put(account, *(deal(at=24 * day + at) for day in range(0, 8, at + 1)))
    span = {"start": DAY + timedelta(hours=1), "end": DAY + timedelta(hours=24 * 7 + 1)}
    for asked in ({}, span):
        whole = await ledger.all(user_id=UserId("ann"), **asked)
        assert len(whole) > 10
        assert await ledger.all(user_id=UserId("ann"), limit=limit, **asked) == whole


@pytest.mark.parametrize("max_deals", [1, 4, 5, 7])
async def test_a_page_ends_with_the_day_that_fills_it(ledger, max_deals):
    """Days are whole, however many deals they have, and the page after it goes on behind them."""
    sizes = (3, 1, 6, 2, 2)
    for _ in range(2):
        account = await ledger.account("ann")
        for day, size in enumerate(sizes):
            await ledger.put(account, *(deal(at=24 * day + at) for at in range(size)))
            await ledger.put(account, deal(at=24 * day), is_removed=True)
    whole = await ledger.all(user_id=UserId("ann"))
    assert [each.deals for each in whole] == [*sizes, *sizes]
    first = await ledger.reader.totals(ask(user_id=UserId("ann"), max_deals=max_deals))
    assert sum(each.deals for each in first[:-1]) < max_deals
    assert sum(each.deals for each in first) >= max_deals
    assert await ledger.all(user_id=UserId("ann"), max_deals=max_deals) == whole


async def test_a_cursor_of_somebody_else_shows_nothing_of_theirs(ledger):
    """It is a place in an order, not a right: shown are the asked user's accounts behind it."""
    mine, others = await ledger.account(), await ledger.account()
    for account in (mine, others):
        await ledger.put(account, deal(at=1), deal(at=25))
    after = (others, date(2026, 3, 28))
    assert await ledger.reader.totals(ask(user_id=ledger.users[mine], after=after)) == []
    link_id = await link_of(ledger, mine)
    assert await ledger.reader.totals(ask(link_id=link_id, after=after)) == []


async def test_the_edges_of_time_are_no_error(ledger):
    """A cursor or a span at the end of all days finds nothing, and breaks nothing."""
    account = await ledger.account()
    await ledger.put(account, deal())
    user_id = ledger.users[account]
    assert await ledger.reader.totals(ask(user_id=user_id, after=(account, date.max))) == []
    assert len(await ledger.reader.totals(ask(user_id=user_id, after=(account, date.min)))) == 1
    last = datetime.max.replace(tzinfo=UTC)
    assert await ledger.reader.totals(ask(user_id=user_id, start=last)) == []
    assert len(await ledger.reader.totals(ask(user_id=user_id, end=last))) == 1
