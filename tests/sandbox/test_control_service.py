"""The control of MetaApi itself: logins, users, rules, limits, conditions, the bill."""

from decimal import Decimal

import msgspec
import pytest
from provisioning_client import ACCOUNTS, provisioning_client

from brokerd.sandbox.control_views import FaultsView
from brokerd.sandbox.faults import FaultKind, StagedFault
from brokerd.sandbox.limits import CreditLimits, RequestRate, Window
from brokerd.sandbox.users import TopUp


async def test_logins_are_opened_with_a_past_and_can_be_added():
    """What the control tells of a login is what a client needs; MetaApi knows it only then."""
    async with provisioning_client() as client:
        opened = await client.control(
            "POST", "logins", {"count": 2, "deals": 7, "positions": 0, "server": "Beta-Live"}
        )
        assert len(opened) == 2
        assert client.sandbox.broker.accounts == {}
        login = opened[0]
        assert (login["server"], login["platform"], login["account_ids"]) == (
            "Beta-Live",
            "mt5",
            [],
        )
        account_id = await client.created(
            login=login["login"], password=login["password"], server=login["server"]
        )
        assert client.sandbox.broker.accounts[account_id].deal_count == 7
        listed = await client.control("GET", "logins")
        known = {shown["login"]: shown["account_ids"] for shown in listed}
        assert known == {
            client.login.login: [],
            login["login"]: [account_id],
            opened[1]["login"]: [],
        }


async def test_a_login_changes_at_its_broker():
    """Password, trouble and slots; null takes the trouble away, what is left out stays."""
    async with provisioning_client() as client:
        account_id = await client.created()
        path = f"logins/{client.login.server.name}/{client.login.login}"
        shown = await client.control("PATCH", path, {"trouble": "E_TRADING_ACCOUNT_DISABLED"})
        assert shown["trouble"] == "E_TRADING_ACCOUNT_DISABLED"
        await client.until(account_id, connectionStatus="DISCONNECTED_FROM_BROKER")
        shown = await client.control("PATCH", path, {"needed_slots": 2})
        assert (shown["trouble"], shown["needed_slots"]) == ("E_TRADING_ACCOUNT_DISABLED", 2)
        await client.control("PATCH", path, {"trouble": None})
        await client.until(account_id, connectionStatus="CONNECTED")
        shown = await client.control("PATCH", path, {"password": "new"})
        assert shown["password"] == "new"
        await client.until(account_id, connectionStatus="DISCONNECTED_FROM_BROKER")


async def test_orders_can_be_given_behind_a_clients_back():
    """As if another program of the same user did."""
    async with provisioning_client() as client:
        account_id = await client.created()
        path = f"accounts/{account_id}"
        assert await client.control("POST", f"{path}/redeploy") == {"state": "UNDEPLOYING"}
        await client.until(account_id, state="DEPLOYED")
        await client.control("POST", f"{path}/undeploy")
        await client.until(account_id, state="UNDEPLOYED")
        await client.control("POST", f"{path}/deploy")
        await client.until(account_id, state="DEPLOYED")
        assert await client.control("DELETE", path) == {"state": "DELETING"}
        await client.until(account_id, gone=True)


async def test_the_bill_is_read_item_by_item():
    """Amounts are decimal texts; the counts are what a test of money looks at."""
    async with provisioning_client() as client:
        account_id = await client.created(reliability="regular")
        await client.create(password="wrong")
        await client.control("POST", "bill/clock", {"advance_hours": "10"})
        bill = await client.control("GET", "bill")
        assert bill["counts"]["account_added"] == bill["counts"]["deployment"] == 1
        assert bill["counts"]["failed_attempt"] == 1
        amounts = {
            item["kind"]: Decimal(item["amount"])
            for item in bill["items"]
            if item["account_id"] == account_id
        }
        assert amounts["account_added"] == Decimal("2.10")
        assert amounts["deployed_hours"] == pytest.approx(Decimal("0.048"), abs=Decimal("0.001"))
        (failed,) = (item for item in bill["items"] if item["kind"] == "failed_attempt")
        assert (failed["account_id"], failed["login"]) == (None, client.login.login)
        total = sum(Decimal(item["amount"]) for item in bill["items"])
        assert Decimal(bill["total"]) == total
        assert (await client.control("GET", "bill?owner=nobody"))["items"] == []


async def test_prices_and_the_bills_pace_can_be_changed():
    """From then on."""
    async with provisioning_client() as client:
        prices = await client.control("PATCH", "bill/prices", {"failed_attempt": "5"})
        assert prices["failed_attempt"] == "5"
        await client.create(password="wrong")
        assert client.owed() == 5
        before = await client.control("POST", "bill/clock", {"scale": "3600000"})
        after = await client.control("GET", "bill")
        assert Decimal(after["hours"]) > Decimal(before["hours"]) + Decimal("0.5")


