"""Whether a link is well: what is known of it folded into conditions, by rules without I/O.

Theory. A condition is True, False or Unknown, and Unknown is an honest answer: nobody looked, or
what was seen is no longer true of now. A link that nobody runs has no session, whatever was last
reported of it. The roll-up Ready is True only when every condition that live deals depend on is
True and the ledger is not disproven; otherwise it carries the reason of the first that fails, in
the order in which a link comes up.

`last_transition_at` is when what a condition is derived from last changed: the phase, the lease
or the proof. The condition itself may have had its status for longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from brokerd.domain import Desired, LinkStatus, Phase, Proof

STARVED_SECONDS = 120.0
"""A link that waits for longer says that it starves (api.md, link states)."""


class ConditionType(StrEnum):
    """What a condition speaks of."""

    READY = "Ready"
    CLAIMED = "Claimed"
    TRANSPORT_CONNECTED = "TransportConnected"
    IDENTITY_VERIFIED = "IdentityVerified"
    SYNCHRONIZED = "Synchronized"
    LEDGER_PROVEN = "LedgerProven"


class Truth(StrEnum):
    """What a condition says, as in Kubernetes."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    """Reasons that conditions find themselves; published and append-only (docs/api.md).

    Beside them stands the reason that a link's owner reported.
    """

    LIVE = "Live"
    OWNED = "Owned"
    QUEUED = "Queued"
    STARVED = "Starved"
    PAUSED = "Paused"
    DELETED = "Deleted"
    NO_SESSION = "NoSession"
    CONNECTING = "Connecting"
    CONNECTED = "Connected"
    NOT_CHECKED = "NotChecked"
    IDENTITY_MATCHES = "IdentityMatches"
    SYNCING = "Syncing"
    CAUGHT_UP = "CaughtUp"
    BALANCE_PROVEN = "BalanceProven"
    BALANCE_MISMATCH = "BalanceMismatch"
    NOT_PROVEN = "NotProven"
    DEALS_QUARANTINED = "DealsQuarantined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One thing that is so, is not so, or is not known."""

    type: ConditionType
    status: Truth
    reason: str
    message: str
    last_transition_at: datetime
    observed_generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What conditions are made of: the owner's last report, and the lease now.

    `open_gaps` are deals that the ledger lacks because they cannot be read. `waiting_seconds` is
    how long a link that may be claimed has waited; None when it does not.
    """

    status: LinkStatus
    desired: Desired
    is_owned: bool
    is_deleted: bool
    queued_at: datetime
    not_before: datetime | None
    waiting_seconds: float | None
    open_gaps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The phase that is true of a link now, with its reason and since when."""

    phase: Phase
    reason: str
    message: str
    since: datetime


_UNOWNED_ENDINGS = frozenset(
    {
        Phase.BACKOFF,
        Phase.AUTH_SUSPECT,
        Phase.AUTH_FAILED,
        Phase.BLOCKED,
        Phase.QUARANTINED,
    }
)
_SESSION_PHASES = frozenset({Phase.VERIFYING, Phase.SYNCING, Phase.LIVE, Phase.SUSPECT})
_INTERRUPTIONS = frozenset({"BrokerDisconnected", "Reconnecting"})


def shown(facts: Facts) -> Shown:
    """Correct the last report by what the lease says: nobody is in a session without an owner."""
    status = facts.status
    reported = Shown(
        phase=status.phase, reason=status.reason, message=status.message, since=status.since
    )
    if facts.is_deleted:
        return Shown(
            phase=Phase.DELETING, reason=Reason.DELETED, message=status.message, since=status.since
        )
    if facts.is_owned:
        return reported
    if facts.desired is Desired.PAUSED:
        return _resting(reported, Phase.PAUSED, Reason.PAUSED, status.since)
    if facts.waiting_seconds is None and status.phase in _UNOWNED_ENDINGS:
        return reported
    return _resting(reported, Phase.QUEUED, Reason.QUEUED, facts.queued_at)


def _resting(reported: Shown, phase: Phase, reason: Reason, since: datetime) -> Shown:
    if reported.phase is phase:
        return reported
    return Shown(phase=phase, reason=reason, message="", since=since)


def conditions(facts: Facts) -> Sequence[Condition]:
    """Return all conditions of a link, Ready first."""
    now = shown(facts)
    parts = [
        _claimed(facts, now),
        _transport(facts, now),
        _identity(facts, now),
        _synchronized(facts, now),
        _proven(facts),
    ]
    return [_ready(facts, now, parts), *parts]


