import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import httpx
import pytest
import respx

from brokerd.connector.metaapi_rest.client import MetaApiRest
from brokerd.connector.metaapi_rest.transport import open_http
from brokerd.domain import DealId, MetaApiRef, Platform
from brokerd.errors import (
    BrokerdError,
    Forbidden,
    InvalidRequest,
    MalformedAnswer,
    NotConnected,
    NotFound,
    RemoteUnavailable,
    Throttled,
    TopUpRequired,
    Transient,
    Unauthorized,
)

if TYPE_CHECKING:
    from tests.connector.metaapi_rest.conftest import Rig

START, END = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 2, tzinfo=UTC)
ID = "1eda642a-a9a3-457c-99af-3bc5e8d5c4c9"
PROVISIONING = f"http://provisioning.test/users/current/accounts/{ID}"
CLIENT = f"http://client.london.test/users/current/accounts/{ID}"
SPAN = "2024-03-01T00:00:00.000Z/2024-03-02T00:00:00.000Z"
URLS = {
    "account": PROVISIONING,
    "account_information": f"{CLIENT}/account-information?refreshTerminalState=true",
    "deals": f"{CLIENT}/history-deals/time/{SPAN}?offset=0&limit=1000",
    "deals_by_ticket": f"{CLIENT}/history-deals/ticket/46214692",
}
DEAL = {
    "id": "46214692",
    "platform": "mt4",
    "type": "DEAL_TYPE_BUY",
    "entryType": "DEAL_ENTRY_IN",
    "time": "2024-03-01T12:00:00.250Z",
    "brokerTime": "2024-03-01 14:00:00.250",
    "profit": -85.25999999999966,
}
BODIES: dict[str, object] = {
    "account": {
        "_id": ID,
        "state": "UNDEPLOYED",
        "connectionStatus": "DISCONNECTED",
        "version": 4,
        "login": "5016",
        "server": "Broker-Demo",
        "region": "london",
        "reliability": "high",
    },
    "account_information": {
        "platform": "mt5",
        "login": 5016,
        "server": "Broker-Demo",
        "currency": "USD",
        "balance": 100.5,
        "credit": 0,
    },
    "deals": [DEAL],
    "deals_by_ticket": [DEAL],
}
Call = Callable[[MetaApiRest, MetaApiRef], Awaitable[object]]
CALLS: dict[str, Call] = {
    "account": lambda client, remote: client.account(remote),
    "account_information": lambda client, remote: client.account_information(remote),
    "deals": lambda client, remote: client.deals(remote, start=START, end=END, offset=0),
    "deals_by_ticket": lambda client, remote: client.deals_by_ticket(
        remote, deal_id=DealId("46214692:IN")
    ),
}
every_call = pytest.mark.parametrize("method", CALLS)


def error(status: int, message: str = "Something failed", **headers: str) -> httpx.Response:
    """Answer as MetaApi fails."""
    body = {"id": 1, "error": "SomeError", "message": message}
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return httpx.Response(status, json=body, headers=named)


@every_call
@respx.mock
async def test_each_call_asks_its_address(rig: "Rig", method: str) -> None:
    """The address is MetaApi's, the token travels in its header and nowhere else."""
    route = respx.get(URLS[method]).respond(json=BODIES[method])
    await CALLS[method](rig.client(), rig.remote)
    sent = route.calls.last.request
    assert str(sent.url) == URLS[method]
    assert sent.headers["auth-token"] == rig.token
    assert rig.token not in str(sent.url)
    assert rig.count("brokerd_metaapi_requests", method=method, outcome="ok") == 1


@respx.mock
async def test_answers_become_our_values(rig: "Rig") -> None:
    """What comes back is read by the wire's rules."""
    for method, url in URLS.items():
        respx.get(url).respond(json=BODIES[method])
    client = rig.client()
    account = await client.account(rig.remote)
    assert (account.state, account.platform) == ("UNDEPLOYED", Platform.MT4)
    assert (await client.account_information(rig.remote)).balance == Decimal("100.5")
    page = await client.deals(rig.remote, start=START, end=END, offset=0)
    assert [(deal.deal_id, deal.profit) for deal in page.deals] == [
        ("46214692:IN", Decimal("-85.26"))
    ]


@pytest.mark.parametrize(
    ("body", "count", "is_synchronizing"),
    [
        ([], 0, False),
        ({"deals": [], "synchronizing": True}, 0, True),
        ({"deals": [DEAL], "synchronizing": True}, 1, True),
        ({"deals": [DEAL], "synchronizing": False}, 1, False),
    ],
    ids=["empty", "empty_synchronizing", "synchronizing", "object"],
)
@respx.mock
async def test_synchronizing_is_passed_on(
    rig: "Rig",
    body: object,
    count: int,
    is_synchronizing: bool,  # noqa: FBT001
) -> None:
    """Both shapes of a page are read; an unfinished copy says so."""
    respx.get(URLS["deals"]).respond(json=body)
    page = await rig.client().deals(rig.remote, start=START, end=END, offset=0)
    assert (len(page.deals), page.is_synchronizing) == (count, is_synchronizing)