async def test_users_come_and_go():
    """A new token works at once and sees nothing of others; a revoked one is refused."""
    async with provisioning_client() as client:
        shown = await client.control("PUT", "users/other", {"token": "an.other.token"})
        assert (shown["name"], shown["top_up"]) == ("other", "by_balance")
        assert "token" not in shown
        headers = {"auth-token": "an.other.token"}
        assert (await client.http.get(ACCOUNTS, headers=headers)).json() == []
        made = await client.control(
            "POST", "accounts", {"owner": "other", "deals": 1, "positions": 0}
        )
        assert made[0]["owner"] == "other"
        assert len((await client.http.get(ACCOUNTS, headers=headers)).json()) == 1
        await client.control("PATCH", "users/other", {"is_revoked": True})
        assert (await client.http.get(ACCOUNTS, headers=headers)).status_code == 401
        changes = {"is_revoked": False, "top_up": "costs", "quotas": {"accounts": 3}, "paid": "7"}
        shown = await client.control("PATCH", "users/other", changes)
        assert shown["quotas"]["accounts"] == 3
        user = client.sandbox.state.users.get("other")
        assert (user.top_up, user.paid, user.is_revoked) == (TopUp.COSTS, 7, False)
        assert len(await client.control("GET", "users")) == 2
        forbidden = await client.control("PATCH", "users/other", {"is_forbidden": True})
        assert forbidden["is_forbidden"]
        assert (await client.http.get(ACCOUNTS, headers=headers)).status_code == 403


async def test_rules_limits_and_conditions_are_changed_field_by_field():
    """What is left out stays; limits are off again with null."""
    async with provisioning_client() as client:
        rules = await client.control("PATCH", "rules", {"detection_polls": 4})
        assert (rules["detection_polls"], rules["time_scale"]) == (4, 0.001)
        assert (await client.create()).status_code == 202
        assert (await client.control("GET", "rules")) == rules

        assert set((await client.control("GET", "limits")).values()) == {None}
        await client.control("PATCH", "limits", {"credits": {}, "provisioning": {"requests": 9}})
        limits = client.sandbox.state.limits
        assert (limits.credits, limits.provisioning) == (CreditLimits(), RequestRate(requests=9))
        window = {"seconds": 5, "credits": 7}
        await client.control("PATCH", "limits", {"credits": {"per_user": [window]}})
        assert limits.credits.per_user == (Window(seconds=5, credits=7),)
        await client.control("PATCH", "limits", {"credits": None, "provisioning": None})
        assert limits.credits is None

        changes = {"down_regions": ["london"], "clock_offset_seconds": 5}
        shown = await client.control("PATCH", "conditions", changes)
        assert shown["down_regions"] == ["london"]
        assert (await client.control("GET", "conditions")) == shown


async def test_staged_faults_share_the_switchboard():
    """They are counted apart from those that the demo's storm must have had."""
    async with provisioning_client() as client:
        shown = await client.control("PUT", "faults/refuse_auth", {"limit": 1})
        assert [fault["kind"] for fault in shown["active"]] == ["refuse_auth"]
        await client.create()
        shown = await client.control("GET", "faults")
        assert shown["staged"]["refuse_auth"] == 1
        assert set(shown["staged"]) == {kind.value for kind in StagedFault}
        assert set(shown["injected"]) == {kind.value for kind in FaultKind}
        read = msgspec.convert(shown, FaultsView)  # as the demo does
        assert read.staged[StagedFault.REFUSE_AUTH] == 1
        await client.control("DELETE", "faults/refuse_auth")
        assert client.sandbox.faults.active == ()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("PATCH", "rules", {"no_such_rule": 1}, 400, "no_such_rule"),
        ("PATCH", "rules", {"retry_after": "sometimes"}, 400, "sometimes"),
        ("PATCH", "limits", {"provisioning": {"requests": "many"}}, 400, "requests"),
        ("PATCH", "users/nobody", {}, 404, "nobody"),
        ("PATCH", "users/sandbox", {"colour": "red"}, 400, "colour"),
        ("PATCH", "logins/Sandbox-Demo/1", {}, 404, "login 1"),
        ("POST", "accounts/0/redeploy", None, 404, "0"),
        ("PATCH", "bill/prices", {"lunch": "5"}, 400, "lunch"),
        ("PUT", "faults/no_such_fault", {}, 404, "refuse_auth"),
    ],
)
async def test_a_mistake_is_named(method, path, body, status, says):
    """A misspelt field is an error, not a default."""
    async with provisioning_client() as client:
        answer = await client.http.request(method, f"/control/{path}", json=body)
        assert answer.status_code == status
        assert says in answer.json()["error"]


async def test_an_order_that_metaapi_would_refuse_is_refused_to_the_control_too():
    """With MetaApi's own status and words."""
    async with provisioning_client() as client:
        account_id = await client.created()
        client.sandbox.state.users.default.top_up = TopUp.COSTS
        answer = await client.http.post(f"/control/accounts/{account_id}/redeploy")
        assert answer.status_code == 403
        assert "top up" in answer.json()["error"]
