"""One suite for every `RestPort`: the HTTP client against the sandbox, and the simulated broker."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from random import Random

import httpx
import pytest
from governing import OpenGate
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import MetaApiSettings, Secret
from brokerd.connector.metaapi_rest.client import MetaApiRest
from brokerd.connector.metaapi_rest.retries import retrying
from brokerd.connector.metaapi_rest.transport import RestPorts, open_http
from brokerd.connector.ports import PAGE_LIMIT, RestPort
from brokerd.domain import Deal, DealId, MetaApiRef, Platform
from brokerd.errors import NotConnected, NotFound, RemoteUnavailable, Throttled, Unauthorized
from brokerd.sandbox.facts import Booking, ConnectionStatus, ProvisioningState, TruthDeal
from brokerd.sandbox.faults import Fault, FaultKind, Faults
from brokerd.sandbox.habits import Past
from brokerd.sandbox.market import Market
from brokerd.sandbox.server import SandboxSettings, running_sandbox
from brokerd.sandbox.simulated import SimulatedMetaApi, SimulatedSettings
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.truth import AccountSpec, Broker, TruthAccount
from brokerd.telemetry import Metrics

NOON = datetime(2024, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
BEFORE, AFTER = NOON - timedelta(days=1), NOON + timedelta(days=30)
MILLISECOND = timedelta(milliseconds=1)
REGION = "new-york"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A port, and the truth and the faults behind it."""

    rest: RestPort
    broker: Broker
    faults: Faults

    def open_account(self, *, platform: Platform = Platform.MT5) -> TruthAccount:
        """Open an account without deals on a server of its own."""
        server = open_server(
            self.broker, ServerSpec(name=f"Contract-{len(self.broker.servers)}", platform=platform)
        )
        return self.broker.add_account(AccountSpec(server=server, region=REGION))


def ref(account: TruthAccount) -> MetaApiRef:
    """Return what a link's spec would name."""
    return MetaApiRef(token="main", account_id=account.metaapi_id, region=REGION)


Open = Callable[[], AbstractAsyncContextManager[World]]


@asynccontextmanager
async def over_http() -> AsyncIterator[World]:
    """Serve the sandbox on loopback and ask it with the client that production uses."""
    async with running_sandbox(SandboxSettings(accounts=0)) as sandbox:
        settings = MetaApiSettings(
            tokens={"main": Secret(sandbox.settings.token)},
            provisioning_url=sandbox.url,
            client_url=sandbox.url,
            requests_per_second=1_000,
        )
        async with open_http(settings) as http:
            rest = port(http, settings)
            yield World(rest=rest, broker=sandbox.broker, faults=sandbox.faults)


def port(http: httpx.AsyncClient, settings: MetaApiSettings) -> RestPort:
    """Build the client; it asks once, so that each failure is seen at once."""
    clock, metrics = SystemClock(), Metrics(CollectorRegistry())
    ports = RestPorts(
        http=http,
        retrying=retrying(1, random=Random(1)),
        gate=OpenGate(clock),
        clock=clock,
        metrics=metrics,
    )
    return MetaApiRest(settings, ports=ports)


@asynccontextmanager
async def in_process() -> AsyncIterator[World]:
    """Ask the simulated broker that tests on virtual time stand on."""
    random = Random(1)
    broker, faults = Broker(clock=SystemClock(), random=random), Faults(random=random)
    service = SimulatedMetaApi(broker, faults=faults, settings=SimulatedSettings(rest_seconds=0))
    yield World(rest=service, broker=broker, faults=faults)


WORLDS: dict[str, Open] = {"http": over_http, "simulated": in_process}


