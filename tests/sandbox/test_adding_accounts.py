"""Adding accounts over REST: every answer and refusal in MetaApi's form, and its price."""

import asyncio
from dataclasses import replace
from email.utils import parsedate_to_datetime

import pytest
from provisioning_client import ACCOUNTS, FAST, details, provisioning_client

from brokerd.domain import Platform
from brokerd.sandbox.bill import ChargeKind
from brokerd.sandbox.faults import Fault, StagedFault
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.trading import AccountSpec
from brokerd.sandbox.validation import ValidationCode as Code

BARE_CODES = [
    Code.AUTH,
    Code.SERVER_TIMEZONE,
    Code.NO_SYMBOLS,
    Code.OTP_REQUIRED,
    Code.PASSWORD_CHANGE_REQUIRED,
    Code.TRADING_ACCOUNT_DISABLED,
]


async def test_an_account_is_added_deployed_and_connected():
    """201 names it while it deploys; then its terminal shows what the broker knows."""
    async with provisioning_client() as client:
        answer = await client.create(tags=["ours"], metadata={"key": 1}, region="london")
        assert (answer.status_code, answer.json()["state"]) == (201, "DEPLOYING")
        account_id = answer.json()["id"]
        await client.until(account_id, state="DEPLOYED")
        shown = await client.shown(account_id)
        assert (shown["name"], shown["region"], shown["reliability"]) == ("ours", "london", "high")
        assert (shown["tags"], shown["metadata"]) == (["ours"], {"key": 1})
        assert shown["connectionStatus"] == "CONNECTED"
        information = await client.http.get(f"{ACCOUNTS}/{account_id}/account-information")
        assert information.json()["balance"] == float(client.login.balance)
        assert client.charged(ChargeKind.ACCOUNT_ADDED) == 1
        assert client.charged(ChargeKind.DEPLOYMENT) == 1
        assert client.charged(ChargeKind.FAILED_ATTEMPT) == 0


async def test_both_passwords_open_an_account():
    """The investor's password is as good as the master's."""
    async with provisioning_client() as client:
        await client.created(password=client.login.access.investor_password)


@pytest.mark.parametrize("form", ["seconds", "date", "none"])
async def test_creating_is_accepted_until_settings_are_detected(form):
    """202 says when to come again; the same order then makes one account, however often sent."""
    rules = replace(FAST, detection_polls=2, retry_after=form)
    async with provisioning_client(rules) as client:
        transaction_id = "a" * 32
        for _ in range(2):
            answer = await client.create(transaction_id)
            assert answer.status_code == 202
            body = answer.json()
            assert body["error"] == "AcceptedError"
            assert "please retry in 1 seconds" in body["message"]
            header = answer.headers.get("Retry-After")
            if form == "date":
                assert parsedate_to_datetime(header).tzinfo is not None
            else:
                assert header == ("1" if form == "seconds" else None)
        made = [(await client.create(transaction_id)).json()["id"] for _ in range(3)]
        assert made == [next(iter(client.sandbox.broker.accounts))] * 3
        assert client.charged(ChargeKind.ACCOUNT_ADDED) == 1


async def test_a_refusal_ends_a_transaction():
    """The same id sent again is a new attempt: detected anew, and charged anew."""
    async with provisioning_client(replace(FAST, detection_polls=1)) as client:
        for _ in range(2):
            assert (await client.create("f" * 32, password="wrong")).status_code == 202
            assert details(await client.create("f" * 32, password="wrong")) == "E_AUTH"
        assert client.charged(ChargeKind.FAILED_ATTEMPT) == 2


async def test_detection_takes_its_time():
    """However often it is asked, it is not over sooner."""
    rules = replace(FAST, detection_seconds=1500)
    async with provisioning_client(rules) as client:
        assert [(await client.create("b" * 32)).status_code for _ in range(5)] == [202] * 5
        await asyncio.sleep(1.6)
        assert (await client.create("b" * 32)).status_code == 201


