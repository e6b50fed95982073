import json
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.connector.wire import (
    account_from_json,
    account_information_from_json,
    deal_from_stream,
    deals_from_json,
)
from brokerd.domain import BadReason, Book, Deal, Platform
from brokerd.errors import BadDeal, MalformedAnswer

NOON = datetime(2024, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
BOUND = 9.9e14


def record(**changes: object) -> dict[str, object]:
    """Return a deal as the SDK hands it over: parsed JSON, the time already a datetime."""
    whole: dict[str, object] = {
        "id": "46214692",
        "platform": "mt5",
        "type": "DEAL_TYPE_SELL",
        "entryType": "DEAL_ENTRY_OUT",
        "symbol": "EURUSD",
        "volume": 0.07,
        "price": 1.08251,
        "time": NOON,
        "brokerTime": "2024-03-01 14:00:00.250",
        "profit": 12.3,
        "commission": -0.25,
        "swap": -1.07,
        "orderId": "46214693",
        "positionId": "46214600",
    }
    whole.update(changes)
    return {key: value for key, value in whole.items() if value is not ...}


def wire_text(deal: dict[str, object]) -> str:
    """Return the same deal as its JSON on the wire."""
    shown = dict(deal)
    if isinstance(shown.get("time"), datetime):
        shown["time"] = NOON.strftime("%Y-%m-%dT%H:%M:%S.250Z")
    return json.dumps(shown)


def from_rest(deal: dict[str, object]) -> Deal:
    """Read one deal the other way round, through the REST answer."""
    page = deals_from_json(f"[{wire_text(deal)}]".encode())
    if page.unreadable:
        raise BadDeal(page.unreadable[0].problem)
    return page.deals[0]


def test_a_deal_is_read_whole() -> None:
    """Every field the ledger keeps arrives as the broker meant it."""
    assert deal_from_stream(record()) == Deal(
        deal_id="46214692",
        type="DEAL_TYPE_SELL",
        entry="DEAL_ENTRY_OUT",
        symbol="EURUSD",
        volume=Decimal("0.07"),
        price=Decimal("1.08251"),
        time=NOON,
        broker_time="2024-03-01 14:00:00.250",
        profit=Decimal("12.3"),
        commission=Decimal("-0.25"),
        swap=Decimal("-1.07"),
        order_id="46214693",
        position_id="46214600",
        raw="",
    )


def test_a_cash_deal_needs_no_trade_fields() -> None:
    """A deposit has no symbol, entry, volume, price, commission, swap, order or position."""
    absent = dict.fromkeys(
        ("entryType", "symbol", "volume", "price", "commission", "swap", "orderId", "positionId"),
        ...,
    )
    deal = deal_from_stream(record(type="DEAL_TYPE_BALANCE", profit=1000, **absent))
    assert (deal.entry, deal.symbol, deal.volume, deal.price) == (None, None, None, None)
    assert (deal.order_id, deal.position_id) == (None, None)
    assert (deal.amount, deal.book) == (Decimal(1000), Book.BALANCE)


@pytest.mark.parametrize("field", ["commission", "swap"])
@pytest.mark.parametrize("value", [..., None, 0], ids=["absent", "null", "zero"])
def test_absent_costs_are_nothing(field: str, value: object) -> None:
    """A commission or swap that is not sent adds nothing."""
    assert getattr(deal_from_stream(record(**{field: value})), field) == 0


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (-85.25999999999966, "-85.26"),
        (0.1 + 0.2, "0.3"),
        (100, "100"),
        (-0.0, "0"),
        (1e-05, "0.00001"),
        (1e-09, "0"),
        (-4e-09, "0"),
        (0.123456785, "0.12345678"),
        (0.123456775, "0.12345678"),
        (1.23456789012345678, "1.23456789"),
        (1.999999999999, "2"),
        (123456789012345.6, "123456789012346"),
        (999999999999999, "999999999999999"),
    ],
)
def test_money_is_what_the_broker_meant(sent: float, meant: str) -> None:
    """Artefacts of doubles vanish: 15 significant digits, then 8 decimals, both half-even."""
    assert str(deal_from_stream(record(profit=sent)).profit) == meant
    assert str(from_rest(record(profit=sent)).profit) == meant


