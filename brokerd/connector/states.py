"""Which phase follows which: the table of a link's life, and the only function that reads it.

Theory. A link is wanted and unowned (queued), then one node claims it. Every attempt walks
connecting → verifying → syncing → live; an interruption of the stream goes back to syncing on
the same session. A failure that time may cure ends the attempt in backoff, a refusal in blocked, a
wrong account in quarantined; from there only a new dial or a new claim leads on. Leaving, for
whatever reason, passes through draining. A pair that is missing here is our bug, never the
broker's, and says so.
"""

from enum import StrEnum

from brokerd.domain import Phase
from brokerd.errors import BrokerdError


class LinkEvent(StrEnum):
    """What happens to a link."""

    CLAIMED = "claimed"  # a node took it
    DIALLED = "dialled"  # an attempt begins
    ANSWERED = "answered"  # its terminal spoke
    IDENTIFIED = "identified"  # it is the account that was registered
    CAUGHT_UP = "caught_up"  # a pull closed the sync
    INTERRUPTED = "interrupted"  # the stream broke off; the session may mend by itself
    LOST = "lost"  # a transient failure
    REFUSED = "refused"  # MetaApi or its operator refuses
    MISMATCHED = "mismatched"  # somebody else's account answered
    LEAVING = "leaving"  # told to give the slot back
    RELEASED = "released"  # gave it back, still wanted
    UNWANTED = "unwanted"  # gave it back, paused
    DELETED = "deleted"  # gave it back, to be forgotten


class IllegalTransition(BrokerdError):
    """A phase got an event it has no row for."""

    code = "illegal_transition"


P, E = Phase, LinkEvent
_ENDINGS = {
    E.LOST: P.BACKOFF,
    E.REFUSED: P.BLOCKED,
    E.MISMATCHED: P.QUARANTINED,
    E.LEAVING: P.DRAINING,
}
_WAITING = {E.DIALLED: P.CONNECTING, E.LOST: P.BACKOFF, E.LEAVING: P.DRAINING}
_ENDED = {E.CLAIMED: P.CLAIMED, **_WAITING}
_CLAIM = {E.CLAIMED: P.CLAIMED}

TRANSITIONS: dict[Phase, dict[LinkEvent, Phase]] = {
    P.QUEUED: _CLAIM,
    P.CLAIMED: _WAITING,
    P.CONNECTING: {E.ANSWERED: P.VERIFYING, **_ENDINGS},
    P.VERIFYING: {E.IDENTIFIED: P.SYNCING, **_ENDINGS},
    P.SYNCING: {E.CAUGHT_UP: P.LIVE, E.INTERRUPTED: P.SYNCING, **_ENDINGS},
    P.LIVE: {E.INTERRUPTED: P.SYNCING, **_ENDINGS},
    P.BACKOFF: _ENDED,
    P.BLOCKED: _ENDED,
    P.QUARANTINED: _ENDED,
    P.DRAINING: {E.RELEASED: P.QUEUED, E.UNWANTED: P.PAUSED, E.DELETED: P.DELETING},
    P.PAUSED: _CLAIM,
    P.DELETING: _CLAIM,
}


def step(phase: Phase, event: LinkEvent) -> Phase:
    """Return the phase that follows; raises `IllegalTransition` for a pair that must not happen."""
    try:
        return TRANSITIONS[phase][event]
    except KeyError:
        raise IllegalTransition(f"no transition from {phase} on {event}") from None
