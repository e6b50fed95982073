"""MetaApi's provisioning verbs on the wire, and every way in which it refuses them."""

import json
import traceback
from typing import TYPE_CHECKING

import httpx
import pytest
import respx

from brokerd.config.settings import Secret
from brokerd.connector.provisioning.ports import Created, NewAccount, Pending
from brokerd.domain import Platform, UserAction
from brokerd.errors import (
    AccountDisabled,
    AuthFailed,
    BrokerdError,
    Forbidden,
    InvalidRequest,
    MalformedAnswer,
    NoSymbols,
    NotFound,
    OtpRequired,
    PasswordChangeRequired,
    QuotaExceeded,
    RemoteUnavailable,
    ResourceSlots,
    ServerNotFound,
    TermsRequired,
    Throttled,
    TimezoneUndetected,
    TopUpRequired,
    ValidationLocked,
)

if TYPE_CHECKING:
    from tests.connector.metaapi_rest.conftest import Rig

ACCOUNTS = "http://provisioning.test/users/current/accounts"
ACCOUNT = f"{ACCOUNTS}/1eda642a-a9a3-457c-99af-3bc5e8d5c4c9"
PASSWORD = Secret("planted-password")
NEW = NewAccount(
    name="brokerd l-1",
    platform=Platform.MT5,
    login="5016",
    password=PASSWORD,
    server="Broker-Demo",
    region="london",
    type="cloud-g2",
    reliability="high",
)
TRANSACTION = "0123456789abcdef0123456789abcdef"
REQUEST_ID = " (d4f10b1c2a3e4f5061728394a5b6c7d8)"


def refusal(details: object = None, *, message: str = "Validation failed", **extra: object) -> dict:
    """Build the body of a refusal."""
    body = {"id": 3, "error": "ValidationError", "message": message + REQUEST_ID, **extra}
    return body if details is None else {**body, "details": details}


async def create(rig: "Rig") -> Created | Pending:
    """Ask for an account."""
    return await rig.provisioning().create("main", NEW, transaction_id=TRANSACTION)


# What is sent.


@respx.mock
async def test_a_creation_carries_its_transaction_and_everything_metaapi_needs(rig: "Rig") -> None:
    """The answer is the new account's id."""
    route = respx.post(ACCOUNTS).respond(201, json={"id": "m-1", "state": "DEPLOYED"})
    assert await create(rig) == Created(account_id="m-1")
    sent = route.calls.last.request
    assert sent.headers["transaction-id"] == TRANSACTION
    assert sent.headers["auth-token"] == rig.token
    assert sent.headers["content-type"] == "application/json"
    assert json.loads(sent.content) == {
        "name": "brokerd l-1",
        "login": "5016",
        "password": "planted-password",
        "server": "Broker-Demo",
        "platform": "mt5",
        "region": "london",
        "type": "cloud-g2",
        "reliability": "high",
        "magic": 0,
    }


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "60"}, 60.0),
        (
            {
                "date": "Fri, 01 Mar 2024 00:00:00 GMT",
                "retry-after": "Fri, 01 Mar 2024 00:00:30 GMT",
            },
            30.0,
        ),
        ({"retry-after": "0"}, 1.0),
        ({}, None),
        ({"retry-after": "soon"}, None),
    ],
    ids=["seconds", "date", "zero", "missing", "garbled"],
)
@respx.mock
async def test_a_detection_under_way_says_when_to_ask_again(
    rig: "Rig", headers: dict[str, str], seconds: float | None
) -> None:
    """F15: also when MetaApi names no time, which is where its own SDK fails."""
    body = {"id": 1, "error": "AcceptedError", "message": "please retry in 60 seconds"}
    respx.post(ACCOUNTS).respond(202, json=body, headers=headers)
    assert await create(rig) == Pending(retry_after_seconds=seconds)


@respx.mock
async def test_a_creation_is_sent_again_under_the_same_transaction(rig: "Rig") -> None:
    """MetaApi makes one account of it, however often it is asked."""
    route = respx.post(ACCOUNTS).mock(
        side_effect=[
            httpx.ReadError("cut"),
            httpx.Response(500, json=refusal()),
            httpx.Response(201, json={"id": "m-1", "state": "DEPLOYED"}),
        ]
    )
    assert await create(rig) == Created(account_id="m-1")
    assert [call.request.headers["transaction-id"] for call in route.calls] == [TRANSACTION] * 3