@pytest.mark.parametrize(
    ("answer", "expected", "attempts"),
    [
        pytest.param(error(400), InvalidRequest, 1, id="400"),
        pytest.param(error(401), Unauthorized, 1, id="401"),
        pytest.param(error(402), TopUpRequired, 1, id="402"),
        pytest.param(error(403), Forbidden, 1, id="403"),
        pytest.param(error(404), NotFound, 1, id="404"),
        pytest.param(error(409), Transient, 3, id="409"),
        pytest.param(error(429, retry_after="2"), Throttled, 3, id="429_short"),
        pytest.param(error(429, retry_after="60"), Throttled, 1, id="429_long"),
        pytest.param(error(429), Throttled, 1, id="429_unsaid"),
        pytest.param(error(500), RemoteUnavailable, 3, id="500"),
        pytest.param(error(503, retry_after="60"), RemoteUnavailable, 1, id="503_long"),
        pytest.param(error(504, "not connected to broker yet"), NotConnected, 1, id="504_broker"),
        pytest.param(httpx.Response(502, html="<html>"), RemoteUnavailable, 3, id="502_html"),
        pytest.param(httpx.Response(200, html="<html>"), MalformedAnswer, 3, id="200_html"),
        pytest.param(
            httpx.Response(302, headers={"location": "http://evil.test/"}),
            MalformedAnswer,
            3,
            id="302",
        ),
    ],
)
@respx.mock
async def test_every_row_ends_in_its_error(
    rig: "Rig", answer: httpx.Response, expected: type, attempts: int
) -> None:
    """Blips are ridden out, what lasts or is refused is raised at once; the text tells of whom."""
    route = respx.get(URLS["deals"]).mock(return_value=answer)
    with pytest.raises(BrokerdError) as caught:
        await rig.client().deals(rig.remote, start=START, end=END, offset=0)
    assert type(caught.value) is expected
    assert route.call_count == attempts
    assert len(rig.waits) == attempts - 1
    for told in ("reading deals", ID, "token 'main'", "region 'london'"):
        assert told in str(caught.value)
    labels = {"method": "deals", "outcome": expected.code}
    assert rig.count("brokerd_metaapi_requests", **labels) == attempts