@given(st.integers(-(10**15) + 1, 10**15 - 1), st.integers(0, 8))
def test_any_amount_a_double_can_carry_survives_it(digits: int, decimals: int) -> None:
    """Up to 15 digits, at most 8 of them decimals, come back exactly, by either way."""
    meant = Decimal(digits).scaleb(-decimals)
    assert deal_from_stream(record(profit=float(meant))).profit == meant
    text = wire_text(record(profit=0)).replace('"profit": 0', f'"profit": {meant:f}')
    assert deals_from_json(f"[{text}]".encode()).deals[0].profit == meant


@given(st.floats(-BOUND, BOUND), st.floats(0, 1e6), st.floats(0, 1e6), st.floats(-BOUND, BOUND))
def test_stream_and_rest_give_equal_deals(
    profit: float, volume: float, price: float, swap: float
) -> None:
    """One deal is equal whichever way it came, artefacts of its doubles included."""
    deal = record(profit=profit, volume=volume, price=price, swap=swap)
    assert deal_from_stream(deal) == from_rest(deal)


@given(st.decimals(-(10**14), 10**14, places=18))
def test_digits_beyond_a_double_do_not_tell_stream_from_rest(sent: Decimal) -> None:
    """Text with more digits than a double holds reads as the double the SDK makes of it."""
    text = wire_text(record(profit=0)).replace('"profit": 0', f'"profit": {sent:f}')
    as_parsed = json.loads(text) | {"time": NOON}
    assert deals_from_json(f"[{text}]".encode()).deals[0] == deal_from_stream(as_parsed)


@pytest.mark.parametrize("field", ["profit", "commission", "swap", "volume", "price"])
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 1e15, -1e15, 999999999999999.9, 10**40, "12.3", True, [1.0]],
    ids=repr,
)
def test_numbers_that_are_no_amounts_are_refused(field: str, value: object) -> None:
    """NaN, infinities, 10^15 and more, and other types name the deal and the field."""
    with pytest.raises(BadDeal, match=rf"46214692.*`\$?\.?{field}`"):
        deal_from_stream(record(**{field: value}))


@pytest.mark.parametrize("value", [1e15, -1e300, "12.3", True, None], ids=repr)
def test_bad_numbers_in_an_answer_name_their_deal(value: object) -> None:
    """The same refusals hold for REST, with the same naming; the neighbours are read."""
    good, bad = wire_text(record(id="1")), wire_text(record(id="2", profit=value))
    page = deals_from_json(f"[{good},{bad},{good}]".encode())
    assert [deal.deal_id for deal in page.deals] == ["1", "1"]
    assert re.match(r"deal '2': .*profit", page.unreadable[1].problem)
    assert page.unreadable[1].deal_id == "2"


def test_a_number_beyond_doubles_names_its_deal() -> None:
    """1e999 is valid JSON and no number."""
    text = wire_text(record()).replace('"profit": 12.3', '"profit": 1e999')
    bad = deals_from_json(f"[{text}]".encode()).unreadable[0]
    assert re.search(r"'46214692'.*profit", bad.problem)


@pytest.mark.parametrize("field", ["id", "type", "time", "profit", "platform"])
@pytest.mark.parametrize("read", [deal_from_stream, from_rest], ids=["stream", "rest"])
def test_what_a_deal_cannot_lack(field: str, read: object) -> None:
    """A deal without its id, type, time, profit or platform is refused by name."""
    assert callable(read)
    with pytest.raises(BadDeal, match=f"`{field}`") as caught:
        read(record(**{field: ...}))
    assert ("without an id" if field == "id" else "'46214692'") in str(caught.value)


@pytest.mark.parametrize("deal_id", ["", "9" * 129, None, 1.5, True], ids=repr)
def test_ids_that_are_none_are_refused(deal_id: object) -> None:
    """An id is text of bounded length, or a number."""
    with pytest.raises(BadDeal, match=r"\$\.id"):
        deal_from_stream(record(id=deal_id))


def test_numeric_ids_are_text() -> None:
    """Servers that send ids as numbers mean the same tickets."""
    deal = deal_from_stream(record(id=46214692, orderId=46214693, positionId=46214600))
    assert deal == deal_from_stream(record())