@respx.mock
async def test_an_update_sends_the_password_alone(rig: "Rig") -> None:
    """Whatever else the account has stays."""
    route = respx.put(ACCOUNT).respond(204)
    await rig.provisioning().update(rig.remote, password=PASSWORD)
    assert json.loads(route.calls.last.request.content) == {"password": "planted-password"}


@pytest.mark.parametrize(("verb", "times"), [("deploy", 1), ("undeploy", 3)])
@respx.mock
async def test_only_what_costs_nothing_twice_is_sent_again(
    rig: "Rig", verb: str, times: int
) -> None:
    """A deployment whose answer was lost may have been made."""
    route = respx.post(f"{ACCOUNT}/{verb}").respond(503)
    with pytest.raises(RemoteUnavailable):
        await getattr(rig.provisioning(), verb)(rig.remote)
    assert route.call_count == times


@respx.mock
async def test_an_update_is_sent_once(rig: "Rig") -> None:
    """Each check of credentials may be charged."""
    route = respx.put(ACCOUNT).mock(side_effect=httpx.ReadError("cut"))
    with pytest.raises(RemoteUnavailable):
        await rig.provisioning().update(rig.remote, password=PASSWORD)
    assert route.call_count == 1


@pytest.mark.parametrize("status", [204, 404])
@respx.mock
async def test_an_account_that_is_gone_counts_as_removed(rig: "Rig", status: int) -> None:
    """Whoever removed it."""
    route = respx.delete(ACCOUNT).respond(status, json=refusal() if status == 404 else None)
    await rig.provisioning().delete(rig.remote)
    assert route.call_count == 1


@respx.mock
async def test_accounts_are_listed_page_by_page_and_each_once(rig: "Rig") -> None:
    """A thousand a page; one that moved to the next page meanwhile comes once."""

    def record(number: int) -> dict[str, object]:
        return {
            "_id": f"m-{number}",
            "state": "DEPLOYED",
            "version": 5,
            "region": "london",
            "login": str(number),
            "server": "Demo",
            "connectionStatus": "CONNECTED",
        }

    def page(request: httpx.Request) -> httpx.Response:
        offset = int(request.url.params["offset"])
        first = max(0, offset - 1)  # one was removed before it: everything moved up
        return httpx.Response(200, json=[record(n) for n in range(first, 1500)][:1000])

    route = respx.get(ACCOUNTS).mock(side_effect=page)
    found = await rig.provisioning().accounts("main", login="77", states=("DEPLOYING", "CREATED"))
    assert len({account.account_id for account in found}) == len(found) == 1500
    assert route.call_count == 2
    params = route.calls.last.request.url.params
    assert params.get_list("state") == ["DEPLOYING", "CREATED"]
    assert (params["query"], params["limit"], params["offset"]) == ("77", "1000", "1000")


@respx.mock
async def test_a_list_in_its_second_form_is_read_as_well(rig: "Rig") -> None:
    """`{count, items}`, as MetaApi answers to other versions of its API."""
    item = {"_id": "m-1", "state": "DRAFT", "version": 4, "region": "london"}
    respx.get(ACCOUNTS).respond(200, json={"count": 1, "items": [item]})
    [account] = await rig.provisioning().accounts("main")
    assert (account.account_id, account.platform, account.login) == ("m-1", Platform.MT4, "")


@respx.mock
async def test_a_list_with_an_account_we_cannot_read_is_refused_whole(rig: "Rig") -> None:
    """It might be the very one that is looked for, and would be bought again."""
    respx.get(ACCOUNTS).respond(200, json=[{"_id": "m-1"}])
    with pytest.raises(MalformedAnswer):
        await rig.provisioning().accounts("main")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"id": 5}', b'{"id": "../x"}', b"<html>"])