@pytest.fixture(params=WORLDS.values(), ids=WORLDS.keys())
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Open each implementation in turn."""
    opened: AbstractAsyncContextManager[World] = request.param()
    async with opened as world:
        yield world


def book(account: TruthAccount, times: Sequence[datetime], **fields: object) -> list[TruthDeal]:
    """Let the broker hold a fill at each of the times; every third is worn on the wire."""
    numbers = count(account.deal_count + 1)
    base: dict[str, object] = {
        "platform": account.platform,
        "type": "DEAL_TYPE_SELL",
        "entry": "DEAL_ENTRY_OUT",
        "symbol": "EURUSD",
        "volume": Decimal("0.07"),
        "price": Decimal("1.08251"),
        "profit": Decimal("-85.26"),
        "commission": Decimal("-0.25"),
        "swap": Decimal("-1.07"),
        "order_id": "77",
        "position_id": "78",
    }
    deals = [
        TruthDeal(**{"ticket": str(next(numbers)), "time": t, "booked_at": t, **base, **fields})
        for t in times
    ]
    account.book_quietly(Booking(deals=tuple(deals)))
    return deals


async def pages(
    world: World, account: TruthAccount, *, start: datetime = BEFORE, end: datetime = AFTER
) -> list[tuple[Deal, ...]]:
    """Read all pages of a span."""
    read: list[tuple[Deal, ...]] = []
    offset = 0
    while True:
        page = await world.rest.deals(ref(account), start=start, end=end, offset=offset)
        assert page.is_synchronizing is False
        read.append(page.deals)
        offset += len(page.deals)
        if len(page.deals) < PAGE_LIMIT:
            return read


async def test_an_account_is_shown_as_deployed(world: World) -> None:
    """State, place and identity are those of the account."""
    truth = world.open_account()
    shown = await world.rest.account(ref(truth))
    assert shown.account_id == truth.metaapi_id
    assert (shown.state, shown.connection_status) == ("DEPLOYED", "CONNECTED")
    assert (shown.platform, shown.login) == (Platform.MT5, truth.login)
    assert (shown.server, shown.region) == (truth.server.name, REGION)
    assert shown.reliability == "regular"


@pytest.mark.parametrize("platform", Platform)
async def test_a_platform_is_shown_on_both_sides(world: World, platform: Platform) -> None:
    """Provisioning and terminal agree on the generation."""
    truth = world.open_account(platform=platform)
    assert (await world.rest.account(ref(truth))).platform is platform
    assert (await world.rest.account_information(ref(truth))).platform is platform


async def test_an_account_nobody_knows_is_not_found(world: World) -> None:
    """Both services say so; nothing answers with an empty history."""
    remote = MetaApiRef(
        token="main", account_id="00000000-0000-4000-8000-000000000000", region=REGION
    )
    with pytest.raises(NotFound):
        await world.rest.account(remote)
    with pytest.raises(NotFound):
        await world.rest.account_information(remote)
    with pytest.raises(NotFound):
        await world.rest.deals(remote, start=BEFORE, end=AFTER, offset=0)
    with pytest.raises(NotFound):
        await world.rest.deals_by_ticket(remote, deal_id=DealId("1"))


async def test_balance_and_credit_are_the_sums_of_the_deals(world: World) -> None:
    """Whatever the wire's doubles look like, the sums come out exact."""
    truth = world.open_account()
    book(truth, [NOON] * 7)
    book(truth, [NOON], type="DEAL_TYPE_CREDIT", profit=Decimal("50.10"), commission=Decimal(0))
    shown = await world.rest.account_information(ref(truth))
    assert (shown.balance, shown.credit) == (truth.balance, truth.credit)
    assert (shown.login, shown.server) == (truth.login, truth.server.name)
    assert shown.currency == "USD"
    deals = (await pages(world, truth))[0]
    assert sum(deal.amount for deal in deals) == truth.balance + truth.credit


async def test_a_deal_is_the_brokers(world: World) -> None:
    """Every field of a fill and of a cash deal is the broker's, to the last digit."""
    truth = world.open_account()
    (fill,) = book(truth, [NOON], ticket="3")
    bare = dict.fromkeys(("entry", "symbol", "volume", "price", "order_id", "position_id"))
    book(truth, [NOON + MILLISECOND], ticket="4", type="DEAL_TYPE_BALANCE", **bare)
    read, cash = (await pages(world, truth))[0]
    assert (read.deal_id, read.type, read.entry) == ("3", "DEAL_TYPE_SELL", "DEAL_ENTRY_OUT")
    assert (read.symbol, read.volume, read.price) == (fill.symbol, fill.volume, fill.price)
    assert (read.profit, read.commission, read.swap) == (fill.profit, fill.commission, fill.swap)
    assert (read.order_id, read.position_id) == ("77", "78")
    assert read.time == NOON
    assert read.broker_time == "2024-03-01 14:00:00.250"
    assert '"id":"3"' in read.raw
    assert (cash.deal_id, cash.type, cash.symbol) == ("4", "DEAL_TYPE_BALANCE", None)
    assert (cash.entry, cash.volume, cash.price) == (None, None, None)
    assert (cash.order_id, cash.position_id) == (None, None)


