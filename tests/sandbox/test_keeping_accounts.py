"""Accounts that are there: changed, moved, removed, paid for, limited, and nobody else's."""

from dataclasses import replace

import pytest
from provisioning_client import ACCOUNTS, FAST, details, provisioning_client

from brokerd.sandbox.bill import ChargeKind
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.trading import AccountSpec
from brokerd.sandbox.users import Quotas, TopUp, User


async def test_a_login_cannot_be_changed_but_a_name_can():
    """The refusal is a field error; the rest of an update shows at once."""
    async with provisioning_client() as client:
        account_id = await client.created()
        path = f"{ACCOUNTS}/{account_id}"
        refused = await client.http.put(path, json={"login": "5", "name": "new"})
        assert details(refused)[0]["parameter"] == "login"
        answer = await client.http.put(path, json={"name": "new", "magic": 7, "tags": ["a"]})
        assert (answer.status_code, answer.content) == (204, b"")
        shown = await client.shown(account_id)
        assert (shown["name"], shown["magic"], shown["tags"]) == ("new", 7, ["a"])


async def test_a_password_changed_at_the_broker_costs_the_terminal_its_login():
    """Deployed still, but thrown out; a redeploy is refused until MetaApi is told the new one."""
    async with provisioning_client() as client:
        account_id = await client.created()
        client.login.access.investor_password = "unknown"
        client.login.change_password("new")
        shown = await client.shown(account_id)
        assert shown["state"] == "DEPLOYED"
        assert shown["connectionStatus"] == "DISCONNECTED_FROM_BROKER"
        information = await client.http.get(f"{ACCOUNTS}/{account_id}/account-information")
        assert information.status_code == 504
        assert details(await client.tell(account_id, "redeploy")) == "E_AUTH"
        assert (await client.shown(account_id))["state"] == "DEPLOYED"

        path = f"{ACCOUNTS}/{account_id}"
        assert (await client.http.put(path, json={"password": "new"})).status_code == 204
        client.login.set_trouble(None)  # its terminals try again, with what they were started with
        shown = await client.shown(account_id)
        assert shown["connectionStatus"] == "DISCONNECTED_FROM_BROKER"
        assert (await client.tell(account_id, "redeploy")).status_code == 204
        await client.until(account_id, state="DEPLOYED", connectionStatus="CONNECTED")
        assert client.charged(ChargeKind.FAILED_ATTEMPT) == 1
        assert client.charged(ChargeKind.DEPLOYMENT) == 2


async def test_a_terminal_returns_when_the_password_does():
    """Nothing is to be done at MetaApi when the broker takes its change back."""
    async with provisioning_client() as client:
        account_id = await client.created()
        old = client.login.access.password
        client.login.change_password("new")
        client.login.change_password(old)
        assert (await client.shown(account_id))["connectionStatus"] == "CONNECTED"


async def test_an_account_moves_to_another_server():
    """The broker renamed its server: told so, the account shows the deals kept there."""
    async with provisioning_client() as client:
        account_id = await client.created()
        broker = client.sandbox.broker
        server = open_server(broker, ServerSpec(name="Sandbox-Live"))
        moved = broker.open_login(AccountSpec(server=server))
        broker.logins["Sandbox-Live", client.login.login] = moved
        path = f"{ACCOUNTS}/{account_id}"
        body = {"server": "Sandbox-Live", "password": moved.access.password}
        assert (await client.http.put(path, json=body)).status_code == 204
        assert (await client.shown(account_id))["server"] == "Sandbox-Demo"
        await client.tell(account_id, "redeploy")
        await client.until(account_id, server="Sandbox-Live", connectionStatus="CONNECTED")
        assert broker.accounts[account_id].deal_count == 0


async def test_a_draft_waits_for_its_user():
    """Without credentials nothing is deployed or charged; with them it is as if added."""
    async with provisioning_client() as client:
        answer = await client.create(login=None, password=None)
        assert (answer.status_code, answer.json()["state"]) == (201, "DRAFT")
        account_id = answer.json()["id"]
        link = await client.http.put(f"{ACCOUNTS}/{account_id}/configuration-link?ttlInDays=3")
        assert account_id in link.json()["configurationLink"]
        assert client.charged(ChargeKind.ACCOUNT_ADDED) == 0
        body = {"login": client.login.login, "password": client.login.access.password}
        assert (await client.http.put(f"{ACCOUNTS}/{account_id}", json=body)).status_code == 204
        await client.until(account_id, state="DEPLOYED")
        shown = await client.shown(account_id)
        assert (shown["login"], shown["connectionStatus"]) == (client.login.login, "CONNECTED")
        assert client.charged(ChargeKind.ACCOUNT_ADDED) == 1


