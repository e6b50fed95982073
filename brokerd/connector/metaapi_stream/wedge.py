"""When a client of the SDK is beyond repair: judged by facts, never by what it says of itself.

Theory. The SDK cannot be mended from outside once a loop of its own has died, so a client that is
wedged is replaced by a new one beside it. What a wedge looks like is not known beforehand; that
nothing moves any more is. An outage of MetaApi moves: attempts fail, and the next one follows.
Sessions that hear nothing at all look the same in both cases, so a replacement may come to nothing;
then the next one waits twice as long.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import inf

HANGING_CALLS = 10
"""So many awaits that were given up and still hang are no accident of one account."""
CLOSE_SECONDS = 15.0
"""A close takes seven seconds with a server that is mute; one that takes longer is stuck."""
PAUSE_SECONDS = 35.0
"""The SDK pauses up to 30 s between two attempts to reopen a socket."""
BROKEN_ATTEMPTS = 5
"""Attempts in a row that failed inside the SDK, not in the network: no later one will succeed."""
DEAF_SESSIONS = 5
"""Sessions in a row that heard nothing at all."""
DEAF_SECONDS = 20.0
"""A session that was closed earlier had no time to hear anything."""
FIRST_PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 3_600.0


class SocketState(StrEnum):
    """Where a socket is between two connections."""

    WAITING = "waiting"  # for its turn, or for the server's address: both may take their time
    CONNECTING = "connecting"  # an attempt is under way
    FAILED = "failed"  # an attempt failed; the next one waits for its turn at once
    UP = "up"
    DOWN = "down"  # lost; the SDK pauses, then waits for a turn


@dataclass(slots=True, kw_only=True)
class SocketLife:
    """What is known of one socket, from outside."""

    since: float  # on the monotonic clock, as all times here
    state: SocketState = SocketState.WAITING
    heard_at: float = -inf
    attempts: int = 0
    broken_attempts: int = 0  # in a row

    def enter(self, state: SocketState, *, now: float) -> None:
        """Change the state."""
        self.state, self.since = state, now

    def stuck_seconds(self, now: float) -> float:
        """Return since when the socket ought to have gone on; 0 where it may take its time."""
        is_bound = self.state in {SocketState.CONNECTING, SocketState.FAILED, SocketState.DOWN}
        return now - self.since if is_bound else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """The facts about a client."""

    hanging_calls: int = 0
    longest_close_seconds: float = 0.0
    longest_stuck_seconds: float = 0.0
    broken_attempts: int = 0
    deaf_sessions: int = 0


def why_wedged(vitals: Vitals, *, connect_seconds: float) -> str | None:
    """Return the reason to replace a client, None while it is well.

    `connect_seconds` is when the SDK gives an attempt up.
    """
    stuck_seconds = PAUSE_SECONDS + 2 * connect_seconds
    reasons = {
        "calls_hang": vitals.hanging_calls >= HANGING_CALLS,
        "close_stuck": vitals.longest_close_seconds > CLOSE_SECONDS,
        "socket_stuck": vitals.longest_stuck_seconds > stuck_seconds,
        "attempts_broken": vitals.broken_attempts >= BROKEN_ATTEMPTS,
        "sessions_deaf": vitals.deaf_sessions >= DEAF_SESSIONS,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def pause_seconds(replacements: int) -> float:
    """Return how old a client must be to be replaced, after so many that did not help."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(replacements, 10))