@pytest.mark.parametrize("held", [0, 1, 999, 1000, 1001, 2000])
@pytest.mark.parametrize("step", [MILLISECOND, timedelta(0)], ids=["spread", "one_instant"])
async def test_pages_hold_every_deal_once(world: World, held: int, step: timedelta) -> None:
    """However many deals share an instant, the pages skip and repeat none."""
    truth = world.open_account()
    booked = book(truth, [NOON + step * number for number in range(held)])
    read = await pages(world, truth)
    assert [len(page) for page in read] == [*([1000] * (held // 1000)), held % 1000]
    ids = [deal.deal_id for page in read for deal in page]
    assert len(ids) == held
    assert set(ids) == {deal.deal_id for deal in booked}


async def test_any_offset_continues_the_same_order(world: World) -> None:
    """A page read again from one deal earlier begins with the deal read last."""
    truth = world.open_account()
    book(truth, [NOON] * 1500)
    first = await world.rest.deals(ref(truth), start=BEFORE, end=AFTER, offset=0)
    again = await world.rest.deals(ref(truth), start=BEFORE, end=AFTER, offset=999)
    assert again.deals[0].deal_id == first.deals[-1].deal_id
    assert len(again.deals) == 501
    beyond = await world.rest.deals(ref(truth), start=BEFORE, end=AFTER, offset=1500)
    assert beyond.deals == ()


async def test_the_start_is_in_and_the_end_is_not(world: World) -> None:
    """Two spans that touch share no deal and lose none."""
    truth = world.open_account()
    book(truth, [NOON - MILLISECOND, NOON, NOON + MILLISECOND])

    async def ids(start: datetime, end: datetime) -> list[str]:
        (page,) = await pages(world, truth, start=start, end=end)
        return [deal.deal_id for deal in page]

    assert await ids(BEFORE, NOON) == ["1"]
    assert await ids(NOON, AFTER) == ["2", "3"]
    assert await ids(NOON, NOON) == []
    assert await ids(NOON, NOON + MILLISECOND) == ["2"]


async def test_bounds_within_a_millisecond_lose_nothing(world: World) -> None:
    """An end between two milliseconds still covers the first of them."""
    truth = world.open_account()
    book(truth, [NOON, NOON + MILLISECOND])
    within = timedelta(microseconds=400)
    (page,) = await pages(world, truth, start=BEFORE, end=NOON + within)
    assert [deal.deal_id for deal in page] == ["1"]
    (page,) = await pages(world, truth, start=NOON + MILLISECOND, end=AFTER)
    assert [deal.deal_id for deal in page] == ["2"]


async def test_a_deal_is_found_by_its_ticket(world: World) -> None:
    """One deal on MT5, and nothing under a ticket the broker does not know or has removed."""
    truth = world.open_account()
    book(truth, [NOON] * 3)
    page = await world.rest.deals_by_ticket(ref(truth), deal_id=DealId("2"))
    assert [deal.deal_id for deal in page.deals] == ["2"]
    truth.delete(DealId("2"))
    page = await world.rest.deals_by_ticket(ref(truth), deal_id=DealId("2"))
    assert (page.deals, page.is_synchronizing) == ((), False)


async def test_mt4_has_two_deals_under_one_ticket(world: World) -> None:
    """Entry and exit are told apart, in a page and by ticket."""
    truth = world.open_account(platform=Platform.MT4)
    book(truth, [NOON], ticket="9", entry="DEAL_ENTRY_IN")
    book(truth, [NOON + MILLISECOND], ticket="9", entry="DEAL_ENTRY_OUT")
    (page,) = await pages(world, truth)
    assert [deal.deal_id for deal in page] == ["9:IN", "9:OUT"]
    found = await world.rest.deals_by_ticket(ref(truth), deal_id=DealId("9:IN"))
    assert {deal.deal_id for deal in found.deals} == {"9:IN", "9:OUT"}


async def test_an_undeployed_account_has_no_terminal_to_ask(world: World) -> None:
    """Provisioning says what is the matter; the client service only that nobody is there."""
    truth = world.open_account()
    book(truth, [NOON])
    truth.set_state(ProvisioningState.UNDEPLOYED)
    assert (await world.rest.account(ref(truth))).state == "UNDEPLOYED"
    await no_terminal_answers(world, truth)
    truth.set_state(ProvisioningState.DEPLOYED)
    assert len((await pages(world, truth))[0]) == 1


async def test_a_terminal_without_its_broker_answers_nothing(world: World) -> None:
    """A lost broker connection looks the same from the client service."""
    truth = world.open_account()
    truth.set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)
    shown = await world.rest.account(ref(truth))
    assert (shown.state, shown.connection_status) == ("DEPLOYED", "DISCONNECTED_FROM_BROKER")
    await no_terminal_answers(world, truth)


async def no_terminal_answers(world: World, truth: TruthAccount) -> None:
    """Check that every question to the terminal ends in `NotConnected`."""
    with pytest.raises(NotConnected):
        await world.rest.account_information(ref(truth))
    with pytest.raises(NotConnected):
        await world.rest.deals(ref(truth), start=BEFORE, end=AFTER, offset=0)
    with pytest.raises(NotConnected):
        await world.rest.deals_by_ticket(ref(truth), deal_id=DealId("1"))


async def test_an_unfinished_copy_says_so(world: World) -> None:
    """While MetaApi still copies, the answer lacks deals and is marked."""
    truth, other = world.open_account(), world.open_account()
    book(truth, [NOON] * 4)
    book(other, [NOON] * 4)
    affected = frozenset({truth.metaapi_id})
    world.faults.switch_on(Fault(kind=FaultKind.SYNCHRONIZING, account_ids=affected))
    page = await world.rest.deals(ref(truth), start=BEFORE, end=AFTER, offset=0)
    assert page.is_synchronizing is True
    assert len(page.deals) < 4
    by_ticket = await world.rest.deals_by_ticket(ref(truth), deal_id=DealId("1"))
    assert by_ticket.is_synchronizing is True
    assert len((await pages(world, other))[0]) == 4
    world.faults.switch_off(FaultKind.SYNCHRONIZING)
    assert len((await pages(world, truth))[0]) == 4
    assert world.faults.injected[FaultKind.SYNCHRONIZING] == 2


async def every_call(world: World, truth: TruthAccount) -> list[Exception]:
    """Return what each of the port's calls raises."""
    calls = (
        world.rest.account(ref(truth)),
        world.rest.account_information(ref(truth)),
        world.rest.deals(ref(truth), start=BEFORE, end=AFTER, offset=0),
        world.rest.deals_by_ticket(ref(truth), deal_id=DealId("1")),
    )
    raised = []
    for call in calls:
        with pytest.raises(Exception) as caught:  # noqa: PT011  # the caller looks at the type
            await call
        raised.append(caught.value)
    return raised


@pytest.mark.parametrize("seconds", [2.0, 30.0, 21_600.0])
async def test_a_429_carries_its_wait(world: World, seconds: float) -> None:
    """Whatever form the hint has, it is the server's wait, give or take a clock's second."""
    truth = world.open_account()
    world.faults.switch_on(Fault(kind=FaultKind.THROTTLE, seconds=seconds))
    for error in await every_call(world, truth):
        assert isinstance(error, Throttled)
        assert seconds - 1 <= error.retry_after_seconds <= seconds + 1.5
    assert world.faults.injected[FaultKind.THROTTLE] == 4


async def test_a_bare_429_waits_all_the_same(world: World) -> None:
    """Without a word about the wait there is still one."""
    truth = world.open_account()
    world.faults.switch_on(Fault(kind=FaultKind.THROTTLE_BARE))
    for error in await every_call(world, truth):
        assert isinstance(error, Throttled)
        assert error.retry_after_seconds >= 1.0


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("is_html", [False, True], ids=["json", "html"])
async def test_a_failing_service_is_unavailable(
    world: World,
    status: int,
    is_html: bool,  # noqa: FBT001
) -> None:
    """Every 5xx, whatever its body, is unavailability, and over when it is over."""
    truth = world.open_account()
    book(truth, [NOON])
    fault = Fault(kind=FaultKind.SERVER_ERROR, status=status, is_html=is_html, limit=4)
    world.faults.switch_on(fault)
    for error in await every_call(world, truth):
        assert isinstance(error, RemoteUnavailable)
    assert len((await pages(world, truth))[0]) == 1


async def test_a_token_the_service_does_not_know_is_refused() -> None:
    """Over HTTP, a revoked token is a refusal that names it, on both services."""
    async with running_sandbox(SandboxSettings(accounts=1)) as sandbox:
        settings = MetaApiSettings(
            tokens={"main": Secret("revoked.access.token")},
            provisioning_url=sandbox.url,
            client_url=sandbox.url,
        )
        async with open_http(settings) as http:
            world = World(rest=port(http, settings), broker=sandbox.broker, faults=sandbox.faults)
            (account,) = sandbox.broker.accounts.values()
            for error in await every_call(world, account):
                assert isinstance(error, Unauthorized)
                assert "'main'" in str(error)
                assert "revoked.access" not in str(error)


@pytest.mark.parametrize("platform", Platform)
async def test_both_show_the_same_truth(platform: Platform) -> None:
    """A busy past with every kind of deal reads equal, value for value, by either way."""
    async with over_http() as world:
        simulated = SimulatedMetaApi(
            world.broker, faults=world.faults, settings=SimulatedSettings(rest_seconds=0)
        )
        in_memory = World(rest=simulated, broker=world.broker, faults=world.faults)
        truth = world.open_account(platform=platform)
        Market(world.broker, random=Random(5)).seed(truth, Past(deals=1500, days=60))
        span = {"start": truth.created_at - timedelta(days=61), "end": AFTER + timedelta(days=9999)}
        over_wire = await pages(world, truth, **span)
        assert over_wire == await pages(in_memory, truth, **span)
        assert len({deal.type for page in over_wire for deal in page}) >= 4
        assert sum(len(page) for page in over_wire) == truth.deal_count
        shown = await world.rest.account_information(ref(truth))
        assert shown == await simulated.account_information(ref(truth))
        assert (shown.balance, shown.credit) == (truth.balance, truth.credit)
        assert await world.rest.account(ref(truth)) == await simulated.account(ref(truth))