@respx.mock
async def test_a_creation_without_a_usable_id_is_malformed(rig: "Rig", body: bytes) -> None:
    """The account exists; the lookup will find it."""
    respx.post(ACCOUNTS).respond(201, content=body)
    with pytest.raises(MalformedAnswer):
        await create(rig)


# How it refuses.

SUGGESTED = {"Broker Ltd": ["Broker-Demo", "Broker-Live"], "Other": ["Other-1"]}
REFUSALS = [
    pytest.param(400, refusal("E_AUTH"), AuthFailed, id="auth"),
    pytest.param(400, refusal({"code": "E_AUTH"}), AuthFailed, id="auth_object"),
    pytest.param(400, refusal(["E_AUTH"]), AuthFailed, id="auth_list"),
    pytest.param(
        400,
        refusal(message="We failed to authenticate to your broker using credentials provided."),
        AuthFailed,
        id="auth_words",
    ),
    pytest.param(400, refusal("E_SERVER_TIMEZONE"), TimezoneUndetected, id="timezone"),
    pytest.param(
        400,
        refusal(message="We were not able to retrieve server settings using credentials provided"),
        TimezoneUndetected,
        id="timezone_words",
    ),
    pytest.param(
        400,
        refusal({"code": "E_SRV_NOT_FOUND", "serversByBrokers": SUGGESTED}),
        ServerNotFound,
        id="server",
    ),
    pytest.param(400, refusal("E_SRV_NOT_FOUND"), ServerNotFound, id="server_string"),
    pytest.param(
        400,
        refusal(message="We were unable to find .dat file for server Broker-Demo"),
        ServerNotFound,
        id="server_words",
    ),
    pytest.param(
        400,
        refusal({"code": "E_RESOURCE_SLOTS", "recommendedResourceSlots": 3}),
        ResourceSlots,
        id="slots",
    ),
    pytest.param(400, refusal("E_NO_SYMBOLS"), NoSymbols, id="symbols"),
    pytest.param(
        400, refusal(message="There are no symbols on the account"), NoSymbols, id="symbols_words"
    ),
    pytest.param(400, refusal("ERR_OTP_REQUIRED"), OtpRequired, id="otp"),
    pytest.param(
        400, refusal(message="The account uses a one-time password"), OtpRequired, id="otp_words"
    ),
    pytest.param(400, refusal("E_PASSWORD_CHANGE_REQUIRED"), PasswordChangeRequired, id="change"),
    pytest.param(400, refusal("E_TRADING_ACCOUNT_DISABLED"), AccountDisabled, id="disabled"),
    pytest.param(
        400, refusal(message="Please accept the broker's terms first"), TermsRequired, id="terms"
    ),
    pytest.param(400, refusal(error="QuotaExceededError"), QuotaExceeded, id="quota"),
    pytest.param(400, refusal(message="Quota Exceeded Error"), QuotaExceeded, id="quota_words"),
    pytest.param(
        400,
        refusal([{"parameter": "login", "value": "x", "message": "Only digits are allowed"}]),
        InvalidRequest,
        id="fields",
    ),
    pytest.param(400, refusal("E_SOMETHING_NEW"), InvalidRequest, id="unknown_code"),
    pytest.param(400, b"<html>", InvalidRequest, id="html"),
    pytest.param(
        400, refusal(message="Insufficient balance, please top up"), TopUpRequired, id="money_400"
    ),
    pytest.param(402, b"", TopUpRequired, id="money_402"),
    pytest.param(403, refusal(message="Please top up your account"), TopUpRequired, id="money_403"),
    pytest.param(403, refusal(message="Forbidden"), Forbidden, id="forbidden"),
    pytest.param(404, refusal(), NotFound, id="gone"),
    pytest.param(429, refusal(message="Too many requests"), Throttled, id="throttled"),
    pytest.param(
        429,
        refusal(
            message="Validation for trading account 5016 was rejected too many times. Please check"
            " the credentials and retry in 1 hour"
        ),
        ValidationLocked,
        id="locked",
    ),
]
CALLS = {
    "create": ("POST", ACCOUNTS, create),
    "update": (
        "PUT",
        ACCOUNT,
        lambda rig: rig.provisioning().update(rig.remote, password=PASSWORD),
    ),
    "deploy": ("POST", f"{ACCOUNT}/deploy", lambda rig: rig.provisioning().deploy(rig.remote)),
}