@pytest.mark.parametrize(
    "time",
    [
        "2024-03-01T12:00:00.250Z",
        "2024-03-01T14:00:00.250+02:00",
        NOON,
        NOON.astimezone(timezone(timedelta(hours=-5))),
    ],
    ids=["text", "text_offset", "datetime", "datetime_offset"],
)
def test_times_become_utc(time: object) -> None:
    """Text or datetime, any offset: the ledger keeps UTC."""
    deal = deal_from_stream(record(time=time))
    assert deal.time == NOON
    assert deal.time.tzinfo is UTC


@pytest.mark.parametrize(
    "time",
    ["2024-03-01T12:00:00", NOON.replace(tzinfo=None), 1709294400, "yesterday", None],
    ids=["naive_text", "naive_datetime", "number", "word", "null"],
)
def test_times_without_an_offset_are_refused(time: object) -> None:
    """A time that does not say its offset could be off by hours: nothing is assumed."""
    with pytest.raises(BadDeal, match=r"46214692.*\$\.time"):
        deal_from_stream(record(time=time))


@pytest.mark.parametrize(
    ("platform", "entry", "expected"),
    [
        ("mt5", "DEAL_ENTRY_IN", "7"),
        ("mt4", "DEAL_ENTRY_IN", "7:IN"),
        ("mt4", "DEAL_ENTRY_OUT", "7:OUT"),
        ("mt4", ..., "7"),
    ],
)
@pytest.mark.parametrize("said_by", ["deal", "caller"])
def test_mt4_tickets_carry_their_entry(
    platform: str, entry: object, expected: str, said_by: str
) -> None:
    """MT4's entry and exit share a ticket and stay two deals; the caller may know the platform."""
    if said_by == "deal":
        deal = deal_from_stream(record(id="7", platform=platform, entryType=entry))
    else:
        bare = record(id="7", platform=..., entryType=entry)
        deal = deal_from_stream(bare, platform=Platform(platform))
        assert (
            deal
            == deals_from_json(f"[{wire_text(bare)}]".encode(), platform=Platform(platform)).deals[
                0
            ]
        )
    assert deal.deal_id == expected


def test_what_we_do_not_read_is_kept() -> None:
    """Unknown fields and types neither break nor vanish: raw holds them, as compact JSON."""
    strange = record(type="DEAL_TYPE_NEW", futureField={"a": [1.5, None]}, comment="ü")
    deal = deal_from_stream(strange)
    kept = json.loads(deal.raw)
    assert (deal.type, deal.book) == ("DEAL_TYPE_NEW", Book.UNMAPPED)
    assert kept["futureField"] == {"a": [1.5, None]}
    assert kept["comment"] == "ü"
    assert kept["time"] == "2024-03-01T12:00:00.250000Z"
    rest = json.loads(from_rest(strange).raw)
    assert rest == kept | {"time": "2024-03-01T12:00:00.250Z"}
    assert ": " not in from_rest(strange).raw


def test_a_deal_that_is_no_text_is_refused() -> None:
    """A lone surrogate cannot be stored; it is refused with the deal's id."""
    with pytest.raises(BadDeal, match="46214692"):
        deal_from_stream(record(comment="\ud800"))


def test_a_page_is_the_documented_array() -> None:
    """An array is complete; its order is kept."""
    body = f"[{wire_text(record(id='2'))}, {wire_text(record(id='1'))}]".encode()
    page = deals_from_json(body)
    assert [deal.deal_id for deal in page.deals] == ["2", "1"]
    assert page.is_synchronizing is False
    assert deals_from_json(b"[]").deals == ()


@pytest.mark.parametrize("is_synchronizing", [True, False])
def test_a_page_may_say_synchronizing(is_synchronizing: bool) -> None:  # noqa: FBT001
    """The object form carries the flag that keeps the watermark where it is."""
    flag = json.dumps(is_synchronizing)
    page = deals_from_json(f'{{"deals":[{wire_text(record())}],"synchronizing":{flag}}}'.encode())
    assert page.is_synchronizing is is_synchronizing
    assert len(page.deals) == 1