MALFORMED = {
    "truncated": b'[{"id":"46214692","type":"DEAL_TY',
    "html": b"<!doctype html><title>Welcome</title>",
    "empty": b"",
    "null": b"null",
    "text": b'"ok"',
    "error_body": b'{"id":1,"error":"InternalError","message":"Something failed"}',
    "wrong_types": b'{"_id":[],"deals":{},"balance":"1"}',
    "not_utf8": b"\xff\xfe",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
@every_call
@respx.mock
async def test_a_200_we_cannot_read_is_a_failure(rig: "Rig", method: str, body: bytes) -> None:
    """A broken answer is retried, then raised, and never read as an empty one."""
    route = respx.get(URLS[method]).respond(content=body)
    with pytest.raises(MalformedAnswer, match=ID):
        await CALLS[method](rig.client(), rig.remote)
    assert route.call_count == 3


@respx.mock
async def test_a_bad_deal_is_named(rig: "Rig") -> None:
    """One record that cannot be read stands apart, told by deal and field."""
    respx.get(URLS["deals"]).respond(json=[DEAL | {"profit": None}])
    page = await rig.client().deals(rig.remote, start=START, end=END, offset=0)
    assert "46214692" in page.unreadable[0].problem
    assert "profit" in page.unreadable[0].problem


BROKEN = [
    httpx.ConnectError("Name or service not known"),
    httpx.ConnectTimeout(""),
    httpx.ReadTimeout(""),
    httpx.WriteTimeout(""),
    httpx.PoolTimeout(""),
    httpx.ReadError(""),
    httpx.WriteError(""),
    httpx.CloseError(""),
    httpx.RemoteProtocolError("Server disconnected"),
    httpx.ProxyError("502"),
    httpx.UnsupportedProtocol(""),
    httpx.TooManyRedirects(""),
]


@pytest.mark.parametrize("problem", BROKEN, ids=lambda problem: type(problem).__name__)
@every_call
@respx.mock
async def test_transport_failures_are_transient(
    rig: "Rig", method: str, problem: Exception
) -> None:
    """Whatever breaks between us and MetaApi is unavailability."""
    route = respx.get(URLS[method]).mock(side_effect=problem)
    with pytest.raises(RemoteUnavailable, match=ID):
        await CALLS[method](rig.client(), rig.remote)
    assert route.call_count == 3


@respx.mock
async def test_broken_compression_is_malformed(rig: "Rig") -> None:
    """A body that cannot be unpacked is one we cannot read."""

    def garbled(_: httpx.Request) -> httpx.Response:
        packed = httpx.ByteStream(b"[]")
        return httpx.Response(200, stream=packed, headers={"content-encoding": "gzip"})

    respx.get(URLS["deals"]).mock(side_effect=garbled)
    with pytest.raises(MalformedAnswer, match="compression"):
        await rig.client().deals(rig.remote, start=START, end=END, offset=0)


@respx.mock
async def test_a_slow_answer_is_given_up(rig: "Rig") -> None:
    """An attempt ends at its limit, even where each single step is in time."""

    async def trickle(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(30)
        return httpx.Response(200, json=[])

    respx.get(URLS["deals"]).mock(side_effect=trickle)
    client = rig.client(request_timeout_seconds=0.02, request_attempts=1)
    with pytest.raises(RemoteUnavailable, match=r"no answer within 0\.02 s"):
        await client.deals(rig.remote, start=START, end=END, offset=0)


@respx.mock
async def test_a_blip_is_ridden_out(rig: "Rig") -> None:
    """Two failures and a success are a success."""
    route = respx.get(URLS["deals"])
    route.side_effect = [error(500), httpx.ReadError(""), httpx.Response(200, json=[DEAL])]
    page = await rig.client().deals(rig.remote, start=START, end=END, offset=0)
    assert len(page.deals) == 1
    assert len(rig.waits) == 2
    assert rig.count("brokerd_metaapi_requests", method="deals", outcome="ok") == 1


@respx.mock
async def test_a_short_hint_is_honoured(rig: "Rig") -> None:
    """A wait the server asks for is waited, never less; the throttling is counted by scope."""
    body = {"error": "TooManyRequestsError", "metadata": {"exceededConfig": "perAccount"}}
    busy = httpx.Response(429, json=body, headers={"retry-after": "3"})
    respx.get(URLS["deals"]).side_effect = [busy, httpx.Response(200, json=[])]
    await rig.client().deals(rig.remote, start=START, end=END, offset=0)
    assert len(rig.waits) == 1
    assert 3.0 <= rig.waits[0] <= 8.0
    assert rig.count("brokerd_metaapi_throttled", scope="account") == 1


@respx.mock
async def test_each_request_has_attempts_of_its_own(rig: "Rig") -> None:
    """Many calls at once do not use up each other's retries."""
    respx.get(URLS["deals"]).mock(return_value=error(500))
    client = rig.client()
    calls = [client.deals(rig.remote, start=START, end=END, offset=0) for _ in range(20)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {RemoteUnavailable}
    assert rig.count("brokerd_metaapi_requests", method="deals", outcome="remote_unavailable") == 60


@respx.mock
async def test_an_unknown_token_asks_nobody(rig: "Rig") -> None:
    """A spec that names a token we do not have is refused before anything is sent."""
    with pytest.raises(Unauthorized, match="'missing'"):
        await rig.client().account(replace(rig.remote, token="missing"))
    assert respx.calls.call_count == 0


@pytest.mark.parametrize(
    ("method", "change"),
    [
        *((method, {"account_id": "../x"}) for method in CALLS),
        *((method, {"region": "evil.test/"}) for method in CALLS if method != "account"),
    ],
    ids=repr,
)
@respx.mock
async def test_a_spec_cannot_redirect_the_token(
    rig: "Rig", method: str, change: dict[str, str]
) -> None:
    """Ids and regions that would change the address are refused before anything is sent."""
    with pytest.raises(InvalidRequest):
        await CALLS[method](rig.client(), replace(rig.remote, **change))
    assert respx.calls.call_count == 0


@respx.mock
async def test_no_cookie_is_kept(rig: "Rig") -> None:
    """A cookie from one token's answer is not sent with another's request."""
    route = respx.get(URLS["account"]).respond(
        json=BODIES["account"], headers={"set-cookie": "session=1; Path=/"}
    )
    client = rig.client()
    await client.account(rig.remote)
    await client.account(replace(rig.remote, token="other"))
    assert "cookie" not in route.calls.last.request.headers


@respx.mock
async def test_requests_are_paced(rig: "Rig") -> None:
    """No more leave in a second than configured, however many wait."""
    respx.get(URLS["account"]).respond(json=BODIES["account"])
    client = rig.client(requests_per_second=10)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await asyncio.gather(*(client.account(rig.remote) for _ in range(12)))
    assert 1.0 <= loop.time() - started < 3.0
    assert respx.calls.call_count == 12


async def test_connections_are_kept(rig: "Rig") -> None:
    """Calls one after the other share a connection."""
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        body = json.dumps(BODIES["account"]).encode()
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = rig.client(provisioning_url=f"http://127.0.0.1:{port}")
        for _ in range(5):
            await client.account(rig.remote)
        await rig.http.aclose()
    assert opened == 1


async def test_loopback_needs_no_proxy(rig: "Rig", monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment serves the internet, not the sandbox on this machine."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with open_http(rig.settings) as http:
        for url in ("http://127.0.0.1:9/", "http://localhost:9/"):
            assert http._transport_for_url(httpx.URL(url)) is http._transport
