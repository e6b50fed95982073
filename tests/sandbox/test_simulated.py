"""The simulated MetaApi: both ports over one truth, on virtual time."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import pytest

from brokerd.connector.ports import (
    PAGE_LIMIT,
    BrokerStatus,
    Connected,
    DealSeen,
    Disconnected,
    RestPort,
    Session,
    StreamEvent,
    StreamPort,
    Synchronized,
)
from brokerd.connector.wire import deals_from_json
from brokerd.domain import DealId, MetaApiRef, Platform
from brokerd.errors import (
    LinkLost,
    NotConnected,
    NotFound,
    RemoteUnavailable,
    Throttled,
    Unauthorized,
)
from brokerd.sandbox.facts import Amendment, ConnectionStatus, ProvisioningState
from brokerd.sandbox.faults import Fault, FaultKind, Faults
from brokerd.sandbox.habits import Past
from brokerd.sandbox.market import Market
from brokerd.sandbox.simulated import SimulatedMetaApi
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.truth import AccountSpec, Broker, TruthAccount

pytestmark = pytest.mark.looptime(noop_cycles=0)
START = datetime(2026, 3, 2, 12, tzinfo=UTC)
BEGINNING = datetime(1970, 1, 2, tzinfo=UTC)
FOREVER = datetime(2100, 1, 1, tzinfo=UTC)


class VirtualClock:
    """The loop's time from a fixed beginning; outside a loop, the beginning."""

    def now(self) -> datetime:
        """Return the wall clock."""
        return START + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Return the loop's time."""
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return 0.0

    def boottime(self) -> float:
        """Return the loop's time."""
        return self.monotonic()


class World:
    """A service over one account with forty deals, and a market that waits to be told."""

    def __init__(self, platform: Platform = Platform.MT5) -> None:
        self.broker = Broker(clock=VirtualClock(), random=Random(1))
        self.faults = Faults(random=Random(2))
        self.market = Market(self.broker, random=Random(3))
        server = open_server(self.broker, ServerSpec(platform=platform))
        self.account = self.broker.add_account(AccountSpec(server=server))
        self.market.seed(self.account, Past(deals=40, days=5))
        self.service = SimulatedMetaApi(self.broker, faults=self.faults)
        self.remote = MetaApiRef(
            token="main", account_id=self.account.metaapi_id, region="new-york"
        )

    async def open(self, synced_through: datetime = BEGINNING) -> Session:
        """Open a session."""
        return await self.service.open(
            self.remote,
            account=await self.service.account(self.remote),
            synced_through=synced_through,
        )

    async def open_live(self) -> Session:
        """Open a session that is up to date and has said so."""
        session = await self.open(self.broker.now())
        await session.receive()
        return session


def kinds(events: Sequence[StreamEvent]) -> list[type[StreamEvent]]:
    """Return the types of events."""
    return [type(event) for event in events]


def seen_ids(events: Sequence[StreamEvent]) -> list[DealId]:
    """Return the ids of the deals among events."""
    return [event.deal.deal_id for event in events if isinstance(event, DealSeen)]


def true_ids(account: TruthAccount) -> list[DealId]:
    """Return the ids of all deals of the truth."""
    return [deal.deal_id for deal in account.deals()]


async def next_of(session: Session, kind: type[StreamEvent]) -> list[StreamEvent]:
    """Read until an event of the kind came; return all that was read."""
    events: list[StreamEvent] = []
    while kind not in kinds(events):
        events += await session.receive()
    return events


async def test_it_is_both_ports() -> None:
    """The type checker and the protocols agree that the service serves a link."""
    world = World()
    rest: RestPort = world.service
    stream: StreamPort = world.service
    account = await rest.account(world.remote)
    assert (account.login, account.state) == (world.account.login, "DEPLOYED")
    assert stream is rest


@pytest.mark.parametrize("platform", list(Platform))
async def test_deals_equal_what_the_wire_would_have_brought(platform: Platform) -> None:
    """A simulated deal is equal to the one read from MetaApi's JSON, text form included."""
    world = World(platform)
    world.market.trade(world.account, deals=200)
    page = await world.service.deals(world.remote, start=BEGINNING, end=FOREVER, offset=0)
    raw = "[" + ",".join(deal.raw for deal in page.deals) + "]"
    read = deals_from_json(raw.encode()).deals
    assert page.deals == read
    for ours, theirs in zip(page.deals, read, strict=True):
        assert str(ours.profit) == str(theirs.profit)
        assert str(ours.price) == str(theirs.price)
        assert ours.raw == theirs.raw


