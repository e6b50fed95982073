"""The control API: making accounts, changing the truth, reading it exactly, switching faults."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from brokerd.clock import SystemClock
from brokerd.domain import DealId
from brokerd.sandbox.control import Control
from brokerd.sandbox.control_requests import DropSockets
from brokerd.sandbox.facts import ChangeKind
from brokerd.sandbox.faults import FaultKind, Faults
from brokerd.sandbox.market import Market
from brokerd.sandbox.truth import Broker, Change, TruthAccount


@dataclass(slots=True)
class World:
    """The control of a sandbox without accounts, and what it did."""

    client: TestClient[web.Request, web.Application]
    broker: Broker
    faults: Faults
    market: Market
    dropped: list[DropSockets] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send a request below /control; return status and body."""
        async with self.client.request(method, f"/control{path}", json=body) as answer:
            return answer.status, await answer.json()

    async def make(self, **wanted: object) -> list[TruthAccount]:
        """Make accounts and return their truth."""
        status, made = await self.ask("POST", "/accounts", wanted)
        assert status == 201, made
        return [self.broker.accounts[shown["account_id"]] for shown in made]

    async def make_one(self) -> tuple[TruthAccount, str]:
        """Make an account with thirty deals; return it with its path."""
        (account,) = await self.make(deals=30)
        self.changes.clear()
        return account, f"/accounts/{account.metaapi_id}"


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    """Serve the control API."""
    broker = Broker(clock=SystemClock(), random=Random(1))
    faults = Faults(random=Random(2))
    market = Market(broker, random=Random(3))
    dropped: list[DropSockets] = []

    def drop_sockets(wanted: DropSockets) -> int:
        dropped.append(wanted)
        return 2

    opened = {"a-1": 2}
    control = Control(
        broker, market=market, faults=faults, opened=opened, drop_sockets=drop_sockets
    )
    app = web.Application()
    app.add_routes(control.routes())
    async with TestClient(TestServer(app)) as client:
        world = World(client, broker, faults, market, dropped)
        broker.listen(world.changes.append)
        yield world


async def test_accounts_are_made_as_a_mix() -> None:
    """The shares of reliable and netting accounts hold, and every combination appears."""
    async with running() as world:
        accounts = await world.make(
            count=8,
            high_share=0.5,
            netting_share=0.5,
            deals=20,
            days=2,
            positions=1,
            region="london",
        )
        kinds = [(a.spec.reliability, a.spec.is_hedging) for a in accounts]
        assert len(set(kinds)) == 4
        assert all(kinds.count(kind) == 2 for kind in kinds)
        assert {a.deal_count for a in accounts} == {20}
        assert {len(a.positions) for a in accounts} == {1}
        assert {a.spec.region for a in accounts} == {"london"}
        (mt4,) = await world.make(platform="mt4", server="Beta-Live", state="UNDEPLOYED")
        assert (mt4.platform, mt4.server.name) == ("mt4", "Beta-Live")
        assert not mt4.is_reachable
        (beside,) = await world.make()
        assert beside.server is accounts[0].server
        _, listed = await world.ask("GET", "/accounts")
        assert [shown["account_id"] for shown in listed] == list(world.broker.accounts)


@pytest.mark.parametrize(
    ("method", "path", "body", "says"),
    [
        ("POST", "/accounts", {"count": 0}, "count"),
        ("POST", "/accounts", {"counts": 3}, "counts"),
        ("POST", "/accounts", {"platform": "mt6"}, "mt6"),
        ("POST", "/accounts", {"platform": "mt4", "netting_share": 1}, "MT4"),
        ("POST", "/accounts", {"positions": 500}, "symbols"),
        ("POST", "/accounts", {"deposit": "0.123456789"}, "decimals"),
        ("PUT", "/faults/delay", {"seconds": -1}, "seconds"),
        ("PUT", "/faults/delay", {"probability": 2}, "probability"),
        ("PATCH", "/market", {"deals_per_account_minute": "many"}, "deals_per_account_minute"),
    ],
)
async def test_a_bad_body_is_refused_with_its_reason(
    method: str, path: str, body: dict[str, object], says: str
) -> None:
    """400 names what is wrong, and nothing is changed."""
    async with running() as world:
        status, shown = await world.ask(method, path, body)
        assert status == 400
        assert says in shown["error"]
        assert world.broker.accounts == {}
        assert world.faults.active == ()


