"""Passwords and budgets over HTTP."""

from dataclasses import replace
from decimal import Decimal

import pytest

from brokerd.config.settings import SecretsSettings
from brokerd.connector.provisioning.memory import CredentialRow, SpendRow
from brokerd.connector.provisioning.ports import Charge, CredentialState
from brokerd.domain import AccountId, Phase, UserId

LINK = "/v1/links/u-17-main"
PATH = f"{LINK}/credentials"
PASSWORD = "planted-password"


@pytest.fixture
async def linked(api):
    """Give an API with one link, whose account brokerd creates."""
    metaapi = {"token": "main", "accountId": None, "region": "london"}
    answer = await api.client.put(LINK, json=api.put_body(metaapi=metaapi))
    assert answer.status_code == 201
    assert answer.json()["spec"]["metaapi"] == metaapi
    return api


async def submit(api, password=PASSWORD):
    """Submit a password."""
    return await api.client.put(PATH, json={"password": password})


def spend(api, usd, *, charge=Charge.AUTH):
    """Note that the link's account cost something."""
    number = len(api.money.spend) + 1
    api.money.spend[number] = SpendRow(
        account_id=api.account("u-17-main"),
        user_id=UserId("u-17"),
        charge=charge,
        usd=Decimal(usd),
        at=api.state.clock.now(),
    )


async def test_a_password_is_taken_and_never_shown(linked):
    """Neither its own answer, nor the link, nor the store shows it; its version rises."""
    answer = await submit(linked)
    assert (answer.status_code, answer.json()) == (202, {"credentialVersion": 1})
    assert answer.headers["cache-control"] == "no-store"
    link = await linked.client.get(LINK)
    assert link.json()["status"]["credentialVersion"] == 1
    assert PASSWORD not in answer.text + link.text + repr(linked.money) + repr(linked.state)
    [row] = linked.money.credentials.values()
    assert row.sealed is not None
    assert PASSWORD.encode() not in row.sealed.box
    assert linked.wake.is_set()


async def test_the_same_password_again_is_no_news(linked):
    """However often: one version, and nobody is woken."""
    await submit(linked)
    linked.wake.clear()
    answer = await submit(linked)
    assert (answer.status_code, answer.json()) == (200, {"credentialVersion": 1})
    assert not linked.wake.is_set()


async def test_known_bad_credentials_are_a_problem_of_their_own(linked):
    """Refused without a cost, and counted."""
    await submit(linked)
    [(key, row)] = linked.money.credentials.items()
    linked.money.credentials[key] = replace(row, state=CredentialState.REJECTED, sealed=None)
    linked.money.rejected[row.digest] = linked.state.clock.now().replace(year=2099)
    answer = await submit(linked)
    problem = answer.json()
    assert answer.status_code == 422
    assert problem["type"] == "/problems/bad-credentials-known"
    assert (problem["reason"], problem["retryable"]) == ("bad_credentials_known", False)
    assert problem["linkId"] == "u-17-main"
    assert PASSWORD not in answer.text
    count = "brokerd_metaapi_credential_cache_hits_total"
    assert linked.metrics.registry.get_sample_value(count) == 1
    assert (await submit(linked, "another")).status_code == 202


async def test_without_budget_a_password_is_not_even_taken(linked):
    """It could not be tried before the time that the answer names."""
    for _ in range(6):
        spend(linked, "0.105")
    answer = await submit(linked)
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (409, "/problems/budget-exhausted")
    assert problem["retryable"]
    assert 86_390 < problem["retryAfterSeconds"] <= 86_400
    assert int(answer.headers["retry-after"]) >= 86_390
    assert linked.money.credentials == {}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"password": ""},
        {"password": "x" * 129},
        {"password": 5},
        {"password": None},
        {"password": PASSWORD, "login": "5016"},
        {"password": f"{PASSWORD}\n"},
        {"password": f"{PASSWORD}\x00"},
        [PASSWORD],
        PASSWORD,
    ],
    ids=repr,
)
async def test_a_body_that_is_none_is_refused_without_quoting_it(linked, body):
    """Whatever stands in it may be a password in the wrong place."""
    answer = await linked.client.put(PATH, json=body)
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/validation"
    assert PASSWORD not in answer.text
    assert linked.money.credentials == {}


@pytest.mark.parametrize(
    "body", [b"", b"{", f'{{"password": "{PASSWORD}'.encode(), b"\xff", b'{"password": "\\ud800"}']
)
async def test_a_body_that_is_no_json_is_not_quoted_either(linked, body):
    """Cut off in the middle, or no text at all."""
    answer = await linked.client.put(PATH, content=body)
    assert answer.status_code in {400, 422}
    assert PASSWORD not in answer.text


async def test_a_password_of_no_link(api):
    """404, also for a link that was deleted."""
    assert (await submit(api)).status_code == 404
    await api.client.put(LINK, json=api.put_body())
    await api.client.delete(LINK)
    assert (await submit(api)).status_code == 404
    assert (await api.client.put(PATH + "?a=b", json={"password": "x"})).status_code == 422


async def test_without_keys_no_password_is_taken(new_api, api):
    """It could only be kept in the clear, so it is not kept."""
    bare = new_api(api.state, secrets=SecretsSettings())
    await bare.client.put(LINK, json=bare.put_body())
    answer = await submit(bare)
    assert answer.status_code == 422
    assert answer.json()["violations"][0]["path"] == "$.password"
    metaapi = {"token": "main", "accountId": None, "region": "london"}
    created = await bare.client.put("/v1/links/b", json=bare.put_body("1", metaapi=metaapi))
    assert created.json()["violations"][0]["path"] == "$.spec.metaapi.accountId"