async def test_history_comes_in_pages() -> None:
    """No page exceeds the limit, and the pages together are the history."""
    world = World()
    world.market.trade(world.account, deals=PAGE_LIMIT + 200)
    deals = []
    while True:
        page = await world.service.deals(
            world.remote, start=BEGINNING, end=FOREVER, offset=len(deals)
        )
        assert len(page.deals) <= PAGE_LIMIT
        deals += page.deals
        if len(page.deals) < PAGE_LIMIT:
            break
    assert [deal.deal_id for deal in deals] == true_ids(world.account)
    information = await world.service.account_information(world.remote)
    assert information.balance == world.account.balance
    assert information.credit == world.account.credit


async def test_a_ticket_finds_its_deals() -> None:
    """An MT4 ticket finds entry and exit, whichever of them was asked for."""
    world = World(Platform.MT4)
    closed = next(d for d in world.account.deals() if d.entry == "DEAL_ENTRY_OUT")
    page = await world.service.deals_by_ticket(world.remote, deal_id=closed.deal_id)
    assert {d.deal_id for d in page.deals} == {f"{closed.ticket}:IN", f"{closed.ticket}:OUT"}
    world.account.delete(closed.deal_id)
    page = await world.service.deals_by_ticket(world.remote, deal_id=closed.deal_id)
    assert [d.deal_id for d in page.deals] == [f"{closed.ticket}:IN"]


async def test_a_session_replays_from_its_overlap_and_goes_on_live() -> None:
    """Connected, history since the watermark less a minute, synchronized, then every new deal."""
    world = World()
    watermark = world.account.deals()[20].time + timedelta(seconds=30)
    session = await world.open(watermark)
    events = list(await session.receive())
    assert kinds(events)[:2] == [Connected, BrokerStatus]
    assert kinds(events)[-1] is Synchronized
    assert seen_ids(events) == true_ids(world.account)[20:]
    before = world.account.deal_count
    world.market.trade(world.account, deals=5)
    assert seen_ids(await session.receive()) == true_ids(world.account)[before:]


async def test_quiet_changes_reach_no_session() -> None:
    """What the broker does behind the client's back only a pull can find."""
    world = World()
    session = await world.open_live()
    world.account.delete(world.account.deals()[7].deal_id)
    world.account.amend(world.account.deals()[9].deal_id, Amendment(profit=Decimal(1)))
    events = await session.receive()
    assert kinds(events) == [BrokerStatus]


async def test_an_open_session_beats() -> None:
    """A heartbeat comes every ten seconds of silence, and none while the fault stops it."""
    world = World()
    session = await world.open_live()
    began_at = world.broker.clock.monotonic()
    for _ in range(6):
        assert kinds(await session.receive()) == [BrokerStatus]
    assert world.broker.clock.monotonic() - began_at == pytest.approx(60, abs=1)
    world.faults.switch_on(Fault(kind=FaultKind.STOP_STATUS))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(300):
            await session.receive()
    world.market.trade(world.account)
    assert DealSeen in kinds(await session.receive())


async def test_a_muted_session_hears_nothing() -> None:
    """Neither deals nor heartbeats come; what was said meanwhile is lost to the stream."""
    world = World()
    session = await world.open_live()
    world.faults.switch_on(Fault(kind=FaultKind.MUTE))
    world.market.trade(world.account, deals=3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(300):
            await session.receive()
    world.faults.switch_off(FaultKind.MUTE)
    assert kinds(await session.receive()) == [BrokerStatus]


async def test_a_dropped_session_comes_back_from_the_acknowledged_time() -> None:
    """After the drop it reconnects by itself and replays what the ledger may lack."""
    world = World()
    session = await world.open(BEGINNING)
    await session.receive()
    world.service.drop(world.account.metaapi_id)
    lost_from = world.account.deal_count
    world.market.trade(world.account, deals=4)
    session.acknowledge(world.broker.now() - timedelta(seconds=30))
    events = await next_of(session, Synchronized)
    assert kinds(events)[:2] == [Disconnected, Connected]
    assert seen_ids(events) == true_ids(world.account)[lost_from:]


async def test_nothing_comes_back_while_the_service_is_down() -> None:
    """A night of outage: requests and new sessions fail, open ones return when it ends."""
    world = World()
    session = await world.open_live()
    world.service.is_down = True
    assert kinds(await session.receive()) == [Disconnected]
    with pytest.raises(RemoteUnavailable):
        await world.service.account(world.remote)
    with pytest.raises(RemoteUnavailable):
        await world.open()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(8 * 3600):
            await session.receive()
    world.service.is_down = False
    assert Synchronized in kinds(await session.receive())


async def test_a_killed_session_is_beyond_repair() -> None:
    """What waited is still handed out, then the session raises for good."""
    world = World()
    session = await world.open_live()
    world.market.trade(world.account)
    world.service.kill(world.account.metaapi_id)
    assert DealSeen in kinds(await session.receive())
    for _ in range(2):
        with pytest.raises(LinkLost):
            await session.receive()


async def test_a_closed_session_leaves_nothing_open() -> None:
    """Closing is final and may be repeated; the account can be opened again."""
    world = World()
    session = await world.open_live()
    assert world.service.open_sessions == 1
    await session.close()
    await session.close()
    assert world.service.open_sessions == 0
    again = await world.open_live()
    world.market.trade(world.account)
    assert DealSeen in kinds(await again.receive())


async def test_the_broker_leaves_and_returns() -> None:
    """The heartbeat says so; requests are refused as not connected meanwhile."""
    world = World()
    session = await world.open_live()
    world.account.set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)
    assert await session.receive() == (BrokerStatus(is_connected=False),)
    with pytest.raises(NotConnected):
        await world.service.account_information(world.remote)
    world.account.set_connection(ConnectionStatus.CONNECTED)
    assert await session.receive() == (BrokerStatus(is_connected=True),)


