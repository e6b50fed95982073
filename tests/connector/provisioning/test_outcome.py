"""What follows from how a call ended."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from brokerd.config.settings import MoneySettings, ProvisioningSettings
from brokerd.connector.provisioning.outcome import Judge
from brokerd.connector.provisioning.ports import (
    Auth,
    Charge,
    CredentialState,
    Intent,
    IntentKind,
    KnownCredentials,
    Outcome,
    Standing,
)
from brokerd.connector.provisioning.prices import prices_of, worst_usd
from brokerd.errors import (
    AuthFailed,
    Held,
    QuotaExceeded,
    ServerNotFound,
    Throttled,
    TimezoneUndetected,
    TopUpRequired,
    ValidationLocked,
)

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
PRICES = prices_of(MoneySettings())
JUDGE = Judge(prices=PRICES, settings=ProvisioningSettings())
K, C = IntentKind, CredentialState
FREE = Decimal(0)
LIVE_YESTERDAY = NOW - timedelta(days=1)


def intent(kind: IntentKind) -> Intent:
    """Build an intent."""
    return Intent(intent_id=1, kind=kind, transaction_id="t", credential_version=3, opened_at=NOW)


def standing(state: CredentialState | None = C.WAITING, **values: object) -> Standing:
    """Build what is known when the call was made."""
    known = None if state is None else KnownCredentials(version=3, state=state)
    return Standing(now=NOW, credentials=known, **values)


@pytest.mark.parametrize(
    ("kind", "charge", "usd", "state", "auth"),
    [
        (K.CREATE, Charge.ADD, "2.172", C.ACCEPTED, Auth.OK),
        (K.DEPLOY, Charge.DEPLOY, "0.072", C.ACCEPTED, Auth.OK),
        (K.UPDATE, Charge.NONE, "0", C.UPDATED, None),
        (K.UNDEPLOY, Charge.NONE, "0", None, None),
        (K.DELETE, Charge.NONE, "0", None, None),
    ],
)
def test_success_is_charged_and_uses_the_password(kind, charge, usd, state, auth):
    """What was bought, and what became of the password it was bought with."""
    outcome = JUDGE.done(intent(kind), created_id="m-1" if kind is K.CREATE else None)
    assert (outcome.code, outcome.charge, outcome.usd) == ("done", charge, Decimal(usd))
    assert (outcome.credentials, outcome.auth) == (state, auth)
    assert outcome.created_id == ("m-1" if kind is K.CREATE else None)


def test_an_abandoned_call_changes_nothing():
    """Its reserve stays: nobody knows what it cost."""
    assert JUDGE.abandoned() == Outcome(code="abandoned")


@pytest.mark.parametrize("kind", [K.CREATE, K.UPDATE, K.DEPLOY])
def test_credentials_that_were_never_taken_are_refused_at_once(kind):
    """One attempt, known bad from then on, whether the link was live lately or not."""
    state = C.UPDATED if kind is K.DEPLOY else C.WAITING
    now = standing(state, watermark=LIVE_YESTERDAY)
    outcome = JUDGE.refused(intent(kind), AuthFailed("E_AUTH"), now)
    assert (outcome.code, outcome.charge, outcome.usd) == (
        "auth_failed",
        Charge.AUTH,
        PRICES.failed_attempt,
    )
    assert (outcome.auth, outcome.credentials) == (Auth.FAILED, C.REJECTED)
    assert outcome.remembers_seconds == 30 * 86_400


@pytest.mark.parametrize("state", [C.ACCEPTED, None])
def test_credentials_that_were_taken_get_one_second_chance(state):
    """Of a link that was live within the week; the second refusal is final."""
    first = JUDGE.refused(
        intent(K.DEPLOY), AuthFailed("E_AUTH"), standing(state, watermark=LIVE_YESTERDAY)
    )
    assert (first.auth, first.credentials, first.remembers_seconds) == (Auth.SUSPECTED, None, None)
    assert first.charge is Charge.AUTH
    second = JUDGE.refused(
        intent(K.DEPLOY),
        AuthFailed("E_AUTH"),
        standing(state, watermark=LIVE_YESTERDAY, auth=Auth.SUSPECTED, auth_at=NOW),
    )
    assert (second.auth, second.credentials) == (Auth.FAILED, C.REJECTED)


@pytest.mark.parametrize("watermark", [None, NOW - timedelta(days=7, seconds=1)])
def test_a_link_that_was_not_live_lately_gets_no_second_chance(watermark):
    """Nothing says that the password was ever right, or still is."""
    outcome = JUDGE.refused(
        intent(K.DEPLOY), AuthFailed("E_AUTH"), standing(C.ACCEPTED, watermark=watermark)
    )
    assert outcome.auth is Auth.FAILED


@pytest.mark.parametrize(
    ("failure", "charge", "usd"),
    [
        (TimezoneUndetected("E_SERVER_TIMEZONE"), Charge.TIMEZONE, PRICES.failed_attempt),
        (ServerNotFound("E_SRV_NOT_FOUND"), Charge.NONE, FREE),
        (QuotaExceeded("quota"), Charge.NONE, FREE),
        (TopUpRequired("top up"), Charge.NONE, FREE),
        (Throttled("429", retry_after_seconds=1), Charge.NONE, FREE),
        (
            Held("held", retry_after_seconds=1, scope="user:main", cause="billing"),
            Charge.NONE,
            FREE,
        ),
    ],
)
def test_other_refusals_cost_what_they_cost_and_keep_the_password(failure, charge, usd):
    """It goes on waiting, and the broker is not said to have refused it."""
    outcome = JUDGE.refused(intent(K.CREATE), failure, standing())
    assert (outcome.code, outcome.charge, outcome.usd) == (failure.code, charge, usd)
    assert outcome.problem == str(failure)
    assert (outcome.credentials, outcome.auth, outcome.locked_seconds) == (None, None, None)


def test_a_lock_is_noted_for_as_long_as_it_lasts():
    """It outlives a restart, and other passwords."""
    lock = ValidationLocked("later", retry_after_seconds=3600, scope="account")
    outcome = JUDGE.refused(intent(K.UPDATE), lock, standing())
    assert (outcome.locked_seconds, outcome.charge) == (3600, Charge.NONE)


@pytest.mark.parametrize(
    ("kind", "usd"),
    [
        (K.CREATE, "2.172"),
        (K.UPDATE, "0.105"),
        (K.DEPLOY, "0.105"),
        (K.UNDEPLOY, None),
        (K.DELETE, None),
    ],
)
def test_the_worst_is_reserved(kind, usd):
    """A call that can fail for more than it costs is reserved at the failure's price."""
    assert worst_usd(kind, PRICES) == (None if usd is None else Decimal(usd))


def test_prices_are_those_that_were_written():
    """0.072 is no binary fraction, and no cent is lost over it."""
    prices = prices_of(MoneySettings(add_usd=2.1, deployment_usd=0.072, failed_attempt_usd=0.3))
    assert (prices.add, prices.deployment) == (Decimal("2.1"), Decimal("0.072"))
    assert worst_usd(K.DEPLOY, prices) == Decimal("0.3")