NOT_ANSWERS = {
    "empty": b"",
    "html": b"<html><body>Bad gateway</body></html>",
    "truncated": b'[{"id":"1","type":"DEAL_TYPE_BUY"',
    "null": b"null",
    "text": b'"[]"',
    "error": b'{"id":1,"error":"InternalError","message":"boom"}',
    "deals_null": b'{"deals":null,"synchronizing":false}',
    "flag_text": b'{"deals":[],"synchronizing":"no"}',
    "trailing": b"[] []",
    "not_utf8": b"\xff\xfe[]",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("body", NOT_ANSWERS.values(), ids=NOT_ANSWERS.keys())
@pytest.mark.parametrize(
    "read", [deals_from_json, account_from_json, account_information_from_json]
)
def test_what_is_no_answer_is_never_taken_as_empty(read: object, body: bytes) -> None:
    """Each reader refuses what it cannot read."""
    assert callable(read)
    with pytest.raises(MalformedAnswer):
        read(body)


@pytest.mark.parametrize("item", ["1", "null", " []", '"x"'])
def test_a_page_holds_records_only(item: str) -> None:
    """A list of something else is no answer, whatever it is."""
    with pytest.raises(MalformedAnswer):
        deals_from_json(f"[{item}]".encode())


@pytest.mark.parametrize("item", [b"{}", b'{"id":"\xff"}', b'{"id":null}'], ids=repr)
def test_a_record_that_cannot_be_named_is_refused(item: bytes) -> None:
    """A record without even an id is a bad deal, said as such."""
    page = deals_from_json(b"[" + item + b"]")
    assert "without an id" in page.unreadable[0].problem
    assert page.unreadable[0].deal_id is None


SPOILERS = {
    "nan": ('"profit": 12.3', '"profit": NaN', BadReason.MALFORMED),
    "half_escape": ('"symbol": "EURUSD"', '"symbol": "\\ud800"', BadReason.MALFORMED),
    "bad_escape": ('"symbol": "EURUSD"', '"symbol": "\\x"', BadReason.MALFORMED),
    "nul": ('"symbol": "EURUSD"', '"symbol": "EUR\0USD"', BadReason.TEXT),
    "deep": ('"symbol": "EURUSD"', '"x": ' + "[" * 5_000 + "]" * 5_000, BadReason.MALFORMED),
    "brackets": ('"symbol": "EURUSD"', '"symbol": NaN, "x": "]}\\"{["', BadReason.MALFORMED),
}


@pytest.mark.parametrize(("old", "new", "reason"), SPOILERS.values(), ids=SPOILERS.keys())
@pytest.mark.parametrize("shape", ["[%s]", '{"deals": [%s], "synchronizing": false}'])
def test_a_record_that_is_no_json_spoils_only_itself(
    old: str, new: str, reason: BadReason, shape: str
) -> None:
    """The page's outline is enough to read the neighbours and to keep the record raw."""
    good, bad = wire_text(record(id="1")), wire_text(record(id="2"))
    assert old in bad
    spoilt = bad.replace(old, new)
    body = (shape % f"{good}, {spoilt}, {good}").encode()
    page = deals_from_json(body)
    assert [deal.deal_id for deal in page.deals] == ["1", "1"]
    kept = page.unreadable[1]
    assert kept.raw == spoilt.replace("\0", "\\u0000")
    assert (kept.is_cut, page.is_synchronizing) == (False, False)
    assert kept.reason in {reason, BadReason.NO_ID}


def test_a_broken_page_that_says_synchronizing_still_says_it() -> None:
    """Nothing is concluded from half a copy, however it is read."""
    body = b'{"synchronizing": true, "deals": [{"id": "1", "profit": NaN}]}'
    page = deals_from_json(body)
    assert page.is_synchronizing is True
    assert len(page.unreadable) == 1


@pytest.mark.parametrize(
    "body",
    [
        b'[{"id":NaN}, {"id":"2"',
        b'[{"id":NaN}] []',
        b'{"deals": {"id": NaN}}',
        b"[NaN, 1]",
        b'[{"id":NaN}}',
    ],
    ids=repr,
)
def test_what_has_not_the_outline_of_a_page_is_none(body: bytes) -> None:
    """A cut or an odd answer is never taken for a shorter page."""
    with pytest.raises(MalformedAnswer):
        deals_from_json(body)


@pytest.mark.parametrize("platform", ["mt4", "mt5"])
def test_a_bad_record_bears_the_id_of_the_deal_it_would_be(platform: str) -> None:
    """So the deal is known again once it can be read, and is not missed meanwhile."""
    fields = {"platform": platform, "entryType": "DEAL_ENTRY_IN", "type": "DEAL_TYPE_BUY"}
    good, bad = wire_text(record(**fields)), wire_text(record(profit="x", **fields))
    page = deals_from_json(f"[{good},{bad}]".encode())
    assert page.unreadable[1].deal_id == page.deals[0].deal_id
    assert page.unreadable[1].time == page.deals[0].time
    assert page.keys == [page.deals[0].deal_id, page.unreadable[1].digest]


ACCOUNT = {
    "_id": "1eda642a-a9a3-457c-99af-3bc5e8d5c4c9",
    "login": "123456",
    "server": "ICMarketsSC-Demo",
    "version": 5,
    "state": "DEPLOYED",
    "connectionStatus": "CONNECTED",
    "region": "new-york",
    "reliability": "high",
    "tags": [],
}


def test_an_account_is_read() -> None:
    """A provisioned account shows its state, platform and place."""
    account = account_from_json(json.dumps(ACCOUNT | {"login": 123456}).encode())
    assert account.account_id == ACCOUNT["_id"]
    assert (account.login, account.server) == ("123456", "ICMarketsSC-Demo")
    assert (account.state, account.connection_status) == ("DEPLOYED", "CONNECTED")
    assert (account.region, account.reliability) == ("new-york", "high")
    assert account.platform is Platform.MT5
    assert account_from_json(json.dumps(ACCOUNT | {"version": 4}).encode()).platform is Platform.MT4


def test_an_account_in_an_unknown_state_is_read() -> None:
    """States MetaApi invents later are kept as sent."""
    account = account_from_json(json.dumps(ACCOUNT | {"state": "HIBERNATING"}).encode())
    assert account.state == "HIBERNATING"


@pytest.mark.parametrize("field", ["_id", "state", "version", "region"])
def test_an_account_without_its_essentials_is_refused(field: str) -> None:
    """An answer that lacks what decides about the link is no answer."""
    body = json.dumps({key: value for key, value in ACCOUNT.items() if key != field}).encode()
    with pytest.raises(MalformedAnswer, match=field):
        account_from_json(body)


INFORMATION = {
    "platform": "mt5",
    "broker": "True ECN Trading Ltd",
    "currency": "USD",
    "server": "ICMarketsSC-Demo",
    "balance": 7319.900000000001,
    "credit": 50,
    "equity": 7306.6,
    "login": 123456,
    "type": "ACCOUNT_TRADE_MODE_DEMO",
    "marginMode": "ACCOUNT_MARGIN_MODE_RETAIL_HEDGING",
    "currencyDigits": 2,
}


def test_an_account_information_is_read() -> None:
    """Balance and credit follow the money rule; who is connected is text."""
    information = account_information_from_json(json.dumps(INFORMATION).encode())
    assert (information.balance, information.credit) == (Decimal("7319.9"), Decimal(50))
    assert (information.login, information.server) == ("123456", "ICMarketsSC-Demo")
    assert (information.currency, information.currency_digits) == ("USD", 2)
    assert information.margin_mode == "ACCOUNT_MARGIN_MODE_RETAIL_HEDGING"
    assert information.trade_mode == "ACCOUNT_TRADE_MODE_DEMO"


def test_an_account_information_may_lack_what_is_optional() -> None:
    """MT4 has no margin mode, older servers no digits; no credit is no money."""
    lean = {k: INFORMATION[k] for k in ("platform", "currency", "server", "balance", "login")}
    information = account_information_from_json(json.dumps(lean | {"platform": "mt4"}).encode())
    assert information.platform is Platform.MT4
    assert information.credit == 0
    assert (information.margin_mode, information.currency_digits) == (None, None)


@pytest.mark.parametrize("balance", [1e15, "7319.9", None], ids=repr)
def test_a_balance_that_is_no_amount_is_refused(balance: object) -> None:
    """The proof never compares with a balance it cannot trust."""
    with pytest.raises(MalformedAnswer, match="balance"):
        account_information_from_json(json.dumps(INFORMATION | {"balance": balance}).encode())
