"""Which phase follows which and what ends a wait: the tables of a link's life.

Theory. A link is wanted and unowned (queued), then one node claims it. Every attempt walks
connecting → verifying → syncing → live, through provisioning where its MetaApi account is not
deployed; an interruption of the stream goes back to syncing on the same session, silence to
suspect. A failure that time may cure ends the attempt in backoff, a refusal in blocked, refused
credentials in auth_failed (or in auth_suspect before one last attempt), a wrong account in
quarantined; from there a new dial or a new claim leads on. Leaving, for whatever reason, passes
through draining. What nobody runs any more, because it was given back, its node died or its wait
is over, is released: it queues. A pair that is missing here is our bug, never the broker's, and
says so.

Every phase that waits for something has a deadline here, and the event that follows it. What has
none waits for its client (paused, stopped, auth_failed, deleting), or for its turn among others
(queued). A claimed link waits for nothing but the store to note that, and dials without it then.
"""

from dataclasses import dataclass
from enum import StrEnum

from brokerd.config.settings import LinkSettings
from brokerd.domain import Phase
from brokerd.errors import BrokerdError


class LinkEvent(StrEnum):
    """What happens to a link."""

    CLAIMED = "claimed"  # a node took it
    PREPARING = "preparing"  # its MetaApi account must be created, deployed or undeployed first
    DIALLED = "dialled"  # an attempt begins
    ANSWERED = "answered"  # its terminal spoke
    IDENTIFIED = "identified"  # it is the account that was registered
    CAUGHT_UP = "caught_up"  # a pull closed the sync
    SILENT = "silent"  # nothing was heard for too long
    HEARD = "heard"  # it was heard again, on the same session
    INTERRUPTED = "interrupted"  # the stream broke off; the session may mend by itself
    LOST = "lost"  # a transient failure
    REFUSED = "refused"  # MetaApi or its operator refuses
    MISMATCHED = "mismatched"  # somebody else's account answered
    AUTH_DOUBTED = "auth_doubted"  # the broker refuses credentials that it took last week
    AUTH_REFUSED = "auth_refused"  # it refuses them for good
    LEAVING = "leaving"  # told to give the slot back
    RELEASED = "released"  # nobody runs it, and it is wanted
    UNWANTED = "unwanted"  # nobody runs it, paused
    STOPPED = "stopped"  # nobody runs it, and its MetaApi account is undeployed
    DELETED = "deleted"  # nobody runs it, to be forgotten


class IllegalTransition(BrokerdError):
    """A phase got an event it has no row for."""

    code = "illegal_transition"


P, E = Phase, LinkEvent
_RESTS = {
    E.RELEASED: P.QUEUED,
    E.UNWANTED: P.PAUSED,
    E.STOPPED: P.STOPPED,
    E.DELETED: P.DELETING,
}
_ENDINGS = {
    E.LOST: P.BACKOFF,
    E.REFUSED: P.BLOCKED,
    E.MISMATCHED: P.QUARANTINED,
    E.AUTH_DOUBTED: P.AUTH_SUSPECT,
    E.AUTH_REFUSED: P.AUTH_FAILED,
    E.LEAVING: P.DRAINING,
    E.RELEASED: P.QUEUED,
}
_BEGINNINGS = {E.PREPARING: P.PROVISIONING, E.DIALLED: P.CONNECTING}
_ENDED = {
    E.CLAIMED: P.CLAIMED,
    **_BEGINNINGS,
    E.LOST: P.BACKOFF,
    E.LEAVING: P.DRAINING,
    **_RESTS,
}


def _resting(phase: Phase) -> dict[LinkEvent, Phase]:
    others = {event: after for event, after in _RESTS.items() if after is not phase}
    return {E.CLAIMED: P.CLAIMED, **others}


TRANSITIONS: dict[Phase, dict[LinkEvent, Phase]] = {
    P.QUEUED: _resting(P.QUEUED),
    P.CLAIMED: {**_BEGINNINGS, **_ENDINGS},
    P.PROVISIONING: {**_BEGINNINGS, **_ENDINGS, **_RESTS},
    P.CONNECTING: {E.PREPARING: P.PROVISIONING, E.ANSWERED: P.VERIFYING, **_ENDINGS},
    P.VERIFYING: {E.IDENTIFIED: P.SYNCING, **_ENDINGS},
    P.SYNCING: {E.CAUGHT_UP: P.LIVE, E.INTERRUPTED: P.SYNCING, **_ENDINGS},
    P.LIVE: {E.SILENT: P.SUSPECT, E.INTERRUPTED: P.SYNCING, **_ENDINGS},
    P.SUSPECT: {E.HEARD: P.LIVE, E.INTERRUPTED: P.SYNCING, **_ENDINGS},
    P.BACKOFF: _ENDED,
    P.AUTH_SUSPECT: _ENDED,
    P.AUTH_FAILED: _ENDED,
    P.BLOCKED: _ENDED,
    P.QUARANTINED: _ENDED,
    P.DRAINING: _RESTS,
    P.PAUSED: _resting(P.PAUSED),
    P.STOPPED: _resting(P.STOPPED),
    P.DELETING: _resting(P.DELETING),
}


def step(phase: Phase, event: LinkEvent) -> Phase:
    """Return the phase that follows; raises `IllegalTransition` for a pair that must not happen."""
    try:
        return TRANSITIONS[phase][event]
    except KeyError:
        raise IllegalTransition(f"no transition from {phase} on {event}") from None


class Since(StrEnum):
    """What a deadline counts from."""

    ENTRY = "entry"  # the phase began
    PROGRESS = "progress"  # something was achieved, or a broker that is away was heard of
    HEARD = "heard"  # the stream spoke
    TOLD = "told"  # at the time that is shown as the next attempt's


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """How long a phase waits, and what happens then."""

    seconds: float
    since: Since
    event: LinkEvent


def deadlines(settings: LinkSettings, *, provision_seconds: float) -> dict[Phase, Deadline]:
    """Return the deadlines of all phases that time alone ends.

    `provision_seconds` is what bringing an account up may take (`Provisioning.timeout_seconds`).
    """
    told = _until(0.0, Since.TOLD, E.RELEASED)
    return {
        P.CLAIMED: _until(settings.report_seconds, Since.ENTRY, E.DIALLED),
        P.PROVISIONING: _until(provision_seconds, Since.ENTRY, E.LOST),
        P.CONNECTING: _until(settings.connect_timeout_seconds, Since.ENTRY, E.LOST),
        P.VERIFYING: _until(settings.verify_timeout_seconds, Since.ENTRY, E.LOST),
        P.SYNCING: _until(settings.sync_stall_seconds, Since.PROGRESS, E.LOST),
        P.LIVE: _until(settings.suspect_seconds, Since.HEARD, E.SILENT),
        P.SUSPECT: _until(settings.probe_seconds, Since.ENTRY, E.LOST),
        P.DRAINING: _until(settings.close_timeout_seconds, Since.ENTRY, E.RELEASED),
        P.BACKOFF: told,
        P.AUTH_SUSPECT: told,
        P.BLOCKED: told,
        P.QUARANTINED: told,
    }


def _until(seconds: float, since: Since, event: LinkEvent) -> Deadline:
    return Deadline(seconds=seconds, since=since, event=event)