async def test_a_removed_account_is_gone_after_a_while():
    """DELETING answers no order; then nobody knows it, while the broker keeps the login."""
    async with provisioning_client(replace(FAST, delete_seconds=1500)) as client:
        account_id = await client.created()
        answer = await client.http.delete(f"{ACCOUNTS}/{account_id}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert (await client.shown(account_id))["state"] == "DELETING"
        assert (await client.tell(account_id, "deploy")).status_code == 404
        await client.until(account_id, gone=True)
        assert (await client.http.get(ACCOUNTS)).json() == []
        client.sandbox.market.trade(client.login)
        assert await client.created() != account_id


async def test_a_running_account_may_have_to_be_undeployed_first():
    """The rule is a switch: nobody knows whether MetaApi refuses."""
    async with provisioning_client(replace(FAST, may_delete_deployed=False)) as client:
        account_id = await client.created()
        path = f"{ACCOUNTS}/{account_id}"
        assert details(await client.http.delete(path)) == []
        await client.tell(account_id, "undeploy")
        await client.until(account_id, state="UNDEPLOYED")
        assert (await client.http.delete(path)).status_code == 204


async def test_more_reliability_is_a_second_terminal():
    """The account is redeployed with two."""
    async with provisioning_client() as client:
        account_id = await client.created(reliability="regular")
        assert (await client.tell(account_id, "increase-reliability")).status_code == 204
        await client.until(account_id, state="DEPLOYED")
        shown = await client.shown(account_id)
        assert shown["reliability"] == "high"
        assert [connection["zone"] for connection in shown["connections"]] == ["a", "b"]


async def test_nothing_is_started_for_one_who_must_pay_first():
    """What costs is refused when the balance is used up; what runs goes on, and is looked at."""
    async with provisioning_client() as client:
        account_id = await client.created()
        client.sandbox.state.users.default.paid = client.owed()
        for answer in (await client.create(), await client.tell(account_id, "redeploy")):
            assert answer.status_code == 403
            assert answer.json()["error"] == "ForbiddenError"
            assert "top up" in answer.json()["message"]
        assert (await client.shown(account_id))["connectionStatus"] == "CONNECTED"
        assert (await client.http.get("/users/current/balance")).json()["amount"] <= 0


@pytest.mark.parametrize("status", [400, 402])
async def test_the_form_of_that_refusal_is_a_rule(status):
    """Sources name three statuses."""
    rules = replace(FAST, top_up_status=status, top_up_message="Insufficient funds")
    async with provisioning_client(rules) as client:
        client.sandbox.state.users.default.top_up = TopUp.COSTS
        answer = await client.create()
        assert answer.status_code == status
        assert answer.json()["message"].startswith("Insufficient funds (")


async def test_a_user_may_be_refused_everything_until_it_pays():
    """All services answer so, except the one that tells the balance."""
    async with provisioning_client() as client:
        account_id = await client.created()
        client.sandbox.state.users.default.top_up = TopUp.ALL
        for path in (ACCOUNTS, f"{ACCOUNTS}/{account_id}/positions"):
            assert (await client.http.get(path)).status_code == 403
        assert (await client.http.get("/users/current/balance")).status_code == 200


@pytest.mark.parametrize("quotas", [Quotas(accounts=1), Quotas(deployed=1)])
async def test_a_full_quota_refuses_one_more(quotas):
    """Accounts and deployed accounts are counted by region."""
    async with provisioning_client() as client:
        await client.created()
        client.sandbox.state.users.default.quotas = quotas
        answer = await client.create()
        assert (answer.status_code, answer.json()["error"]) == (400, "QuotaExceededError")
        assert "details" not in answer.json()
        assert (await client.create(region="london")).status_code == 201


async def test_quotas_are_shown_and_can_be_raised():
    """Usage is in percent; a raise is granted at once, or only noted, as the rules say."""
    async with provisioning_client() as client:
        client.sandbox.state.users.default.quotas = Quotas(accounts=4, deployed=2)
        await client.created()
        shown = {q["region"]: q for q in (await client.http.get("/users/current/quotas")).json()}
        assert shown["new-york"]["maxAccounts"] == {"quota": 4, "usageInPercents": 25.0}
        assert shown["new-york"]["maxDeployedG2Accounts"]["usageInPercents"] == 50.0
        assert shown["london"]["maxAccounts"]["usageInPercents"] == 0
        path = "/users/current/regions/new-york/quotas"
        assert (await client.http.patch(path, json={"maxAccounts": 9})).status_code == 204
        assert (await client.http.get(path)).json()["maxAccounts"]["quota"] == 9
        assert details(await client.http.patch(path, json={"maxAccounts": 3}))
        client.sandbox.state.provisioner.rules.grants_quotas = False
        assert (await client.http.patch(path, json={"maxAccounts": 20})).status_code == 201
        assert (await client.http.get(path)).json()["maxAccounts"]["quota"] == 9
        assert details(await client.http.get("/users/current/regions/atlantis/quotas"))


async def test_users_see_their_own_accounts_alone():
    """What belongs to another token does not exist, on any service."""
    async with provisioning_client() as client:
        account_id = await client.created()
        client.sandbox.state.users.add(User(name="other", token="an.other.token"))
        headers = {"auth-token": "an.other.token"}
        assert (await client.http.get(ACCOUNTS, headers=headers)).json() == []
        for method, path in (
            ("GET", ""),
            ("PUT", ""),
            ("DELETE", ""),
            ("POST", "/deploy"),
            ("GET", "/positions"),
        ):
            answer = await client.http.request(
                method, f"{ACCOUNTS}/{account_id}{path}", headers=headers
            )
            assert answer.status_code == 404, method
