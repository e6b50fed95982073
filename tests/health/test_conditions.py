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

T, F, U = Truth.TRUE, Truth.FALSE, Truth.UNKNOWN
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
    """Return the statuses: ready, claimed, transport, identity, synchronized, proven."""
    found = conditions(of)
    assert [each.type for each in found] == list(ConditionType)
    return tuple(each.status for each in found)


def reason_of(of, kind=ConditionType.READY):
    """Return the reason of one condition."""
    return next(each.reason for each in conditions(of) if each.type is kind)


WAITING = {"is_owned": False, "waiting_seconds": 3.0}


@pytest.mark.parametrize(
    ("of", "expected", "reason"),
    [
        (facts(Phase.LIVE), (T, T, T, T, T, T), "Live"),
        (facts(Phase.LIVE, proof=Proof.UNKNOWN), (T, T, T, T, T, U), "Live"),
        (facts(Phase.LIVE, proof=Proof.MISMATCH), (F, T, T, T, T, F), "BalanceMismatch"),
        (facts(Phase.CLAIMED), (F, T, F, U, F, T), "Connecting"),
        (facts(Phase.PROVISIONING), (F, T, F, U, F, T), "NoSession"),
        (facts(Phase.CONNECTING), (F, T, F, U, F, T), "Connecting"),
        (facts(Phase.SUSPECT, reason="Silent"), (F, T, U, T, U, T), "Silent"),
        (facts(Phase.VERIFYING), (F, T, T, U, F, T), "NotChecked"),
        (facts(Phase.SYNCING), (F, T, T, T, F, T), "Syncing"),
        (facts(Phase.SYNCING, reason="Reconnecting"), (F, T, F, T, F, T), "Reconnecting"),
        (
            facts(Phase.SYNCING, reason="BrokerDisconnected"),
            (F, T, F, T, F, T),
            "BrokerDisconnected",
        ),
        (facts(Phase.SYNCING, reason="Resynchronizing"), (F, T, T, T, F, T), "Syncing"),
        (facts(Phase.BACKOFF, reason="LinkLost"), (F, T, F, U, F, T), "LinkLost"),
        (
            facts(Phase.BACKOFF, reason="LinkLost", is_owned=False),
            (F, F, F, U, F, T),
            "LinkLost",
        ),
        (facts(Phase.BLOCKED, reason="Unauthorized"), (F, T, F, U, F, T), "Unauthorized"),
        (
            facts(Phase.QUARANTINED, reason="IdentityMismatch"),
            (F, T, F, F, F, T),
            "IdentityMismatch",
        ),
        (facts(Phase.DRAINING, reason="Leaving"), (F, T, U, U, F, T), "Leaving"),
        (facts(Phase.QUEUED, **WAITING), (F, F, F, U, F, T), "Queued"),
        (facts(Phase.LIVE, **WAITING), (F, F, F, U, F, T), "Queued"),
        (facts(Phase.BACKOFF, **WAITING), (F, F, F, U, F, T), "Queued"),
        (
            facts(Phase.QUEUED, is_owned=False, waiting_seconds=STARVED_SECONDS + 1),
            (F, F, F, U, F, T),
            "Starved",
        ),
        (
            facts(Phase.PAUSED, is_owned=False, desired=Desired.PAUSED),
            (F, F, F, U, F, T),
            "Paused",
        ),
        (facts(Phase.LIVE, is_deleted=True), (F, T, U, U, F, T), "Deleted"),
    ],
    ids=str,
)
def test_conditions_of(of, expected, reason):
    """Each phase has its conditions, and Ready the reason of the first that fails."""
    assert truths(of) == expected
    assert reason_of(of) == reason


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
    proven = conditions(facts(Phase.LIVE))[-1]
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
)
def test_no_link_is_ready_without_owner_and_session(  # noqa: PLR0917  # one per dimension
    phase, proof, desired, is_owned, is_deleted, waiting
):
    """Ready is True exactly for an owned, living, live link whose ledger is not disproven."""
    of = facts(
        phase,
        proof=proof,
        desired=desired,
        is_owned=is_owned,
        is_deleted=is_deleted,
        waiting_seconds=waiting,
    )
    expected = phase is Phase.LIVE and is_owned and not is_deleted and proof is not Proof.MISMATCH
    found = conditions(of)
    assert (found[0].status is T) == expected
    published = {*Reason, phase.capitalize()}
    assert all(each.reason in published for each in found)
