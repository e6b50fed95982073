"""The market: pasts as ordered, trades that add up, the chosen rate, and rest."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokerd.domain import Platform
from brokerd.sandbox.facts import TruthDeal
from brokerd.sandbox.habits import Past
from brokerd.sandbox.market import Market
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.truth import AccountSpec, Broker, TruthAccount

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
KINDS = [(Platform.MT5, True), (Platform.MT5, False), (Platform.MT4, True)]
KIND_IDS = ["hedging", "netting", "mt4"]


class StillClock:
    """A clock that a test moves; `monotonic` is the loop's."""

    def __init__(self) -> None:
        self.wall = START

    def now(self) -> datetime:
        """Return the wall clock."""
        return self.wall

    def monotonic(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()

    def boottime(self) -> float:
        """Return the loop's time."""
        return self.monotonic()


def world(
    platform: Platform, *, is_hedging: bool, seed: int = 1, symbols: int = 12
) -> tuple[Market, TruthAccount]:
    """Return a market and an empty account in it."""
    random = Random(seed)
    broker = Broker(clock=StillClock(), random=random)
    server = open_server(broker, ServerSpec(platform=platform, symbols=symbols))
    market = Market(broker, random=random)
    return market, broker.add_account(AccountSpec(server=server, is_hedging=is_hedging))


def signed_volume(deal: TruthDeal) -> Decimal:
    """Return what a deal adds to its position, negative when it sells."""
    assert deal.volume is not None
    return deal.volume if deal.type == "DEAL_TYPE_BUY" else -deal.volume


@pytest.mark.parametrize(("platform", "is_hedging"), KINDS, ids=KIND_IDS)
@given(seed=st.integers(0, 10_000), acts=st.integers(0, 120))
@settings(max_examples=25, deadline=None)
def test_whatever_is_traded_adds_up(
    platform: Platform,
    is_hedging: bool,  # noqa: FBT001  # parametrised
    seed: int,
    acts: int,
) -> None:
    """Sums equal the deals, and the volumes of a position's deals equal what is open of it."""
    market, account = world(platform, is_hedging=is_hedging, seed=seed)
    market.seed(account, Past(deals=30, positions=2))
    market.trade(account, deals=acts)
    deals = account.deals()
    assert account.balance == sum(d.amount for d in deals if not d.is_credit)
    assert account.credit == sum(d.amount for d in deals if d.is_credit)
    volumes: defaultdict[str, Decimal] = defaultdict(Decimal)
    for deal in deals:
        if deal.position_id is not None:
            volumes[deal.position_id] += signed_volume(deal)
    left = {position_id: volume for position_id, volume in volumes.items() if volume}
    held = account.positions.values()
    assert left == {p.position_id: p.volume if p.is_buy else -p.volume for p in held}
    assert len({d.deal_id for d in deals}) == len(deals)


@pytest.mark.parametrize(("platform", "is_hedging"), KINDS, ids=KIND_IDS)
@pytest.mark.parametrize(
    "past",
    [
        Past(deals=50, days=30, positions=3),
        Past(deals=50, days=1, positions=5),
        Past(deals=4, days=2, positions=3),
        Past(deals=1, days=1, positions=0),
        Past(deals=40, days=3, positions=0),
    ],
    ids=str,
)
def test_a_past_is_as_ordered(platform: Platform, is_hedging: bool, past: Past) -> None:  # noqa: FBT001
    """A past has exactly its deals and open positions, lies in its days and begins with money."""
    for seed in range(5):
        market, account = world(platform, is_hedging=is_hedging, seed=seed)
        market.seed(account, past)
        deals = account.deals()
        assert len(deals) == past.deals
        assert len(account.positions) == past.positions
        assert deals[0].type == "DEAL_TYPE_BALANCE"
        assert deals[0].profit == past.deposit
        assert START - timedelta(days=past.days) <= deals[0].time
        assert deals[-1].time < START
        assert {d.booked_at for d in deals} == {START}


def test_all_that_brokers_do_happens() -> None:
    """Every kind of deal the sandbox promises appears among enough trades."""
    found: Counter[str] = Counter()
    fills: Counter[int] = Counter()
    for platform, is_hedging in KINDS:
        for number in range(8):  # one in four accounts pays its commission daily
            market, account = world(platform, is_hedging=is_hedging, seed=number)
            market.trade(account, deals=800)
            for deal in account.deals():
                found[f"{deal.type} {deal.entry or ''}".strip()] += 1
                found[deal.reason or ""] += 1
                found["swap"] += bool(deal.swap)
                found["commission"] += bool(deal.commission)
                found["credit out"] += deal.is_credit and deal.profit < 0
                found["withdrawal"] += deal.type == "DEAL_TYPE_BALANCE" and deal.profit < 0
            fills.update(Counter(d.order_id for d in account.deals() if d.order_id).values())
    for kind in ("DEAL_ENTRY_IN", "DEAL_ENTRY_OUT", "DEAL_ENTRY_INOUT", "DEAL_ENTRY_OUT_BY"):
        assert found[f"DEAL_TYPE_BUY {kind}"], kind
        assert found[f"DEAL_TYPE_SELL {kind}"], kind
    cash = ("BALANCE", "CREDIT", "CORRECTION", "COMMISSION_DAILY", "CHARGE", "INTEREST")
    assert all(found[f"DEAL_TYPE_{name}"] for name in cash)
    named = ("swap", "commission", "credit out", "withdrawal", "DEAL_REASON_SO", "DEAL_REASON_TP")
    assert all(found[name] for name in named)
    assert fills[2] > 0
    assert fills[3] > 0


def test_profit_is_the_way_the_price_went() -> None:
    """What one fill opened and one fill closes earns the price's step times volume and size."""
    market, account = world(Platform.MT5, is_hedging=True)
    market.trade(account, deals=800)
    checked = 0
    by_position: defaultdict[str, list[TruthDeal]] = defaultdict(list)
    for deal in account.deals():
        if deal.position_id is not None:
            by_position[deal.position_id].append(deal)
    for deals in by_position.values():
        if [d.entry for d in deals] != ["DEAL_ENTRY_IN", "DEAL_ENTRY_OUT"]:
            continue
        entry, leave = deals
        assert entry.price is not None
        assert leave.price is not None
        assert entry.symbol is not None
        size = account.server.specs[entry.symbol].contract_size
        earned = (leave.price - entry.price) * -signed_volume(leave) * size
        assert leave.profit == earned.quantize(Decimal("0.01"))
        checked += 1
    assert checked > 20


def test_the_same_seed_trades_the_same() -> None:
    """Two markets of one seed make the same deals."""
    runs = []
    for _ in range(2):
        market, account = world(Platform.MT5, is_hedging=True, seed=5)
        market.seed(account, Past())
        market.trade(account, deals=100)
        runs.append(account.deals())
    assert runs[0] == runs[1]


@asynccontextmanager
async def running_market(accounts: int, *, rate: float) -> AsyncIterator[tuple[Market, Broker]]:
    """Run a market over empty accounts."""
    random = Random(3)
    broker = Broker(clock=StillClock(), random=random)
    server = open_server(broker, ServerSpec())
    for _ in range(accounts):
        broker.add_account(AccountSpec(server=server))
    market = Market(broker, random=random, deals_per_account_minute=rate)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(market.run())
        yield market, broker
        task.cancel()


def deal_count(broker: Broker) -> int:
    """Return how many deals all accounts have."""
    return sum(account.deal_count for account in broker.accounts.values())


@pytest.mark.looptime
async def test_the_market_trades_at_its_rate() -> None:
    """Fifty accounts at two deals a minute make about a thousand deals in ten minutes."""
    async with running_market(50, rate=2.0) as (_, broker):
        await asyncio.sleep(600)
        assert 880 <= deal_count(broker) <= 1120
        assert min(account.deal_count for account in broker.accounts.values()) > 3


@pytest.mark.looptime
async def test_a_frozen_market_rests_until_it_is_resumed() -> None:
    """Nothing is booked after a freeze; resumed, the market does not make up for the rest."""
    async with running_market(50, rate=2.0) as (market, broker):
        await asyncio.sleep(60)
        market.freeze()
        before = deal_count(broker)
        await asyncio.sleep(3600)
        assert deal_count(broker) == before
        market.resume()
        await asyncio.sleep(60)
        assert 60 <= deal_count(broker) - before <= 150


async def test_a_freeze_in_the_moment_of_a_deal_stops_it() -> None:
    """A loop that is late finds both due at once: the deal, and after it the freeze."""
    booked: list[int] = []
    async with running_market(1, rate=6_000.0) as (market, broker):

        def freeze() -> None:
            market.freeze()
            booked.append(deal_count(broker))

        await asyncio.sleep(0.1)
        asyncio.get_running_loop().call_later(0.05, freeze)
        time.sleep(0.1)  # noqa: ASYNC251  # the loop is late
        await asyncio.sleep(0.1)
        assert booked == [deal_count(broker)]


@pytest.mark.looptime
async def test_a_new_rate_holds_at_once() -> None:
    """A market at a snail's pace follows a higher rate without waiting for its next deal."""
    async with running_market(1, rate=0.0001) as (market, broker):
        await asyncio.sleep(10)
        market.set_rate(60.0)
        await asyncio.sleep(60)
        assert 35 <= deal_count(broker) <= 90
        market.set_rate(0.0)
        before = deal_count(broker)
        await asyncio.sleep(600)
        assert deal_count(broker) == before