def _ready(facts: Facts, now: Shown, parts: Sequence[Condition]) -> Condition:
    for part in parts:
        is_proof = part.type is ConditionType.LEDGER_PROVEN
        if part.status is Truth.FALSE or (part.status is Truth.UNKNOWN and not is_proof):
            return Condition(
                type=ConditionType.READY,
                status=Truth.FALSE,
                reason=part.reason,
                message=part.message,
                last_transition_at=part.last_transition_at,
                observed_generation=part.observed_generation,
            )
    return _condition(facts, now, ConditionType.READY, (Truth.TRUE, Reason.LIVE))


def _claimed(facts: Facts, now: Shown) -> Condition:
    kind = ConditionType.CLAIMED
    if facts.is_owned:
        return _condition(facts, now, kind, (Truth.TRUE, Reason.OWNED))
    if now.phase is Phase.PAUSED:
        return _condition(facts, now, kind, (Truth.FALSE, Reason.PAUSED))
    if now.phase in _UNOWNED_ENDINGS:
        return _condition(facts, now, kind, (Truth.FALSE, now.reason))
    is_starved = facts.waiting_seconds is not None and facts.waiting_seconds > STARVED_SECONDS
    return _condition(
        facts, now, kind, (Truth.FALSE, Reason.STARVED if is_starved else Reason.QUEUED)
    )


def _transport(facts: Facts, now: Shown) -> Condition:
    kind = ConditionType.TRANSPORT_CONNECTED
    match now.phase:
        case Phase.VERIFYING | Phase.LIVE:
            said: tuple[Truth, str] = (Truth.TRUE, Reason.CONNECTED)
        case Phase.SYNCING:
            is_down = now.reason in _INTERRUPTIONS
            said = (Truth.FALSE, now.reason) if is_down else (Truth.TRUE, Reason.CONNECTED)
        case Phase.CLAIMED | Phase.CONNECTING:
            said = (Truth.FALSE, Reason.CONNECTING)
        case (
            Phase.BACKOFF
            | Phase.AUTH_SUSPECT
            | Phase.AUTH_FAILED
            | Phase.BLOCKED
            | Phase.QUARANTINED
        ):
            said = (Truth.FALSE, now.reason)
        case Phase.SUSPECT | Phase.DRAINING | Phase.DELETING:
            said = (Truth.UNKNOWN, now.reason)
        case Phase.QUEUED | Phase.PROVISIONING | Phase.PAUSED | Phase.STOPPED:
            said = (Truth.FALSE, Reason.NO_SESSION)
        case _:
            assert_never(now.phase)
    return _condition(facts, now, kind, said)


def _identity(facts: Facts, now: Shown) -> Condition:
    kind = ConditionType.IDENTITY_VERIFIED
    if now.phase in {Phase.SYNCING, Phase.LIVE, Phase.SUSPECT}:
        return _condition(facts, now, kind, (Truth.TRUE, Reason.IDENTITY_MATCHES))
    if now.phase is Phase.QUARANTINED:
        return _condition(facts, now, kind, (Truth.FALSE, now.reason))
    return _condition(facts, now, kind, (Truth.UNKNOWN, Reason.NOT_CHECKED))


def _synchronized(facts: Facts, now: Shown) -> Condition:
    kind = ConditionType.SYNCHRONIZED
    if now.phase is Phase.LIVE:
        return _condition(facts, now, kind, (Truth.TRUE, Reason.CAUGHT_UP))
    if now.phase is Phase.SUSPECT:
        return _condition(facts, now, kind, (Truth.UNKNOWN, now.reason))
    reason = Reason.SYNCING if now.phase in _SESSION_PHASES else Reason.NO_SESSION
    return _condition(facts, now, kind, (Truth.FALSE, reason))


def _proven(facts: Facts) -> Condition:
    status, message = facts.status, facts.status.proof_detail
    match status.proof:
        case _ if facts.open_gaps:  # whatever was proven before they came
            truth, reason = Truth.UNKNOWN, Reason.DEALS_QUARANTINED
            message = f"unreadable deals in quarantine: {facts.open_gaps}"
        case Proof.PROVEN:
            truth, reason = Truth.TRUE, Reason.BALANCE_PROVEN
        case Proof.MISMATCH:
            truth, reason = Truth.FALSE, Reason.BALANCE_MISMATCH
        case Proof.UNKNOWN:
            truth, reason = Truth.UNKNOWN, Reason.NOT_PROVEN
        case _:
            assert_never(status.proof)
    return Condition(
        type=ConditionType.LEDGER_PROVEN,
        status=truth,
        reason=reason,
        message=message,
        last_transition_at=status.proven_at or status.since,
        observed_generation=status.observed_generation,
    )


def _condition(facts: Facts, now: Shown, kind: ConditionType, said: tuple[Truth, str]) -> Condition:
    status, reason = said
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message="" if status is Truth.TRUE else now.message,
        last_transition_at=now.since,
        observed_generation=facts.status.observed_generation,
    )
