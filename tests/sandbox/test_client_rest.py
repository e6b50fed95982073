"""The client service over HTTP: state, history, and every fault of a request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from brokerd.clock import SystemClock
from brokerd.domain import Platform
from brokerd.sandbox import wire
from brokerd.sandbox.client_rest import ClientRest
from brokerd.sandbox.facts import Booking, ConnectionStatus, ProvisioningState, TruthDeal
from brokerd.sandbox.faults import Fault, FaultKind, Faults
from brokerd.sandbox.habits import Past
from brokerd.sandbox.market import Market
from brokerd.sandbox.provisioning import Discovery, Provisioning
from brokerd.sandbox.rest_gate import Gate
from brokerd.sandbox.state import MetaApiState, ServiceSettings
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.truth import AccountSpec, Broker, TruthAccount

TOKEN = {"auth-token": "a.valid.token"}
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
ALL_TIME = "2000-01-01T00:00:00.000Z/2100-01-01T00:00:00.000Z"


@dataclass(slots=True)
class Service:
    """Both REST services over one account, and their faults."""

    client: TestClient[web.Request, web.Application]
    broker: Broker
    market: Market
    account: TruthAccount
    faults: Faults

    @property
    def base(self) -> str:
        """Return the account's path."""
        return f"/users/current/accounts/{self.account.metaapi_id}"

    async def get(self, path: str) -> tuple[int, Any]:
        """Ask for a path below the account; return status and body."""
        async with self.client.get(f"{self.base}{path}", headers=TOKEN) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def running(platform: Platform = Platform.MT5) -> AsyncIterator[Service]:
    """Serve one account with sixty deals."""
    broker = Broker(clock=SystemClock(), random=Random(1))
    faults = Faults(random=Random(2))
    market = Market(broker, random=Random(3))
    server = open_server(broker, ServerSpec(platform=platform))
    account = broker.add_account(AccountSpec(server=server))
    market.seed(account, Past(deals=60, positions=2))
    settings = ServiceSettings(token=TOKEN["auth-token"])
    state = MetaApiState(broker, faults=faults, settings=settings)
    gate = Gate(state)
    app = web.Application()
    app.add_routes(ClientRest(state, gate=gate).routes())
    discovery = Discovery(domain=lambda: "sim.test:1")
    app.add_routes(Provisioning(state, gate=gate, discovery=discovery).routes())
    async with TestClient(TestServer(app)) as client:
        yield Service(client, broker, market, account, faults)


async def test_history_is_a_plain_array_of_every_deal() -> None:
    """All deals of the span come back, oldest first."""
    async with running() as service:
        status, shown = await service.get(f"/history-deals/time/{ALL_TIME}")
        assert status == 200
        assert [d["id"] for d in shown] == [d.ticket for d in service.account.deals()]


async def test_the_end_of_a_span_is_exclusive() -> None:
    """A deal at the start is in, one at the end is not."""
    async with running() as service:
        deals = tuple(
            TruthDeal(
                ticket=str(number),
                platform=Platform.MT5,
                type="DEAL_TYPE_BALANCE",
                time=NOON + timedelta(minutes=number),
                booked_at=NOON,
            )
            for number in range(3)
        )
        service.account.book(Booking(deals=deals))
        span = f"{wire.iso_time(NOON)}/{wire.iso_time(NOON + timedelta(minutes=2))}"
        _, shown = await service.get(f"/history-deals/time/{span}")
        assert [d["id"] for d in shown] == ["0", "1"]
        local = "2026-03-02T14:01:00+02:00/2026-03-02T14:02:00%2B02:00".replace("+", "%2B")
        _, shown = await service.get(f"/history-deals/time/{local}")
        assert [d["id"] for d in shown] == ["1"]


async def test_pages_hold_at_most_a_thousand_and_together_everything() -> None:
    """Without a limit a page has 1000; offset goes on from there."""
    async with running() as service:
        service.market.trade(service.account, deals=2100)
        seen: list[str] = []
        sizes = []
        while not sizes or sizes[-1] == 1000:
            query = f"?offset={len(seen)}"
            _, shown = await service.get(f"/history-deals/time/{ALL_TIME}{query}")
            sizes.append(len(shown))
            seen += [d["id"] for d in shown]
        assert sizes[:2] == [1000, 1000]
        assert seen == [d.ticket for d in service.account.deals()]
        _, shown = await service.get(f"/history-deals/time/{ALL_TIME}?offset=5&limit=7")
        assert [d["id"] for d in shown] == seen[5:12]