async def test_a_stopped_link_says_what_it_waits_for(linked):
    """`Undeploying` until its account is put away, then `Stopped`."""
    account_id = linked.account("u-17-main")
    linked.state.accounts[account_id] = replace(
        linked.state.accounts[account_id], created_id="m-created"
    )
    metaapi = {"token": "main", "accountId": None, "region": "london"}
    await linked.client.put(LINK, json=linked.put_body(metaapi=metaapi, desired="stopped"))
    status = (await linked.client.get(LINK)).json()["status"]
    assert (status["phase"], status["metaapiAccountId"]) == ("stopped", "m-created")
    assert status["conditions"][0]["reason"] == "Undeploying"
    assert status["queue"] is None
    lease = linked.state.leases[account_id]
    linked.state.leases[account_id] = replace(lease, has_errand=False)
    status = (await linked.client.get(LINK)).json()["status"]
    assert status["conditions"][0]["reason"] == "Stopped"


async def test_an_errand_that_failed_is_shown_with_its_reason(linked):
    """A stopped link that cannot be undeployed goes on costing: that must be seen."""
    metaapi = {"token": "main", "accountId": "m-1", "region": "london"}
    await linked.client.put(LINK, json=linked.put_body(metaapi=metaapi, desired="stopped"))
    linked.own("u-17-main", Phase.BACKOFF)
    linked.release("u-17-main")
    status = (await linked.client.get(LINK)).json()["status"]
    assert (status["phase"], status["conditions"][0]["reason"]) == ("backoff", "Backoff")


@pytest.mark.parametrize(("query", "removes"), [("", False), ("?removeRemote=true", True)])
async def test_a_link_is_deleted_with_its_account_only_on_request(linked, query, removes):
    """Then it is shown as deleting until the account is gone."""
    assert (await linked.client.delete(LINK + query)).status_code == 202
    answer = await linked.client.get(LINK)
    assert answer.status_code == (200 if removes else 404)
    if removes:
        assert answer.json()["status"]["phase"] == "deleting"
    lease = linked.state.leases[AccountId(1)]
    assert lease.has_errand is removes


async def test_what_to_remove_is_said_clearly(linked):
    """A misspelt wish is not taken for no."""
    for query in ("?removeRemote=yes", "?removeremote=true", "?removeRemote="):
        assert (await linked.client.delete(LINK + query)).status_code == 422
    assert (await linked.client.get(LINK)).status_code == 200


async def test_the_spend_is_visible(linked):
    """Each budget with what is left of it, what was charged for what, and what hosting costs."""
    spend(linked, "2.172", charge=Charge.ADD)
    spend(linked, "0.105")
    spend(linked, "0", charge=Charge.NONE)
    await linked.client.put("/v1/links/b", json=linked.put_body("77"))
    answer = await linked.client.get("/v1/budgets")
    assert answer.status_code == 200
    body = answer.json()
    link, user, day, fleet = body["budgets"]
    assert [each["name"] for each in body["budgets"]] == ["link", "user", "day", "fleet"]
    assert link == {
        "name": "link",
        "windowSeconds": 86_400.0,
        "attempts": 2,
        "maxAttempts": 6,
        "usd": "2.277",
        "maxUsd": "5",
        "remainingUsd": "2.723",
    }
    assert (user["usd"], day["usd"], fleet["usd"]) == ("2.277",) * 3
    assert fleet["windowSeconds"] == 30 * 86_400
    charges = {each["kind"]: each for each in body["charges"]}
    assert charges["add"] == {"kind": "add", "attempts": 1, "usd": "2.172"}
    assert charges["auth"]["attempts"] == 1
    assert charges["timezone"] == {"kind": "timezone", "attempts": 0, "usd": "0"}
    assert body["prices"] == {
        "add": "2.1",
        "deployment": "0.072",
        "failedAttempt": "0.105",
        "deployedHour": "0.012",
    }
    assert (body["deployedAccounts"], body["hostingUsdPerDay"]) == (1, "0.288")


async def test_what_is_left_is_a_metric(linked):
    """Of links and users the least of any; never below nothing."""
    spend(linked, "5.5", charge=Charge.ADD)
    text = (await linked.client.get("/metrics")).text
    assert 'brokerd_metaapi_budget_remaining{budget="link"} 0.0' in text
    assert 'brokerd_metaapi_budget_remaining{budget="day"} 494.5' in text


async def test_budgets_need_the_key_and_no_parameters(api):
    """Like everything else under /v1."""
    anonymous = await api.client.get("/v1/budgets", headers={"Authorization": ""})
    assert anonymous.status_code == 401
    assert (await api.client.get("/v1/budgets?a=b")).status_code == 422


async def test_an_older_key_still_recognises_a_password(new_api, api):
    """After the key was replaced the same password is still the same."""
    await api.client.put(LINK, json=api.put_body())
    await submit(api)
    [row] = api.money.credentials.values()
    assert row.digest.startswith("k1:")
    keys = {**api.secrets.keys, "k2": api.secrets.keys["k1"]}
    newer = new_api(api.state, secrets=SecretsSettings(keys=keys, current="k2"), money=api.money)
    assert (await submit(newer)).status_code == 200
    assert (await submit(newer, "another")).status_code == 202
    assert isinstance(api.money.credentials[AccountId(1), 2], CredentialRow)
    assert api.money.credentials[AccountId(1), 2].digest.startswith("k2:")
