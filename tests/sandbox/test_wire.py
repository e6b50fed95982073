"""MetaApi's JSON: the fields it promises, and money that a careful reader gets back exactly."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from brokerd.clock import SystemClock
from brokerd.connector.wire import account_information_from_json, deals_from_json
from brokerd.domain import Platform
from brokerd.sandbox import wire
from brokerd.sandbox.facts import Booking, TruthDeal
from brokerd.sandbox.market import Market
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.truth import AccountSpec, Broker, TruthAccount

NOON = datetime(2026, 3, 2, 12, 0, 0, 250_000, tzinfo=UTC)


def traded_account(platform: Platform = Platform.MT5, *, is_hedging: bool = True) -> TruthAccount:
    """Return an account with five hundred deals and open positions."""
    broker = Broker(clock=SystemClock(), random=Random(11))
    spec = ServerSpec(platform=platform, utc_offset=timedelta(hours=3))
    server = open_server(broker, spec)
    account = broker.add_account(AccountSpec(server=server, is_hedging=is_hedging))
    Market(broker, random=Random(12)).trade(account, deals=500)
    return account


def shown_deals(account: TruthAccount) -> bytes:
    """Return all deals as one JSON array."""
    items = [wire.deal(deal, server=account.server) for deal in account.deals()]
    return b"[" + b",".join(items) + b"]"


def test_times_are_utc_with_milliseconds_and_the_brokers_clock_stands_beside() -> None:
    """`time` ends in Z; `brokerTime` is the wall clock at the broker, without a zone."""
    account = traded_account()
    deal = TruthDeal(
        ticket="5", platform=Platform.MT5, type="DEAL_TYPE_BALANCE", time=NOON, booked_at=NOON
    )
    shown = json.loads(wire.deal(deal, server=account.server))
    assert shown["time"] == "2026-03-02T12:00:00.250Z"
    assert shown["brokerTime"] == "2026-03-02 15:00:00.250"


def test_a_cash_deal_has_no_fields_of_a_trade() -> None:
    """Absent is absent: no nulls, no empty strings."""
    account = traded_account()
    cash = next(d for d in account.deals() if d.symbol is None)
    shown = json.loads(wire.deal(cash, server=account.server))
    absent = {"entryType", "symbol", "volume", "price", "positionId", "orderId", "magic", "reason"}
    assert not absent & set(shown)
    assert {"id", "platform", "type", "time", "brokerTime", "profit"} <= set(shown)


@pytest.mark.parametrize("platform", list(Platform))
def test_money_survives_the_wire(platform: Platform) -> None:
    """Some amounts carry artefacts of doubles; read by the money rule every sum is exact."""
    account = traded_account(platform)
    raw = shown_deals(account)
    artefacts = [
        shown["profit"]
        for shown, deal in zip(json.loads(raw), account.deals(), strict=True)
        if Decimal(repr(shown["profit"])) != deal.profit
    ]
    assert len(artefacts) > 20
    read = deals_from_json(raw).deals
    assert [d.deal_id for d in read] == [d.deal_id for d in account.deals()]
    for seen, deal in zip(read, account.deals(), strict=True):
        money = (deal.profit, deal.commission, deal.swap)
        assert (seen.profit, seen.commission, seen.swap) == money
        assert (seen.volume, seen.price, seen.time) == (deal.volume, deal.price, deal.time)


def test_entry_and_exit_of_an_mt4_order_share_their_id_on_the_wire() -> None:
    """MT4 deals of one ticket differ by their entry type alone."""
    account = traded_account(Platform.MT4)
    shown = json.loads(shown_deals(account))
    entries: dict[str, set[str]] = {}
    for deal in shown:
        if "entryType" in deal:
            entries.setdefault(deal["id"], set()).add(deal["entryType"])
    assert {"DEAL_ENTRY_IN", "DEAL_ENTRY_OUT"} in entries.values()


def test_account_information_equals_the_truth() -> None:
    """Balance, credit, identity and modes are read back as the broker has them."""
    account = traded_account(is_hedging=False)
    read = account_information_from_json(wire.account_information(account))
    assert (read.balance, read.credit) == (account.balance, account.credit)
    assert (read.login, read.server) == (account.login, account.server.name)
    assert (read.currency, read.currency_digits) == ("USD", 2)
    assert read.margin_mode == "ACCOUNT_MARGIN_MODE_RETAIL_NETTING"
    shown = json.loads(wire.account_information(account))
    assert shown["equity"] == float(account.equity)
    assert shown["freeMargin"] == pytest.approx(shown["equity"] - shown["margin"])
    assert shown["marginLevel"] > 0


def test_mt4_names_no_margin_mode_and_an_idle_account_no_margin_level() -> None:
    """Fields that MetaApi leaves out are left out."""
    broker = Broker(clock=SystemClock(), random=Random(1))
    server = open_server(broker, ServerSpec(platform=Platform.MT4))
    account = broker.add_account(AccountSpec(server=server))
    shown = json.loads(wire.account_information(account))
    assert not {"marginMode", "marginLevel"} & set(shown)


def test_records_of_state_have_their_required_fields() -> None:
    """Positions, orders, specifications and prices carry what MetaApi's models require."""
    account = traded_account()
    server = account.server
    held = next(iter(account.positions.values()))
    position: dict[str, Any] = json.loads(wire.position(held, account=account))
    assert position["type"] == ("POSITION_TYPE_BUY" if held.is_buy else "POSITION_TYPE_SELL")
    assert position["profit"] == pytest.approx(
        position["unrealizedProfit"] + position["realizedProfit"]
    )
    order = json.loads(wire.order(account.orders()[-1], server=server))
    required = {"id", "state", "doneTime", "currentVolume", "fillingMode", "expirationType"}
    assert required <= set(order)
    spec = json.loads(wire.specification(server.specs[held.symbol]))
    needed = {"tickSize", "minVolume", "maxVolume", "volumeStep", "digits", "contractSize"}
    assert needed <= set(spec)
    assert list(spec["quoteSessions"]["MONDAY"][0]) == ["from", "to"]
    price = json.loads(wire.price(held.symbol, server=server, now=NOON))
    assert price["ask"] > price["bid"] == float(server.prices[held.symbol])


def test_a_record_looks_the_same_every_time() -> None:
    """Stream and REST render one deal to the same bytes."""
    account = traded_account()
    booked = account.deals()[3]
    account.book(Booking())
    first, second = (wire.deal(booked, server=account.server) for _ in range(2))
    assert first == second