async def test_truth_is_exact() -> None:
    """Every deal comes with decimal texts that add up to the balance and the credit."""
    async with running() as world:
        account, path = await world.make_one()
        world.market.trade(account, deals=100)
        status, shown = await world.ask("GET", f"{path}/truth")
    assert status == 200
    deals = shown["deals"]
    assert [d["deal_id"] for d in deals] == [d.deal_id for d in account.deals()]
    amounts = {"balance": Decimal(), "credit": Decimal()}
    for deal in deals:
        book = "credit" if deal["type"] == "DEAL_TYPE_CREDIT" else "balance"
        amounts[book] += sum(Decimal(deal[name]) for name in ("profit", "commission", "swap"))
        assert isinstance(deal["profit"], str)
    assert amounts["balance"] == Decimal(shown["account"]["balance"]) == account.balance
    assert amounts["credit"] == Decimal(shown["account"]["credit"]) == account.credit
    booked = {datetime.fromisoformat(d["booked_at"]) for d in deals}
    assert booked == {d.booked_at for d in account.deals()}


async def test_a_deal_is_placed_now_and_streamed() -> None:
    """Without a time a deal happens now, and its change is of the market's kind."""
    async with running() as world:
        account, path = await world.make_one()
        before = account.balance
        status, shown = await world.ask("POST", f"{path}/deals", {"profit": "-85.26"})
        assert status == 201
        deal = account.deal(DealId(shown["deal_id"]))
        assert deal.profit == Decimal("-85.26")
        assert datetime.now(UTC) - deal.time < timedelta(seconds=5)
        assert account.balance == before - Decimal("85.26")
        assert [change.kind for change in world.changes] == [ChangeKind.TRADED]


async def test_a_deal_is_back_dated_quietly() -> None:
    """A deal may have happened hours ago and be shown by no stream."""
    async with running() as world:
        account, path = await world.make_one()
        body = {"type": "DEAL_TYPE_CREDIT", "profit": 5, "age_seconds": 7200, "is_quiet": True}
        _, shown = await world.ask("POST", f"{path}/deals", body)
        deal = account.deal(DealId(shown["deal_id"]))
        assert timedelta(hours=2) <= deal.booked_at - deal.time < timedelta(hours=2, seconds=1)
        assert account.credit >= 5
        assert [change.kind for change in world.changes] == [ChangeKind.BOOKED_QUIETLY]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"symbol": "NOSUCH"}, "NOSUCH"),
        ({"profit": "1e-9"}, "decimals"),
        ({"profit": "NaN"}, "NaN"),
        ({"profit": "1234567890123456"}, "digits"),
        ({"time": "2026-01-01T00:00:00Z", "age_seconds": 1}, "both"),
        ({"time": "2026-01-01T00:00:00"}, "time"),
    ],
)
async def test_a_deal_that_the_wire_cannot_carry_is_refused(
    body: dict[str, object], says: str
) -> None:
    """What would not come out as it went in never becomes truth."""
    async with running() as world:
        account, path = await world.make_one()
        status, shown = await world.ask("POST", f"{path}/deals", body)
        assert status == 400
        assert says in shown["error"]
        assert account.deal_count == 30


async def test_deals_are_amended_and_deleted_quietly() -> None:
    """Only the named fields change; a deleted deal is gone and asking again says so."""
    async with running() as world:
        account, path = await world.make_one()
        deal = account.deals()[5]
        balance = account.balance
        _, shown = await world.ask("PATCH", f"{path}/deals/{deal.deal_id}", {"swap": "-1.5"})
        assert Decimal(shown["swap"]) == Decimal("-1.5")
        assert account.deal(deal.deal_id).profit == deal.profit
        assert account.balance == balance - deal.swap - Decimal("1.5")
        assert (await world.ask("DELETE", f"{path}/deals/{deal.deal_id}"))[0] == 200
        assert (await world.ask("DELETE", f"{path}/deals/{deal.deal_id}"))[0] == 404
        assert account.deal_count == 29
        assert {change.kind for change in world.changes} == {ChangeKind.BOOKED_QUIETLY}


async def test_trades_are_made_on_demand() -> None:
    """At least as many deals happen as were asked for, and the answer says how many."""
    async with running() as world:
        account, path = await world.make_one()
        _, shown = await world.ask("POST", f"{path}/trade", {"deals": 25})
        assert shown["deals"] >= 25
        assert account.deal_count == 30 + shown["deals"]