@pytest.mark.parametrize("transaction_id", ["", "short", "x" * 33])
async def test_a_transaction_id_has_32_characters(transaction_id):
    """Anything else is a field error, and no account."""
    async with provisioning_client() as client:
        headers = {"transaction-id": transaction_id}
        answer = await client.http.post(ACCOUNTS, json=client.order(), headers=headers)
        assert details(answer)[0]["parameter"] == "transaction-id"
        assert client.sandbox.broker.accounts == {}


async def test_two_orders_of_one_login_are_two_accounts():
    """A client that buys twice gets what it pays for: both show the same deals."""
    async with provisioning_client() as client:
        first, second = await client.created(), await client.created()
        assert first != second
        assert client.charged(ChargeKind.ACCOUNT_ADDED) == 2
        accounts = client.sandbox.broker.accounts
        client.sandbox.market.trade(client.login, deals=3)
        assert accounts[first].deals() == accounts[second].deals()
        assert accounts[first].balance == accounts[second].balance


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"name": None, "server": None, "magic": None}, {"name", "server", "magic"}),
        ({"platform": None}, {"platform"}),
        ({"login": "12a"}, {"login"}),
        ({"login": None}, {"login"}),
        ({"password": None}, {"password"}),
        ({"password": ""}, {"password"}),
        ({"magic": 5, "manualTrades": True}, {"magic"}),
        ({"metadata": {"key": "x" * 1024}}, {"metadata"}),
        ({"resourceSlots": 0}, {"resourceSlots"}),
        ({"region": "atlantis"}, {"region"}),
        ({"platform": "mt6"}, {"platform"}),
        ({"magic": "many"}, {"magic"}),
    ],
)
async def test_field_errors_come_as_a_list(changes, parameters):
    """Each names its parameter and says what is wrong; none is charged."""
    async with provisioning_client() as client:
        errors = details(await client.create(**changes))
        assert {error["parameter"] for error in errors} == parameters
        assert all(error["message"] for error in errors)
        assert client.owed() == 0


@pytest.mark.parametrize("verb", ["create", "update", "deploy", "redeploy"])
@pytest.mark.parametrize("code", BARE_CODES)
async def test_every_verb_that_logs_in_tells_what_the_broker_said(verb, code):
    """The code is the details; two of the codes are charged, once each."""
    async with provisioning_client() as client:
        account_id = None
        if verb != "create":
            account_id = await client.created()
            await client.tell(account_id, "undeploy")
            await client.until(account_id, state="UNDEPLOYED")
        if code is Code.AUTH:
            client.login.change_password("another")
            client.login.access.investor_password = "and another"
        else:
            client.login.set_trouble(code)
        match verb:
            case "create":
                answer = await client.create(password="trade-" + client.login.login)
            case "update":
                body = {"password": "trade-" + client.login.login}
                answer = await client.http.put(f"{ACCOUNTS}/{account_id}", json=body)
            case _:
                answer = await client.tell(account_id, verb)
        assert details(answer) == code
        is_charged = code in (Code.AUTH, Code.SERVER_TIMEZONE)
        assert client.charged(ChargeKind.FAILED_ATTEMPT) == is_charged
        if account_id is not None:
            assert (await client.shown(account_id))["state"] == "UNDEPLOYED"
        else:
            assert client.sandbox.broker.accounts == {}


@pytest.mark.parametrize(
    "changes", [{"login": "777"}, {"password": "wrong"}], ids=["login", "password"]
)
async def test_a_stranger_is_refused_by_the_broker(changes):
    """An unknown login and a wrong password are the same to MetaApi, and to the bill."""
    async with provisioning_client() as client:
        assert details(await client.create(**changes)) == "E_AUTH"
        (item,) = client.sandbox.state.bill.items()
        assert (item.payer.account_id, item.kind) == (None, ChargeKind.FAILED_ATTEMPT)
        assert item.payer.login == changes.get("login", client.login.login)


@pytest.mark.parametrize("changes", [{"server": "Sandbox-Dem"}, {"platform": "mt4"}])
async def test_an_unknown_server_is_answered_with_those_there_are(changes):
    """The suggestions are the servers of the platform, by broker."""
    async with provisioning_client() as client:
        open_server(client.sandbox.broker, ServerSpec(name="Other", platform=Platform.MT4))
        said = details(await client.create(**changes))
        expected = ["Other"] if "platform" in changes else ["Sandbox-Demo"]
        assert said["code"] == "E_SRV_NOT_FOUND"
        assert list(said["serversByBrokers"].values()) == [expected]
        assert client.owed() == 0