async def test_an_undeployed_account_opens_and_stays_silent_until_it_is_deployed() -> None:
    """Only the provisioning side can tell an undeployed account from a slow one."""
    world = World()
    world.account.set_state(ProvisioningState.UNDEPLOYED)
    assert (await world.service.account(world.remote)).state == "UNDEPLOYED"
    session = await world.open()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(120):
            await session.receive()
    world.account.set_state(ProvisioningState.DEPLOYED)
    assert Synchronized in kinds(await session.receive())


async def test_an_undeployed_account_leaves_its_session() -> None:
    """The terminal's end is the session's disconnection, not a matter of the broker."""
    world = World()
    session = await world.open_live()
    world.account.set_state(ProvisioningState.UNDEPLOYING)
    assert await session.receive() == (Disconnected(),)
    world.account.set_state(ProvisioningState.DEPLOYED)
    assert Connected in kinds(await session.receive())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(kind=FaultKind.SERVER_ERROR), RemoteUnavailable),
        (Fault(kind=FaultKind.THROTTLE, seconds=7), Throttled),
        (Fault(kind=FaultKind.THROTTLE_BARE), Throttled),
    ],
    ids=["server error", "throttle", "bare throttle"],
)
async def test_faults_become_errors_of_our_tree(fault: Fault, error: type[Exception]) -> None:
    """Each fault raises what the real adapter would raise for it, and is counted."""
    world = World()
    world.faults.switch_on(fault)
    with pytest.raises(error) as caught:
        await world.service.account(world.remote)
    assert world.faults.injected[fault.kind] == 1
    if isinstance(caught.value, Throttled):
        expected = 7.0 if fault.kind is FaultKind.THROTTLE else 1.0
        assert caught.value.retry_after_seconds == expected


async def test_a_synchronizing_page_is_partial_and_says_so() -> None:
    """The older half comes with the flag; afterwards the page is whole."""
    world = World()
    world.faults.switch_on(Fault(kind=FaultKind.SYNCHRONIZING, limit=1))
    span = {"start": BEGINNING, "end": FOREVER}
    partial = await world.service.deals(world.remote, **span, offset=0)
    whole = await world.service.deals(world.remote, **span, offset=0)
    assert partial.is_synchronizing
    assert partial.deals == whole.deals[:20]
    assert not whole.is_synchronizing
    assert len(whole.deals) == 40


async def test_lost_and_doubled_packets() -> None:
    """A lost deal never comes by the stream, a doubled one comes twice."""
    world = World()
    session = await world.open_live()
    world.faults.switch_on(Fault(kind=FaultKind.LOSE_PACKETS, limit=1))
    world.market.trade(world.account)
    lost = true_ids(world.account)[40]
    world.faults.switch_on(Fault(kind=FaultKind.DUPLICATE_PACKETS, limit=1))
    before = world.account.deal_count
    world.market.trade(world.account)
    events = await session.receive()
    assert lost not in seen_ids(events)
    doubled = true_ids(world.account)[before]
    assert seen_ids(events).count(doubled) == 2


async def test_a_revoked_token_and_an_unknown_account_are_rejected() -> None:
    """Both are errors that repeating cannot cure."""
    world = World()
    somebody = await world.service.account(world.remote)
    nobody = MetaApiRef(token="main", account_id="nobody", region="new-york")
    with pytest.raises(NotFound):
        await world.service.account(nobody)
    with pytest.raises(NotFound):
        await world.service.open(nobody, account=somebody, synced_through=BEGINNING)
    world.service.is_token_revoked = True
    with pytest.raises(Unauthorized):
        await world.service.account(world.remote)
    with pytest.raises(Unauthorized):
        await world.open()


async def test_money_is_in_the_readers_form() -> None:
    """Amounts carry no trailing zeros and no exponent, as the reader of the wire gives them."""
    world = World()
    information = await world.service.account_information(world.remote)
    assert information.balance == world.account.balance
    assert str(information.balance) == str(Decimal(str(float(world.account.balance)))).removesuffix(
        ".0"
    )
