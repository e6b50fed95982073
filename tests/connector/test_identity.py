"""Whether the account that answered is the registered one."""

from dataclasses import replace
from decimal import Decimal

import pytest

from brokerd.connector.identity import check_connected, check_deployed, check_registered
from brokerd.connector.ports import AccountInformation, RemoteAccount
from brokerd.domain import Identity, Platform
from brokerd.errors import IdentityMismatch, NotDeployed

IDENTITY = Identity(platform=Platform.MT5, login="5016", server="Broker-Demo", currency="USD")
REMOTE = RemoteAccount(
    account_id="1eda642a-a9a3-457c-99af-3bc5e8d5c4c9",
    state="DEPLOYED",
    connection_status="CONNECTED",
    platform=Platform.MT5,
    login="5016",
    server="Broker-Demo",
    region="london",
    reliability="regular",
)
SEEN = AccountInformation(
    platform=Platform.MT5,
    login="5016",
    server="Broker-Demo",
    currency="USD",
    balance=Decimal(1),
    credit=Decimal(0),
    margin_mode=None,
    trade_mode=None,
    currency_digits=None,
)


def test_the_registered_account_passes():
    """Equal fields raise nothing."""
    check_registered(IDENTITY, REMOTE)
    check_connected(IDENTITY, SEEN)
    assert REMOTE.login == SEEN.login == IDENTITY.login


@pytest.mark.parametrize(
    ("field", "value"), [("login", "5017"), ("server", "Other"), ("platform", Platform.MT4)]
)
def test_another_record_is_named_field_by_field(field, value):
    """The refusal says what was found and what was registered."""
    with pytest.raises(IdentityMismatch, match=f"{field} is '{value}', registered"):
        check_registered(IDENTITY, replace(REMOTE, **{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("login", "5017"), ("server", "Other"), ("currency", "EUR"), ("platform", Platform.MT4)],
)
def test_another_terminal_is_refused(field, value):
    """Platform, login, server and currency must all be the registered ones."""
    with pytest.raises(IdentityMismatch, match=field):
        check_connected(IDENTITY, replace(SEEN, **{field: value}))


@pytest.mark.parametrize("state", ["UNDEPLOYED", "DRAFT", "DELETING", "DEPLOY_FAILED", "NEW_ONE"])
def test_an_account_that_is_not_deployed_says_what_to_do(state):
    """Every state but DEPLOYED and DEPLOYING is refused with advice."""
    with pytest.raises(NotDeployed, match=f"is {state}; deploy it in MetaApi"):
        check_deployed(replace(REMOTE, state=state))


@pytest.mark.parametrize("state", ["DEPLOYED", "DEPLOYING"])
def test_a_deployed_account_passes(state):
    """An account that is on its way is waited for by the connect timeout."""
    check_deployed(replace(REMOTE, state=state))
    assert REMOTE.state == "DEPLOYED"