async def refused(rig: "Rig", call: str, status: int, body: object) -> BrokerdError:
    """Let MetaApi refuse a call; return what it raises."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    verb, url, ask = CALLS[call]
    with respx.mock:
        respx.route(method=verb, url=url).respond(status, content=content)
        with pytest.raises(BrokerdError) as caught:
            await ask(rig)
    return caught.value


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("status", "body", "expected"), REFUSALS)
async def test_every_refusal_has_its_error(
    rig: "Rig", call: str, status: int, body: object, expected: type
) -> None:
    """Whatever the shape of its details, and from whichever call it comes."""
    error = await refused(rig, call, status, body)
    assert type(error) is expected
    assert REQUEST_ID.strip() not in str(error)


async def test_servers_to_choose_from_are_told(rig: "Rig") -> None:
    """In a line of bounded length, whatever MetaApi calls them."""
    error = await refused(rig, "create", 400, REFUSALS[6].values[1])
    assert "MetaApi suggests Broker-Demo, Broker-Live, Other-1" in str(error)
    assert error.user_action is UserAction.FIX_IDENTITY
    many = {"B": [f"Server-{n}" + "x" * 500 for n in range(100)], "C": "no list", "D": [5, "a\nb"]}
    long = await refused(
        rig, "create", 400, refusal({"code": "E_SRV_NOT_FOUND", "serversByBrokers": many})
    )
    assert len(str(long)) < 1000
    assert "\n" not in str(long)


async def test_slots_that_are_needed_are_told(rig: "Rig") -> None:
    """The operator has to buy them."""
    error = await refused(rig, "create", 400, REFUSALS[9].values[1])
    assert "needs 3 resource slots" in str(error)


@pytest.mark.parametrize(
    ("details", "action"),
    [
        ("E_AUTH", UserAction.UPDATE_CREDENTIALS),
        ("ERR_OTP_REQUIRED", UserAction.ACCEPT_BROKER_TERMS),
        ("E_PASSWORD_CHANGE_REQUIRED", UserAction.ACCEPT_BROKER_TERMS),
        ("E_TRADING_ACCOUNT_DISABLED", UserAction.CONTACT_BROKER),
        ("E_NO_SYMBOLS", UserAction.CONTACT_BROKER),
        ("E_SERVER_TIMEZONE", UserAction.CONTACT_OPERATOR),
        ("E_SRV_NOT_FOUND", UserAction.FIX_IDENTITY),
    ],
)
async def test_every_refusal_says_who_must_act(
    rig: "Rig", details: str, action: UserAction
) -> None:
    """The user, the broker, the operator."""
    assert (await refused(rig, "create", 400, refusal(details))).user_action is action


async def test_a_lock_lasts_as_long_as_it_says_or_an_hour(rig: "Rig") -> None:
    """Its body is known only by hearsay: without a hint the hour of its text counts."""
    body = REFUSALS[-1].values[1]
    bare = await refused(rig, "deploy", 429, body)
    assert bare.retry_after_seconds == 3600
    hinted = {**body, "metadata": {"recommendedRetryTime": "2024-03-01T12:10:00.000Z"}}
    error = await refused(rig, "deploy", 429, hinted)
    assert error.retry_after_seconds != 3600
    assert error.scope == "account"


@pytest.mark.parametrize("call", ["create", "update"])
@pytest.mark.parametrize("status", [400, 403, 429, 500])
async def test_an_echoed_password_is_told_to_nobody(rig: "Rig", call: str, status: int) -> None:
    """Neither the message, nor the traceback, nor any local of ours shows it."""
    echo = [{"parameter": "password", "value": PASSWORD.reveal(), "message": "Too short."}]
    body = refusal(echo, message=f"password {PASSWORD.reveal()} is not welcome")
    error = await refused(rig, call, status, body)
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = "".join(str(frame.locals) for frame in shown.stack if "/brokerd/" in frame.filename)
    told = ours + str(error) + repr(error) + "".join(traceback.format_exception(error))
    assert PASSWORD.reveal() not in told