@pytest.mark.parametrize(
    "path",
    [
        f"/history-deals/time/{ALL_TIME}?limit=1001",
        f"/history-deals/time/{ALL_TIME}?limit=0",
        f"/history-deals/time/{ALL_TIME}?offset=-1",
        "/history-deals/time/yesterday/today",
        "/history-deals/time/2026-01-01T00:00:00/2026-01-02T00:00:00",
    ],
    ids=["limit over 1000", "limit 0", "offset below 0", "no times", "no offset from UTC"],
)
async def test_a_bad_request_is_refused(path: str) -> None:
    """What cannot be meant is a validation error."""
    async with running() as service:
        status, shown = await service.get(path)
    assert status == 400
    assert shown["error"] == "ValidationError"


async def test_deals_are_found_by_ticket_and_by_position() -> None:
    """A ticket finds its deal, a position all of its deals; an unknown one finds nothing."""
    async with running() as service:
        deals = service.account.deals()
        traded = next(d for d in deals if d.entry == "DEAL_ENTRY_OUT")
        _, shown = await service.get(f"/history-deals/ticket/{traded.ticket}")
        assert [d["id"] for d in shown] == [traded.ticket]
        _, shown = await service.get(f"/history-deals/position/{traded.position_id}")
        expected = [d.ticket for d in deals if d.position_id == traded.position_id]
        assert [d["id"] for d in shown] == expected
        assert len(expected) >= 2
        assert await service.get("/history-deals/ticket/1") == (200, [])


async def test_an_mt4_ticket_finds_entry_and_exit() -> None:
    """Both deals of an MT4 order come back under its ticket."""
    async with running(Platform.MT4) as service:
        closed = next(d for d in service.account.deals() if d.entry == "DEAL_ENTRY_OUT")
        _, shown = await service.get(f"/history-deals/ticket/{closed.ticket}")
    assert [d["entryType"] for d in shown] == ["DEAL_ENTRY_IN", "DEAL_ENTRY_OUT"]
    assert {d["id"] for d in shown} == {closed.ticket}


async def test_orders_are_found_by_time_ticket_and_position() -> None:
    """History orders answer the same three questions."""
    async with running() as service:
        orders = service.account.orders()
        _, shown = await service.get(f"/history-orders/time/{ALL_TIME}")
        assert [o["id"] for o in shown] == [o.order_id for o in orders]
        last = orders[-1]
        _, shown = await service.get(f"/history-orders/ticket/{last.order_id}")
        assert [o["id"] for o in shown] == [last.order_id]
        _, shown = await service.get(f"/history-orders/position/{last.position_id}")
        assert last.order_id in {o["id"] for o in shown}


async def test_state_is_the_truth_of_now() -> None:
    """Account information and positions follow the account."""
    async with running() as service:
        _, information = await service.get("/account-information")
        assert information["balance"] == pytest.approx(float(service.account.balance), abs=1e-8)
        _, positions = await service.get("/positions")
        assert {p["id"] for p in positions} == set(service.account.positions)
        _, position = await service.get(f"/positions/{positions[0]['id']}")
        assert position["id"] == positions[0]["id"]
        assert (await service.get("/positions/1"))[0] == 404
        assert await service.get("/orders") == (200, [])
        _, times = await service.get("/server-time")
        assert {"time", "brokerTime"} == set(times)


async def test_hashing_lists_name_both_generations() -> None:
    """The SDK finds a list for each kind of record."""
    async with (
        running() as service,
        service.client.get("/hashing-ignored-field-lists", headers=TOKEN) as answer,
    ):
        shown = await answer.json()
    assert {name: set(lists) for name, lists in shown.items()} == {
        "g1": {"specification", "position", "order"},
        "g2": {"specification", "position", "order"},
    }


@pytest.mark.parametrize("path", ["/account-information", f"/history-deals/time/{ALL_TIME}"])
async def test_an_unreachable_account_times_out(path: str) -> None:
    """Undeployed or cut off from its broker, an account answers 504 with MetaApi's text."""
    async with running() as service:
        service.account.set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)
        first = await service.get(path)
        service.account.set_state(ProvisioningState.UNDEPLOYED)
        second = await service.get(path)
    for status, shown in (first, second):
        assert (status, shown["error"]) == (504, "TimeoutError")
        assert "not connected to broker yet" in shown["message"]


