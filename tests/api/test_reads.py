"""What the ledger, the probes and the metrics answer."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from brokerd.api.query import PAGE_DEALS
from brokerd.domain import AccountId, Deal, DealId, Source, UserId
from brokerd.store.memory import DealRow

DAY = datetime(2026, 3, 2, tzinfo=UTC)
PATH = "/v1/links/a"


def trade(api, number, *, kind="DEAL_TYPE_SELL", symbol="EURUSD"):
    """Put a deal into the ledger of the first account."""
    deal = Deal(
        deal_id=DealId(str(number)),
        type=kind,
        entry="DEAL_ENTRY_OUT",
        symbol=symbol,
        volume=Decimal("0.10000000"),
        price=Decimal("1.10234000"),
        time=DAY + timedelta(seconds=number),
        broker_time="2026-03-02 02:00:00.000",
        profit=Decimal("-85.26000000"),
        commission=Decimal("1E+3"),
        swap=Decimal("-0E-8"),
        order_id="7",
        position_id=None,
        raw='{"secret": 1}',
    )
    account_id = AccountId(1)
    api.state.deals[account_id, deal.deal_id] = DealRow(
        account_id=account_id,
        user_id=UserId("u-17"),
        deal=deal,
        revision=2,
        content_hash=1,
        source=Source.STREAM,
        write_id=1,
        committed_at=DAY,
    )


async def test_a_deal_is_shown_whole_with_exact_money(api):
    """Amounts are decimal text without exponents; what was received raw stays inside."""
    await api.client.put(PATH, json=api.put_body())
    trade(api, 1)
    (shown,) = (await api.client.get("/v1/deals?link=a")).json()["items"]
    assert shown == {
        "dealId": "1",
        "linkId": "a",
        "userId": "u-17",
        "type": "DEAL_TYPE_SELL",
        "kind": "trade",
        "entry": "DEAL_ENTRY_OUT",
        "symbol": "EURUSD",
        "volume": "0.1",
        "price": "1.10234",
        "time": "2026-03-02T00:00:01Z",
        "brokerTime": "2026-03-02 02:00:00.000",
        "profit": "-85.26",
        "commission": "1000",
        "swap": "0",
        "orderId": "7",
        "positionId": None,
        "revision": 2,
        "source": "stream",
        "committedAt": "2026-03-02T00:00:00Z",
    }


@pytest.mark.parametrize("order", ["newest", "oldest"])
async def test_pages_of_deals_join(api, order):
    """`next` and the Link header lead through all deals once, in either order."""
    await api.client.put(PATH, json=api.put_body())
    for number in range(5):
        trade(api, number)
    address, found = f"/v1/deals?user=u-17&order={order}&limit=2", []
    while address:
        answer = await api.client.get(address)
        assert answer.status_code == 200
        found += [item["dealId"] for item in answer.json()["items"]]
        link = answer.headers.get("link")
        address = link and link.removeprefix("<").removesuffix('>; rel="next"')
    expected = ["0", "1", "2", "3", "4"]
    assert found == (expected if order == "oldest" else expected[::-1])


async def test_deals_are_filtered(api):
    """Symbol, kind and time narrow the answer; the newest come first unless told otherwise."""
    await api.client.put(PATH, json=api.put_body())
    for number in range(3):
        trade(api, number)
    trade(api, 3, kind="DEAL_TYPE_BALANCE", symbol=None)

    async def ids(**query):
        answer = await api.client.get("/v1/deals", params={"link": "a", **query})
        return [item["dealId"] for item in answer.json()["items"]]

    assert await ids() == ["3", "2", "1", "0"]
    assert await ids(kind="cash") == ["3"]
    assert await ids(symbol="EURUSD", to="2026-03-02T02:00:01+02:00") == ["0"]
    assert await ids(**{"from": "2026-03-02T00:00:02Z"}) == ["3", "2"]


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("", "?"),
        ("link=a&user=b", "?"),
        ("link=a&kind=fee", "?kind"),
        ("link=a&order=desc", "?order"),
        ("link=a&from=2026-03-02", "?from"),
        ("link=a&to=2026-03-02T00:00:00", "?to"),
        ("link=a&from=0001-01-01T00:00:00%2B05:00", "?from"),
        ("link=a&symbol=", "?symbol"),
        ("link=a&symbol=%0A", "?symbol"),
        ("link=a&after=WyJsIiwieCJd", "?after"),
        ("link=a&after=WyJkIiwiMjAyNi0wMS0wMVQwMDowMDowMCIsIngiLDFd", "?after"),
    ],
)
async def test_bad_queries(api, query, path):
    """What is asked must be certain."""
    answer = await api.client.get(f"/v1/deals?{query}")
    assert answer.status_code == 422
    assert answer.json()["violations"][0]["path"] == path


async def test_liveness_depends_on_nothing(api):
    """Neither the store nor the stage nor a key matter."""
    api.registry.is_reachable = False
    api.readiness.enter("starting")
    del api.client.headers["authorization"]
    assert (await api.client.get("/livez")).status_code == 200


async def test_readiness_tells_the_stage(api):
    """503 with the stage until the first plan, and while draining or without a store."""
    del api.client.headers["authorization"]
    for stage in ("starting", "draining"):
        api.readiness.enter(stage)
        answer = await api.client.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"ready": False, "stage": stage})
        assert answer.headers["retry-after"] == "1"
    api.readiness.enter("ready")
    api.registry.is_reachable = False
    answer = await api.client.get("/readyz")
    assert (answer.status_code, answer.json()["stage"]) == (503, "store_unavailable")
    api.registry.is_reachable = True
    api.readiness._pinged_at = None
    answer = await api.client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "stage": "ready"})


async def test_probes_do_not_hammer_the_store(api):
    """However often readiness is asked, the store is at most once a second."""
    pings = 0

    async def ping():
        nonlocal pings
        pings += 1

    api.registry.ping = ping
    for _ in range(20):
        await api.client.get("/readyz")
    assert pings == 1


async def test_metrics_can_be_scraped(api):
    """Without a key, in the text format, with one charset."""
    del api.client.headers["authorization"]
    answer = await api.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].count("charset") == 1
    assert answer.headers["content-type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert "brokerd_links" in names
    assert not any(name.endswith("_created") for name in names)


async def test_totals_are_shown_by_day_with_exact_money(api):
    """Amounts are decimal text, the day is a date, and pages join."""
    await api.client.put(PATH, json=api.put_body())
    for number in (1, 2, 86_400):
        trade(api, number)
    first = (await api.client.get("/v1/totals?user=u-17&limit=1")).json()
    assert first["items"] == [
        {
            "linkId": "a",
            "userId": "u-17",
            "currency": "USD",
            "day": "2026-03-02",
            "deals": 2,
            "trades": 2,
            "volume": "0.2",
            "profit": "-170.52",
            "commission": "2000",
            "swap": "0",
            "balance": "1829.48",
            "credit": "0",
        }
    ]
    answer = await api.client.get(f"/v1/totals?user=u-17&limit=1&after={first['next']}")
    (second,) = answer.json()["items"]
    assert (second["day"], second["deals"]) == ("2026-03-03", 1)
    assert 'rel="next"' in answer.headers["link"]
    end = (await api.client.get(f"/v1/totals?user=u-17&after={answer.json()['next']}")).json()
    assert end == {"items": [], "next": None}


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("", "?"),
        ("link=a&user=u-17", "?"),
        ("link=a&symbol=EURUSD", "?symbol"),
        ("link=a&from=2026-03-02", "?from"),
        ("link=a&limit=0", "?limit"),
    ],
)
async def test_bad_queries_of_totals_are_refused(api, query, path):
    """Each with the parameter that is wrong."""
    answer = await api.client.get(f"/v1/totals?{query}")
    assert answer.status_code == 422
    assert [each["path"] for each in answer.json()["violations"]] == [path]


async def test_a_page_of_totals_that_many_deals_fill_has_a_next_one(api):
    """Two days of many deals are two pages, though a page may hold a fortnight."""
    await api.client.put(PATH, json=api.put_body())
    for number in range(PAGE_DEALS):
        trade(api, number)
    trade(api, 86_400)
    first = (await api.client.get("/v1/totals?link=a")).json()
    assert [day["deals"] for day in first["items"]] == [PAGE_DEALS]
    second = (await api.client.get(f"/v1/totals?link=a&after={first['next']}")).json()
    assert [day["deals"] for day in second["items"]] == [1]
    assert second["next"] is None


async def test_a_cursor_of_deals_is_none_of_totals(api):
    """Cursors are told apart by what they lead through."""
    await api.client.put(PATH, json=api.put_body())
    for number in (1, 2):
        trade(api, number)
    after = (await api.client.get("/v1/deals?link=a&limit=1")).json()["next"]
    assert (await api.client.get(f"/v1/totals?link=a&after={after}")).status_code == 422
