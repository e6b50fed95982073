"""Whether a call is worth sending at all: breakers by cause, each with its own patience.

Theory. A breaker is closed while calls succeed. Failures of one cause open it: at once where a
single answer says it for everybody (a bad token, an empty balance, a bad certificate), else when
several callers failed in a row and none succeeded. While it is open nothing is sent. When its wait
is over one caller may probe, and only that one, with as many calls as it needs: what succeeds may
be another call than the one that failed. A probe that fails opens the breaker again, for longer
where the cause may pass by itself; a success closes it. For a cause that belongs to certain calls
only (an empty balance: some calls are free) the same kind of call must succeed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from brokerd.config.settings import GovernorSettings
from brokerd.connector.governor.ports import Call

PROBE_SECONDS = 60.0
"""A caller that has the probe and says nothing for so long has lost it."""
FORGOTTEN_SECONDS = 60.0
"""Failures that lie further apart are not failures in a row."""


class Cause(StrEnum):
    """What opens a breaker; the last three are refusals, in the words of the error tree."""

    TRANSPORT = "transport"  # nothing answers
    SERVER = "server"  # 5xx
    TOKEN = "unauthorized"  # noqa: S105  # a name
    BILLING = "billing"
    TLS = "tls_invalid"


class State(StrEnum):
    """What a breaker does with a call."""

    CLOSED = "closed"  # lets it through
    HALF_OPEN = "half_open"  # lets the prober through
    OPEN = "open"  # lets nobody through


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a cause opens a breaker: after how many callers, for how long at first and at most."""

    callers: int
    first_seconds: float
    longest_seconds: float
    is_of_call: bool = False  # whether the same kind of call must succeed


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """One breaker. `wait_seconds` is 0 while closed; `failed` are callers, since a success."""

    failed: frozenset[str] = frozenset()
    failed_at: float = 0.0
    wait_seconds: float = 0.0
    until: float = 0.0
    opened_by: str = ""
    prober: str | None = None
    probing_until: float = 0.0


def rules(settings: GovernorSettings) -> Mapping[Cause, Rule]:
    """Return how each cause opens its breakers."""
    outage = Rule(
        callers=settings.breaker_callers,
        first_seconds=settings.breaker_first_seconds,
        longest_seconds=settings.breaker_longest_seconds,
    )
    refusal = Rule(
        callers=1,
        first_seconds=settings.refused_probe_seconds,
        longest_seconds=settings.refused_probe_seconds,
    )
    return {
        Cause.TRANSPORT: outage,
        Cause.SERVER: outage,
        Cause.TOKEN: refusal,
        Cause.BILLING: replace(refusal, is_of_call=True),
        Cause.TLS: refusal,
    }


def state(breaker: Breaker, *, now: float) -> State:
    """Return what the breaker does now."""
    if breaker.wait_seconds == 0.0:
        return State.CLOSED
    return State.OPEN if now < breaker.until else State.HALF_OPEN


def is_forgotten(breaker: Breaker, *, now: float) -> bool:
    """Say whether a closed breaker's failures are too old to matter."""
    return breaker.wait_seconds == 0.0 and now - breaker.failed_at > FORGOTTEN_SECONDS


def has_probe(breaker: Breaker, *, call: Call, now: float) -> bool:
    """Say whether the caller has the probe already."""
    return breaker.prober == _caller(call) and now < breaker.probing_until


def is_probed(breaker: Breaker, *, call: Call, now: float) -> bool:
    """Say whether somebody else has the probe."""
    return breaker.prober not in {None, _caller(call)} and now < breaker.probing_until


def probing(breaker: Breaker, *, call: Call, now: float) -> Breaker:
    """Give the probe to the caller."""
    return replace(breaker, prober=_caller(call), probing_until=now + PROBE_SECONDS)


def failed(
    breaker: Breaker, rule: Rule, *, call: Call, now: float, hint_seconds: float = 0.0
) -> Breaker:
    """Return the breaker after a failure; a failed probe waits longer, an early straggler not."""
    earlier = frozenset[str]() if is_forgotten(breaker, now=now) else breaker.failed
    callers = earlier | {_caller(call)}
    match state(breaker, now=now):
        case State.OPEN:
            return breaker  # it was sent before the breaker opened
        case State.CLOSED if len(callers) < rule.callers:
            return replace(breaker, failed=callers, failed_at=now)
        case _:
            doubled = max(rule.first_seconds, breaker.wait_seconds * 2)
            wait = max(min(rule.longest_seconds, doubled), hint_seconds)
            return Breaker(wait_seconds=wait, until=now + wait, opened_by=call.method)


def succeeded(breaker: Breaker, rule: Rule, *, call: Call, now: float) -> Breaker:
    """Return the breaker after a success."""
    if state(breaker, now=now) is State.OPEN:
        return breaker  # it was sent before the breaker opened
    if rule.is_of_call and breaker.opened_by not in {"", call.method}:
        return breaker if call.account_id is not None else released(breaker, call=call)
    return Breaker()


def released(breaker: Breaker, *, call: Call) -> Breaker:
    """Take the probe back from a caller whose call told nothing, or is not told apart by it."""
    return replace(breaker, prober=None) if breaker.prober == _caller(call) else breaker


def _caller(call: Call) -> str:
    """Name who a call is for: failures of one account alone say little of the others."""
    return call.account_id or call.caller or call.method
