"""What is known of a link, folded into conditions."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.domain import Desired, LinkStatus, Phase, Proof
from brokerd.health.conditions import (
    STARVED_SECONDS,
    ConditionType,
    Facts,
    Reason,
    Truth,
    conditions,
    shown,
)

SINCE = datetime(2026, 11, 21, 9, tzinfo=UTC)
QUEUED = SINCE + timedelta(minutes=5)
PROVEN = SINCE + timedelta(minutes=1)


def facts(phase, *, reason=None, is_owned=True, proof=Proof.PROVEN, **values):
    """Build facts of an owned link that was proven."""
    status = LinkStatus(
        phase=phase,
        reason=reason or phase.capitalize(),
        message="as told",
        observed_generation=3,
        since=SINCE,
        proof=proof,
        proof_detail="12 deals",
        proven_at=PROVEN,
    )
    made = Facts(
        status=status,
        desired=Desired.LIVE,
        is_owned=is_owned,
        is_deleted=False,
        queued_at=QUEUED,
        not_before=None,
        waiting_seconds=None,
    )
    return replace(made, **values)


def truths(of):
    """Return the statuses' first letters in the order of `ConditionType`."""
    found = conditions(of)
    assert [each.type for each in found] == list(ConditionType)
    return "".join(each.status[0] for each in found)


def reason_of(of, kind=ConditionType.READY):
    """Return the reason of one condition."""
    return next(each.reason for each in conditions(of) if each.type is kind)


WAITING = {"is_owned": False, "waiting_seconds": 3.0}


# Ready Claimed · CredentialsValid Provisioned TransportConnected BrokerConnected ·
# IdentityVerified Synchronized LedgerProven · WithinBudget MarketOpen Draining
@pytest.mark.parametrize(
    ("of", "expected", "reason"),
    [
        (facts(Phase.LIVE), "TT TTTT TTT TUF", "Live"),
        (facts(Phase.LIVE, proof=Proof.UNKNOWN), "TT TTTT TTU TUF", "Live"),
        (facts(Phase.LIVE, proof=Proof.MISMATCH), "FT TTTT TTF TUF", "BalanceMismatch"),
        (facts(Phase.LIVE, is_market_open=True), "TT TTTT TTT TTF", "Live"),
        (facts(Phase.LIVE, is_market_open=False), "TT TTTT TTT TFF", "Live"),
        (facts(Phase.CLAIMED), "FT UUFU UFT TUF", "Connecting"),
        (facts(Phase.PROVISIONING), "FT UFFU UFT TUF", "Provisioning"),
        (facts(Phase.CONNECTING), "FT UUFU UFT TUF", "Connecting"),
        (facts(Phase.SUSPECT, reason="Silent"), "FT TTUU TUT TUF", "Silent"),
        (facts(Phase.VERIFYING), "FT UTTU UFT TUF", "NotChecked"),
        (facts(Phase.SYNCING), "FT TTTT TFT TUF", "Syncing"),
        (facts(Phase.SYNCING, reason="Reconnecting"), "FT TTFT TFT TUF", "Reconnecting"),
        (
            facts(Phase.SYNCING, reason="BrokerDisconnected", is_market_open=True),
            "FT TTTF TFT TTF",
            "BrokerDisconnected",
        ),
        (
            facts(Phase.SYNCING, reason="BrokerDisconnected", is_market_open=False),
            "FT TTTF TFT TFF",
            "MarketClosed",
        ),
        (facts(Phase.SYNCING, reason="Resynchronizing"), "FT TTTT TFT TUF", "Syncing"),
        (facts(Phase.BACKOFF, reason="LinkLost"), "FT UUFU UFT TUF", "LinkLost"),
        (facts(Phase.BACKOFF, reason="LinkLost", is_owned=False), "FF UUFU UFT TUF", "LinkLost"),
        (facts(Phase.AUTH_SUSPECT, reason="AuthSuspect"), "FT UUFU UFT TUF", "AuthSuspect"),
        (facts(Phase.AUTH_FAILED, reason="AuthFailed"), "FT FUFU UFT TUF", "AuthFailed"),
        (facts(Phase.BLOCKED, reason="Unauthorized"), "FT UUFU UFT TUF", "Unauthorized"),
        (facts(Phase.BLOCKED, reason="Billing"), "FT UUFU UFT FUF", "Billing"),
        (facts(Phase.BLOCKED, reason="BudgetExhausted"), "FT UUFU UFT FUF", "BudgetExhausted"),
        (
            facts(Phase.QUARANTINED, reason="IdentityMismatch"),
            "FT UUFU FFT TUF",
            "IdentityMismatch",
        ),
        (facts(Phase.DRAINING, reason="Leaving"), "FT UUUU UFT TUT", "Leaving"),
        (facts(Phase.QUEUED, **WAITING), "FF UUFU UFT TUF", "Queued"),
        (facts(Phase.LIVE, **WAITING), "FF UUFU UFT TUF", "Queued"),
        (facts(Phase.BACKOFF, **WAITING), "FF UUFU UFT TUF", "Queued"),
        (
            facts(Phase.QUEUED, is_owned=False, waiting_seconds=STARVED_SECONDS + 1),
            "FF UUFU UFT TUF",
            "Starved",
        ),
        (
            facts(Phase.PAUSED, is_owned=False, desired=Desired.PAUSED),
            "FF UUFU UFT TUF",
            "Paused",
        ),
        (facts(Phase.LIVE, is_deleted=True), "FT UUUU UFT TUF", "Deleted"),
    ],
    ids=str,
)
def test_conditions_of(of, expected, reason):
    """Each phase has its conditions, and Ready the reason of the first that fails."""
    assert truths(of) == expected.replace(" ", "")
    assert reason_of(of) == reason