async def test_an_account_may_need_more_slots():
    """The number is recommended; with it the account is added, and its slots are billed."""
    async with provisioning_client() as client:
        client.login.access.needed_slots = 3
        said = details(await client.create())
        assert said == {"code": "E_RESOURCE_SLOTS", "recommendedResourceSlots": 3}
        account_id = await client.created(resourceSlots=3, reliability="regular")
        assert (await client.shown(account_id))["resourceSlots"] == 3
        client.sandbox.state.bill.clock.advance(10)
        assert client.charged(ChargeKind.SLOT_HOURS) == 1


async def test_too_many_failures_lock_the_validation_of_a_login():
    """429, for right credentials too and without charge, until the lock ends; others go on."""
    rules = replace(FAST, lock_seconds=1500, failures_before_lock=2)
    async with provisioning_client(rules) as client:
        neighbour = client.sandbox.broker.open_login(AccountSpec(server=client.login.server))
        for _ in range(2):
            assert details(await client.create(password="wrong")) == "E_AUTH"
        answer = await client.create()
        assert answer.status_code == 429
        body = answer.json()
        assert f"Validation for trading account {client.login.login}" in body["message"]
        assert "rejected too many times" in body["message"]
        assert "retry in 1 hour" in body["message"]
        assert body["metadata"]["recommendedRetryTime"].endswith("Z")
        assert answer.headers["Retry-After"].endswith("GMT")
        login, password = neighbour.login, neighbour.access.password
        assert (await client.create(login=login, password=password)).status_code == 201
        await asyncio.sleep(1.6)
        assert (await client.create()).status_code == 201
        assert client.charged(ChargeKind.FAILED_ATTEMPT) == 2


async def test_a_success_forgives_earlier_failures():
    """Only failures in a row lock."""
    rules = replace(FAST, failures_before_lock=2)
    async with provisioning_client(rules) as client:
        for password in ("wrong", client.login.access.password, "wrong"):
            await client.create(password=password)
        assert (await client.create()).status_code == 201


async def test_a_right_password_may_be_refused_once():
    """As after a broker's reboot: E_AUTH, charged, and the next try succeeds."""
    async with provisioning_client() as client:
        client.sandbox.faults.switch_on(Fault(kind=StagedFault.REFUSE_AUTH, limit=1))
        assert details(await client.create()) == "E_AUTH"
        assert (await client.create()).status_code == 201
        assert client.charged(ChargeKind.FAILED_ATTEMPT) == 1


async def test_an_account_may_be_made_though_the_answer_is_a_failure():
    """The same transaction-id then names the account that was made; another id makes another."""
    async with provisioning_client() as client:
        fault = Fault(kind=StagedFault.FAIL_AFTER_CREATE, limit=1, status=502)
        client.sandbox.faults.switch_on(fault)
        answer = await client.create("c" * 32)
        assert answer.status_code == 502
        (account_id,) = client.sandbox.broker.accounts
        answer = await client.create("c" * 32)
        assert (answer.status_code, answer.json()["id"]) == (201, account_id)
        assert client.charged(ChargeKind.ACCOUNT_ADDED) == 1


@pytest.mark.parametrize(("verb", "state"), [("deploy", "DEPLOY"), ("redeploy", "REDEPLOY")])
async def test_a_deployment_may_fail(verb, state):
    """It ends in its own state, from which it can be deployed again."""
    async with provisioning_client() as client:
        account_id = await client.created()
        await client.tell(account_id, "undeploy")
        await client.until(account_id, state="UNDEPLOYED")
        client.sandbox.faults.switch_on(Fault(kind=StagedFault.FAIL_DEPLOY, limit=1))
        assert (await client.tell(account_id, verb)).status_code == 204
        await client.until(account_id, state=f"{state}_FAILED")
        await client.tell(account_id, "deploy")
        await client.until(account_id, state="DEPLOYED")