async def test_a_synchronizing_answer_is_partial_and_says_so() -> None:
    """While the fault is on, history is an object with the older half; after it, whole again."""
    async with running() as service:
        service.faults.switch_on(Fault(kind=FaultKind.SYNCHRONIZING, limit=2))
        _, deals = await service.get(f"/history-deals/time/{ALL_TIME}")
        _, orders = await service.get(f"/history-orders/time/{ALL_TIME}")
        _, whole = await service.get(f"/history-deals/time/{ALL_TIME}")
    assert deals["synchronizing"] is True
    assert [d["id"] for d in deals["deals"]] == [d["id"] for d in whole[:30]]
    assert orders["synchronizing"] is True
    assert "historyOrders" in orders


async def test_a_throttled_request_learns_when_to_come_back() -> None:
    """429 has both sets of fields, an absolute time and Retry-After in seconds."""
    async with running() as service:
        service.faults.switch_on(Fault(kind=FaultKind.THROTTLE, seconds=2.5))
        path = f"{service.base}/account-information"
        asked_at = datetime.now(UTC)
        async with service.client.get(path, headers=TOKEN) as answer:
            assert answer.status == 429
            assert answer.headers["Retry-After"] == "3"
            shown = await answer.json()
    assert shown["error"] == "TooManyRequestsError"
    metadata = shown["metadata"]
    assert {"total", "available", "needed", "exceededPeriod"} <= set(metadata)
    assert {"periodInSeconds", "creditsAvailable", "creditsUsed", "creditsRequired"} <= set(
        metadata
    )
    retry_at = datetime.fromisoformat(metadata["recommendedRetryTime"])
    assert timedelta(seconds=2) < retry_at - asked_at < timedelta(seconds=4)


async def test_provisioning_throttles_in_its_own_words() -> None:
    """There the metadata counts requests per minutes and Retry-After is a date."""
    async with running() as service:
        service.faults.switch_on(Fault(kind=FaultKind.THROTTLE, seconds=30))
        async with service.client.get(service.base, headers=TOKEN) as answer:
            assert answer.status == 429
            retry_after = parsedate_to_datetime(answer.headers["Retry-After"])
            metadata = (await answer.json())["metadata"]
    assert timedelta(seconds=20) < retry_after - datetime.now(UTC) <= timedelta(seconds=30)
    assert {"periodInMinutes", "requestsPerPeriodAllowed", "recommendedRetryTime"} == set(metadata)


async def test_a_bare_throttle_gives_no_hint() -> None:
    """Neither metadata nor the header."""
    async with running() as service:
        service.faults.switch_on(Fault(kind=FaultKind.THROTTLE_BARE))
        async with service.client.get(f"{service.base}/positions", headers=TOKEN) as answer:
            assert answer.status == 429
            assert "Retry-After" not in answer.headers
            assert "metadata" not in await answer.json()


async def test_failures_of_the_server_are_json_or_html() -> None:
    """A 5xx has MetaApi's form, or that of a proxy in between."""
    async with running() as service:
        service.faults.switch_on(Fault(kind=FaultKind.SERVER_ERROR))
        status, shown = await service.get("/positions")
        assert (status, shown["error"]) == (500, "InternalError")
        html = Fault(kind=FaultKind.SERVER_ERROR, status=502, is_html=True)
        service.faults.switch_on(html)
        async with service.client.get(f"{service.base}/positions", headers=TOKEN) as answer:
            assert (answer.status, answer.content_type) == (502, "text/html")
            assert (await answer.text()).startswith("<html>")
    assert service.faults.injected[FaultKind.SERVER_ERROR] == 2


async def test_a_delayed_answer_comes_late_but_right() -> None:
    """The delay holds the answer back for its seconds; another account is not held."""
    async with running() as service:
        scope = frozenset({service.account.metaapi_id})
        service.faults.switch_on(Fault(kind=FaultKind.DELAY, seconds=0.2, account_ids=scope))
        clock = asyncio.get_running_loop().time
        began_at = clock()
        status, _ = await service.get("/positions")
        assert status == 200
        assert clock() - began_at >= 0.2
        began_at = clock()
        async with service.client.get("/hashing-ignored-field-lists", headers=TOKEN) as answer:
            assert answer.status == 200
        assert clock() - began_at < 0.15


async def test_a_bad_token_meets_no_fault() -> None:
    """Who may not ask is told so first, and nothing is counted."""
    async with running() as service:
        service.faults.switch_on(Fault(kind=FaultKind.SERVER_ERROR))
        async with service.client.get(f"{service.base}/positions") as answer:
            assert answer.status == 401
    assert service.faults.injected[FaultKind.SERVER_ERROR] == 0