def test_a_condition_that_fails_tells_what_its_owner_told():
    """The message stands where something is wrong; what is well, or no failure, needs none."""
    told = {each.type: each.message for each in conditions(facts(Phase.AUTH_FAILED))}
    assert told[ConditionType.CREDENTIALS_VALID] == "as told"
    assert told[ConditionType.CLAIMED] == told[ConditionType.MARKET_OPEN] == ""


@pytest.mark.parametrize(
    ("of", "phase", "since"),
    [
        (facts(Phase.LIVE), Phase.LIVE, SINCE),
        (facts(Phase.LIVE, **WAITING), Phase.QUEUED, QUEUED),
        (facts(Phase.LIVE, is_owned=False), Phase.QUEUED, QUEUED),
        (facts(Phase.QUEUED, **WAITING), Phase.QUEUED, SINCE),
        (facts(Phase.BLOCKED, is_owned=False), Phase.BLOCKED, SINCE),
        (facts(Phase.BLOCKED, **WAITING), Phase.QUEUED, QUEUED),
        (facts(Phase.LIVE, is_owned=False, desired=Desired.PAUSED), Phase.PAUSED, SINCE),
        (facts(Phase.LIVE, desired=Desired.PAUSED), Phase.LIVE, SINCE),
        (facts(Phase.DRAINING, is_deleted=True), Phase.DELETING, SINCE),
    ],
    ids=str,
)
def test_the_phase_shown(of, phase, since):
    """A report is believed while its owner holds the lease; else the lease says what is."""
    assert (shown(of).phase, shown(of).since) == (phase, since)


def test_the_proof_carries_its_own_time_and_detail():
    """When it was judged and what it found, not when the phase began."""
    (proven,) = (
        each for each in conditions(facts(Phase.LIVE)) if each.type is ConditionType.LEDGER_PROVEN
    )
    assert (proven.last_transition_at, proven.message, proven.reason) == (
        PROVEN,
        "12 deals",
        "BalanceProven",
    )
    assert proven.observed_generation == 3


@given(
    phase=st.sampled_from(Phase),
    proof=st.sampled_from(Proof),
    desired=st.sampled_from(Desired),
    is_owned=st.booleans(),
    is_deleted=st.booleans(),
    waiting=st.none() | st.floats(0, 1e6),
    is_market_open=st.none() | st.booleans(),
)
def test_no_link_is_ready_without_owner_and_session(  # noqa: PLR0917  # one per dimension
    phase, proof, desired, is_owned, is_deleted, waiting, is_market_open
):
    """Ready is True exactly for an owned, living, live link whose ledger is not disproven."""
    of = facts(
        phase,
        proof=proof,
        desired=desired,
        is_owned=is_owned,
        is_deleted=is_deleted,
        waiting_seconds=waiting,
        is_market_open=is_market_open,
    )
    expected = phase is Phase.LIVE and is_owned and not is_deleted and proof is not Proof.MISMATCH
    found = conditions(of)
    assert (found[0].status is Truth.TRUE) == expected
    published = {*Reason, phase.capitalize()}
    assert all(each.reason in published for each in found)


@pytest.mark.parametrize(
    ("phase", "has_errand", "expected"),
    [
        (Phase.LIVE, True, (Phase.STOPPED, "Undeploying")),
        (Phase.STOPPED, True, (Phase.STOPPED, "Undeploying")),
        (Phase.STOPPED, False, (Phase.STOPPED, "Stopped")),
        (Phase.BACKOFF, True, (Phase.BACKOFF, "Backoff")),
        (Phase.BLOCKED, True, (Phase.BLOCKED, "Blocked")),
        (Phase.BLOCKED, False, (Phase.STOPPED, "Stopped")),
    ],
)
def test_a_stopped_link_says_whether_its_account_is_put_away(phase, has_errand, expected):
    """And what keeps it from being, because that goes on costing."""
    now = shown(facts(phase, is_owned=False, desired=Desired.STOPPED, has_errand=has_errand))
    assert (now.phase, now.reason) == expected