async def test_deployment_and_connection_are_set() -> None:
    """Both states follow at once."""
    async with running() as world:
        account, path = await world.make_one()
        _, shown = await world.ask("PUT", f"{path}/state", {"state": "UNDEPLOYED"})
        assert (shown["state"], shown["connection_status"]) == ("UNDEPLOYED", "DISCONNECTED")
        await world.ask("PUT", f"{path}/state", {"state": "DEPLOYED"})
        body = {"status": "DISCONNECTED_FROM_BROKER"}
        await world.ask("PUT", f"{path}/connection", body)
        assert account.connection_status == body["status"]


async def test_the_market_is_set_and_read() -> None:
    """Rate and rest change apart from each other."""
    async with running() as world:
        _, shown = await world.ask("PATCH", "/market", {"deals_per_account_minute": 6})
        assert shown == {"deals_per_account_minute": 6.0, "is_frozen": False}
        await world.ask("PATCH", "/market", {"is_frozen": True})
        assert world.market.is_frozen
        _, shown = await world.ask("GET", "/market")
        assert shown == {"deals_per_account_minute": 6.0, "is_frozen": True}
        await world.ask("PATCH", "/market", {"is_frozen": False})
        assert not world.market.is_frozen


async def test_faults_are_switched_and_counted() -> None:
    """What is on is listed with its parameters; counts name every kind and outlive the switch."""
    async with running() as world:
        account, _ = await world.make_one()
        body = {"seconds": 2, "account_ids": [account.metaapi_id], "max_age_seconds": 3600}
        _, shown = await world.ask("PUT", "/faults/delay", body)
        (active,) = shown["active"]
        assert (active["kind"], active["seconds"]) == ("delay", 2.0)
        assert active["account_ids"] == [account.metaapi_id]
        fault = world.faults.strike(FaultKind.DELAY, account_id=account.metaapi_id)
        assert fault is not None
        assert fault.max_age == timedelta(hours=1)
        await world.ask("PUT", "/faults/mute", {})
        _, shown = await world.ask("DELETE", "/faults/delay")
        assert [f["kind"] for f in shown["active"]] == ["mute"]
        _, shown = await world.ask("DELETE", "/faults")
        assert shown["active"] == []
        assert shown["injected"]["delay"] == 1
        assert set(shown["injected"]) == set(FaultKind)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/faults/nonsense", {}),
        ("PUT", "/faults/mute", {"account_ids": ["nobody"]}),
        ("GET", "/accounts/nobody/truth", None),
        ("POST", "/accounts/nobody/deals", {}),
    ],
)
async def test_what_does_not_exist_is_not_found(
    method: str, path: str, body: dict[str, object] | None
) -> None:
    """404 says what is missing."""
    async with running() as world:
        status, shown = await world.ask(method, path, body)
        assert status == 404
        assert "no" in shown["error"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [({}, FaultKind.DROP_SOCKETS), ({"instance_index": 1}, FaultKind.DROP_IDLE_SOCKETS)],
    ids=["all", "idle"],
)
async def test_dropped_sockets_are_counted(body: dict[str, object], kind: FaultKind) -> None:
    """The hook gets the wish, and what it cut counts as an injection."""
    async with running() as world:
        _, shown = await world.ask("POST", "/sockets/drop", body)
        assert shown == {"sockets": 2}
        assert world.dropped[0].instance_index == body.get("instance_index")
        assert world.faults.injected[kind] == 2


async def test_begun_streams_are_shown() -> None:
    """Whoever judges a client sees whether it had to begin anew."""
    async with running() as world:
        assert await world.ask("GET", "/sessions") == (200, {"opened": {"a-1": 2}})


@pytest.mark.parametrize("remote", ["10.0.0.7", "192.168.1.1", "2001:db8::1"])
async def test_only_this_machine_controls_the_sandbox(remote: str) -> None:
    """A request from elsewhere is refused before it does anything."""
    broker = Broker(clock=SystemClock(), random=Random(1))
    faults = Faults(random=Random(2))
    market = Market(broker, random=Random(3))
    control = Control(broker, market=market, faults=faults, opened={}, drop_sockets=lambda _: 0)
    route = next(r for r in control.routes() if r.path == "/control/faults" and r.method == "GET")
    request = make_mocked_request("GET", "/control/faults").clone(remote=remote)
    answer = await route.handler(request)
    assert answer.status == 403
