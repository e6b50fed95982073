"""What a call costs, and what a scope may spend."""

from dataclasses import replace

import pytest

from brokerd.config.settings import GovernorSettings
from brokerd.connector.governor.credits import actual_cost, highest_cost, limits_of
from brokerd.connector.governor.ports import Call, Service
from brokerd.connector.governor.scopes import (
    FLEET_SOCKETS,
    Scope,
    ScopeKind,
    scopes_of,
    throttled_scope,
)

SETTINGS = GovernorSettings()
DEALS = Call(
    service=Service.CLIENT, method="deals", token="main", region="london", account_id="a-1"
)
ACCOUNT = Call(service=Service.PROVISIONING, method="account", token="main", account_id="a-1")
SOCKET = Call(service=Service.STREAM, method="socket", token="main", region="london")
USER = Scope(kind=ScopeKind.USER, name="main")
SERVER = Scope(kind=ScopeKind.SERVER, name="london")
ONE = Scope(kind=ScopeKind.ACCOUNT, name="a-1")
PROVISIONING = Scope(kind=ScopeKind.PROVISIONING, name="main")


@pytest.mark.parametrize(
    ("method", "items", "cost"),
    [
        ("deals", 0, 75),
        ("deals", 1, 76),
        ("deals", 1000, 725),
        ("account_information", 0, 50),
        ("deals_by_ticket", 3, 50),
        ("anything_new", 0, 50),
    ],
)
def test_a_call_costs_by_what_it_returns(method, items, cost):
    """History by its records, everything else the same."""
    call = replace(DEALS, method=method)
    assert actual_cost(call, settings=SETTINGS, items=items) == cost
    assert highest_cost(call, settings=SETTINGS) >= cost


def test_a_request_to_provisioning_is_one_request():
    """It costs no credits; requests are counted there."""
    assert highest_cost(ACCOUNT, settings=SETTINGS) == 1


def test_a_tokens_credits_grow_with_its_accounts():
    """And are one account's while none is known to be deployed."""
    units = [
        [limit.units for limit in limits_of(ScopeKind.USER, settings=SETTINGS, accounts=accounts)]
        for accounts in (0, 1, 20)
    ]
    assert units[0] == units[1] == [1_000, 6_000, 18_000, 43_200]
    assert units[2] == [20_000, 120_000, 360_000, 864_000]


@pytest.mark.parametrize("kind", ScopeKind)
def test_a_limit_of_zero_is_not_kept(kind):
    """Every limit can be switched off by itself."""
    none = GovernorSettings(
        user_credits_per_second=0,
        user_credits_per_minute=0,
        user_credits_per_hour=0,
        user_credits_per_six_hours=0,
        server_credits_per_second=0,
        account_credits_per_ten_seconds=0,
        provisioning_requests_per_minute=0,
        fleet_socket_opens_per_second=0,
    )
    assert limits_of(kind, settings=none, accounts=3) == ()
    assert limits_of(kind, settings=SETTINGS, accounts=3)


def test_a_call_is_charged_to_what_it_concerns():
    """Narrowest first; a socket to the fleet's sockets alone."""
    assert list(scopes_of(DEALS)) == [ONE, USER, SERVER]
    assert list(scopes_of(ACCOUNT)) == [PROVISIONING]
    assert list(scopes_of(SOCKET)) == [FLEET_SOCKETS]
    assert list(scopes_of(replace(DEALS, account_id=None, region=None))) == [USER]


@pytest.mark.parametrize(
    ("call", "named", "is_widespread", "scope"),
    [
        (DEALS, "user", False, USER),
        (DEALS, "server", False, SERVER),
        (DEALS, "account", False, ONE),
        (DEALS, "unknown", False, ONE),
        (DEALS, "unknown", True, USER),
        (DEALS, "account", True, ONE),
        (ACCOUNT, "unknown", False, PROVISIONING),
        (ACCOUNT, "user", True, PROVISIONING),
        (replace(DEALS, account_id=None), "unknown", False, USER),
    ],
)
def test_a_429_holds_the_scope_it_names(call, named, is_widespread, scope):
    """One that names none holds the account, and the token once another account met one too."""
    assert throttled_scope(call, named, is_widespread=is_widespread) == scope
