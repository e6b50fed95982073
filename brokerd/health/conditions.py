"""Whether a link is well: what is known of it folded into conditions, by rules without I/O.

Theory. A condition is True, False or Unknown, and Unknown is an honest answer: nobody looked, or
what was seen is no longer true of now. A link that nobody runs has no session, whatever was last
reported of it. What a phase says is a table, one row a phase; only where the owner's reason tells
more does a rule look at it. The roll-up Ready is True only when every condition that live deals
depend on is True and the ledger is not disproven; otherwise it carries the reason of the first that
fails, in the order in which a link comes up.

`last_transition_at` is when what a condition is derived from last changed: the phase, the lease
or the proof. The condition itself may have had its status for longer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    CREDENTIALS_VALID = "CredentialsValid"
    PROVISIONED = "Provisioned"
    TRANSPORT_CONNECTED = "TransportConnected"
    BROKER_CONNECTED = "BrokerConnected"
    IDENTITY_VERIFIED = "IdentityVerified"
    SYNCHRONIZED = "Synchronized"
    LEDGER_PROVEN = "LedgerProven"
    WITHIN_BUDGET = "WithinBudget"
    MARKET_OPEN = "MarketOpen"
    DRAINING = "Draining"


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
    STOPPED = "Stopped"
    UNDEPLOYING = "Undeploying"
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
    ACCEPTED = "Accepted"
    DEPLOYED = "Deployed"
    PROVISIONING = "Provisioning"
    BROKER_DISCONNECTED = "BrokerDisconnected"
    MARKET_CLOSED = "MarketClosed"
    WITHIN_BUDGET = "WithinBudget"
    IN_SESSION = "InSession"
    OUT_OF_SESSION = "OutOfSession"
    HOURS_UNKNOWN = "HoursUnknown"
    NOT_DRAINING = "NotDraining"


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
    how long a link that may be claimed has waited; None when it does not. `has_errand`: its
    MetaApi account must still be put away. `is_market_open` is by the broker's hours; None when
    nobody wrote them down.
    """

    status: LinkStatus
    desired: Desired
    is_owned: bool
    is_deleted: bool
    queued_at: datetime
    not_before: datetime | None
    waiting_seconds: float | None
    open_gaps: int = 0
    has_errand: bool = False
    is_market_open: bool | None = None


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
_RECONNECTING = "Reconnecting"
_MONEY = frozenset({"Billing", "Quota", "BudgetExhausted"})
"""Why a link is blocked, where money or a limit is what it lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What a condition says; without a reason of its own it gives the owner's."""

    status: Truth
    reason: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What a phase says of what a session is made of."""

    credentials: _Said
    provisioned: _Said
    transport: _Said
    broker: _Said
    identity: _Said
    synchronized: _Said


_UNSEEN = _Said(status=Truth.UNKNOWN, reason=Reason.NOT_CHECKED)
_AS_TOLD = _Said(status=Truth.FALSE)
_DOUBTED = _Said(status=Truth.UNKNOWN)
_NONE = _Said(status=Truth.FALSE, reason=Reason.NO_SESSION)
_CONNECTING = _Said(status=Truth.FALSE, reason=Reason.CONNECTING)
_CONNECTED = _Said(status=Truth.TRUE, reason=Reason.CONNECTED)
_SYNCING = _Said(status=Truth.FALSE, reason=Reason.SYNCING)
_RESTING = _Row(
    credentials=_UNSEEN,
    provisioned=_UNSEEN,
    transport=_NONE,
    broker=_UNSEEN,
    identity=_UNSEEN,
    synchronized=_NONE,
)
_FAILED = replace(_RESTING, transport=_AS_TOLD)
_LEAVING = replace(_RESTING, transport=_DOUBTED)
_LIVE = _Row(
    credentials=_Said(status=Truth.TRUE, reason=Reason.ACCEPTED),
    provisioned=_Said(status=Truth.TRUE, reason=Reason.DEPLOYED),
    transport=_CONNECTED,
    broker=_CONNECTED,
    identity=_Said(status=Truth.TRUE, reason=Reason.IDENTITY_MATCHES),
    synchronized=_Said(status=Truth.TRUE, reason=Reason.CAUGHT_UP),
)
_ROWS: Mapping[Phase, _Row] = {
    Phase.QUEUED: _RESTING,
    Phase.CLAIMED: replace(_RESTING, transport=_CONNECTING),
    Phase.PROVISIONING: replace(
        _RESTING, provisioned=_Said(status=Truth.FALSE, reason=Reason.PROVISIONING)
    ),
    Phase.CONNECTING: replace(_RESTING, transport=_CONNECTING),
    Phase.VERIFYING: replace(
        _LIVE, credentials=_UNSEEN, broker=_UNSEEN, identity=_UNSEEN, synchronized=_SYNCING
    ),
    Phase.SYNCING: replace(_LIVE, synchronized=_SYNCING),
    Phase.LIVE: _LIVE,
    Phase.SUSPECT: replace(_LIVE, transport=_DOUBTED, broker=_DOUBTED, synchronized=_DOUBTED),
    Phase.BACKOFF: _FAILED,
    Phase.AUTH_SUSPECT: replace(_FAILED, credentials=_DOUBTED),
    Phase.AUTH_FAILED: replace(_FAILED, credentials=_AS_TOLD),
    Phase.BLOCKED: _FAILED,
    Phase.QUARANTINED: replace(_FAILED, identity=_AS_TOLD),
    Phase.DRAINING: _LEAVING,
    Phase.PAUSED: _RESTING,
    Phase.STOPPED: replace(_RESTING, provisioned=_Said(status=Truth.FALSE, reason=Reason.STOPPED)),
    Phase.DELETING: _LEAVING,
}
_MAY_BE_UNKNOWN = frozenset(
    {
        ConditionType.CREDENTIALS_VALID,
        ConditionType.PROVISIONED,
        ConditionType.BROKER_CONNECTED,
        ConditionType.LEDGER_PROVEN,
    }
)
_SAYS_NOTHING_OF_READY = frozenset({ConditionType.MARKET_OPEN, ConditionType.DRAINING})


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
        return _rested(reported, Phase.PAUSED, Reason.PAUSED, status.since)
    if facts.desired is Desired.STOPPED:
        return _stopped(facts, reported)
    if facts.waiting_seconds is None and status.phase in _UNOWNED_ENDINGS:
        return reported
    return _rested(reported, Phase.QUEUED, Reason.QUEUED, facts.queued_at)


def _stopped(facts: Facts, reported: Shown) -> Shown:
    """Say whether the account is put away already; why it is not, if that failed."""
    if facts.has_errand and reported.phase in _UNOWNED_ENDINGS:
        return reported
    reason = Reason.UNDEPLOYING if facts.has_errand else Reason.STOPPED
    return replace(_rested(reported, Phase.STOPPED, reason, reported.since), reason=reason)


def _rested(reported: Shown, phase: Phase, reason: Reason, since: datetime) -> Shown:
    if reported.phase is phase:
        return reported
    return Shown(phase=phase, reason=reason, message="", since=since)


def conditions(facts: Facts) -> Sequence[Condition]:
    """Return all conditions of a link, Ready first."""
    now = shown(facts)
    row = _ROWS[now.phase]
    parts = [
        _claimed(facts, now),
        _condition(facts, now, ConditionType.CREDENTIALS_VALID, row.credentials),
        _condition(facts, now, ConditionType.PROVISIONED, row.provisioned),
        _condition(facts, now, ConditionType.TRANSPORT_CONNECTED, _transport(now, row)),
        _condition(facts, now, ConditionType.BROKER_CONNECTED, _broker(facts, now, row)),
        _condition(facts, now, ConditionType.IDENTITY_VERIFIED, row.identity),
        _condition(facts, now, ConditionType.SYNCHRONIZED, row.synchronized),
        _proven(facts),
        _condition(facts, now, ConditionType.WITHIN_BUDGET, _budget(now)),
        _condition(facts, now, ConditionType.MARKET_OPEN, _market(facts)),
        _condition(facts, now, ConditionType.DRAINING, _draining(now)),
    ]
    return [_ready(facts, now, parts), *parts]


def _ready(facts: Facts, now: Shown, parts: Sequence[Condition]) -> Condition:
    for part in parts:
        is_failing = part.status is Truth.FALSE or (
            part.status is Truth.UNKNOWN and part.type not in _MAY_BE_UNKNOWN
        )
        if is_failing and part.type not in _SAYS_NOTHING_OF_READY:
            return replace(part, type=ConditionType.READY, status=Truth.FALSE)
    said = _Said(status=Truth.TRUE, reason=Reason.LIVE)
    return _condition(facts, now, ConditionType.READY, said)


def _claimed(facts: Facts, now: Shown) -> Condition:
    if facts.is_owned:
        said = _Said(status=Truth.TRUE, reason=Reason.OWNED)
    elif now.phase in {Phase.PAUSED, Phase.STOPPED, *_UNOWNED_ENDINGS}:
        said = _AS_TOLD
    elif facts.waiting_seconds is not None and facts.waiting_seconds > STARVED_SECONDS:
        said = _Said(status=Truth.FALSE, reason=Reason.STARVED)
    else:
        said = _Said(status=Truth.FALSE, reason=Reason.QUEUED)
    return _condition(facts, now, ConditionType.CLAIMED, said)


def _transport(now: Shown, row: _Row) -> _Said:
    is_down = now.phase is Phase.SYNCING and now.reason == _RECONNECTING
    return _AS_TOLD if is_down else row.transport


def _broker(facts: Facts, now: Shown, row: _Row) -> _Said:
    """Say whether the terminal is logged in; out of hours nobody expects it to be."""
    if now.phase is not Phase.SYNCING or now.reason != Reason.BROKER_DISCONNECTED:
        return row.broker
    is_expected = facts.is_market_open is False
    reason = Reason.MARKET_CLOSED if is_expected else Reason.BROKER_DISCONNECTED
    return _Said(status=Truth.FALSE, reason=reason)


def _budget(now: Shown) -> _Said:
    if now.phase is Phase.BLOCKED and now.reason in _MONEY:
        return _AS_TOLD
    return _Said(status=Truth.TRUE, reason=Reason.WITHIN_BUDGET)


def _market(facts: Facts) -> _Said:
    match facts.is_market_open:
        case None:
            return _Said(status=Truth.UNKNOWN, reason=Reason.HOURS_UNKNOWN)
        case True:
            return _Said(status=Truth.TRUE, reason=Reason.IN_SESSION)
        case False:
            return _Said(status=Truth.FALSE, reason=Reason.OUT_OF_SESSION)


def _draining(now: Shown) -> _Said:
    if now.phase is Phase.DRAINING:
        return _Said(status=Truth.TRUE)
    return _Said(status=Truth.FALSE, reason=Reason.NOT_DRAINING)


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


def _condition(facts: Facts, now: Shown, kind: ConditionType, said: _Said) -> Condition:
    tells_more = said.status is not Truth.TRUE and kind not in _SAYS_NOTHING_OF_READY
    return Condition(
        type=kind,
        status=said.status,
        reason=now.reason if said.reason is None else said.reason,
        message=now.message if tells_more else "",
        last_transition_at=now.since,
        observed_generation=facts.status.observed_generation,
    )
