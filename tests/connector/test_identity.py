"""Which account is a link's, and whether the one that answered was registered."""

from dataclasses import replace
from decimal import Decimal

import pytest

from brokerd.connector.identity import check_connected, check_registered, remote_of
from brokerd.connector.ports import AccountInformation, RemoteAccount
from brokerd.domain import (
    AccountId,
    Claim,
    Desired,
    Fence,
    Identity,
    Incarnation,
    LinkId,
    LinkSpec,
    MetaApiPlace,
    MetaApiRef,
    Platform,
    Priority,
    UserId,
)
from brokerd.errors import IdentityMismatch

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


def claim_of(place: MetaApiRef | MetaApiPlace, *, created_id: str | None = None) -> Claim:
    """Build a claim for a place."""
    return Claim(
        fence=Fence(account_id=AccountId(1), incarnation=Incarnation(1), epoch=1),
        link_id=LinkId("l-1"),
        spec=LinkSpec(
            user_id=UserId("u-1"),
            desired=Desired.LIVE,
            priority=Priority.NORMAL,
            metaapi=place,
            identity=IDENTITY,
        ),
        generation=1,
        created_id=created_id,
    )


def test_the_account_is_the_one_that_the_spec_names():
    """Whatever was created for an earlier spec."""
    named = MetaApiRef(token="main", account_id="m-1", region="london")
    assert remote_of(claim_of(named, created_id="m-2")) == named


def test_without_a_name_it_is_the_one_that_was_created():
    """Before one was created there is none to speak of, which is our bug."""
    place = MetaApiPlace(token="main", region="london")
    created = MetaApiRef(token="main", account_id="m-2", region="london")
    assert remote_of(claim_of(place, created_id="m-2")) == created
    with pytest.raises(AssertionError, match="l-1 has no MetaApi account yet"):
        remote_of(claim_of(place))
