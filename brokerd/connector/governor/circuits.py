"""Which breakers a call passes, and what its end says of each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from brokerd.connector.governor.breaker import Cause
from brokerd.connector.governor.ports import Call, Service
from brokerd.domain import UserAction
from brokerd.errors import (
    BrokerdError,
    MalformedAnswer,
    NotConnected,
    Rejected,
    RemoteUnavailable,
    Synchronizing,
    Throttled,
    TlsInvalid,
    TopUpRequired,
    Unauthorized,
)

REFUSALS: Mapping[Cause, type[Rejected]] = {
    Cause.TOKEN: Unauthorized,
    Cause.BILLING: TopUpRequired,
    Cause.TLS: TlsInvalid,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """One breaker: what opens it, and for whom, as `user:main` or `client:london`."""

    cause: Cause
    scope: str

    def __str__(self) -> str:
        """Spell the circuit as the fleet knows it."""
        return f"{self.cause}:{self.scope}"

    @property
    def kind(self) -> str:
        """Return the scope's kind, of which there are few."""
        return self.scope.partition(":")[0]

    @property
    def user_action(self) -> UserAction:
        """Return who must act so that it closes."""
        refusal = REFUSALS.get(self.cause)
        return UserAction.NONE if refusal is None else refusal.user_action


SCOPE_KINDS: Mapping[Cause, Sequence[str]] = {
    Cause.TLS: tuple(Service),
    Cause.TRANSPORT: tuple(Service),
    Cause.SERVER: tuple(Service),
    Cause.TOKEN: ("user",),
    Cause.BILLING: ("user", "spending"),
}
"""Every kind of scope that a cause is counted by."""


def circuits_of(call: Call) -> Sequence[Circuit]:
    """Return the breakers that a call must pass."""
    place = call.service if call.region is None else f"{call.service}:{call.region}"
    user = f"user:{call.token}"
    passed = [
        Circuit(cause=Cause.TLS, scope=place),
        Circuit(cause=Cause.TRANSPORT, scope=place),
        Circuit(cause=Cause.SERVER, scope=place),
        Circuit(cause=Cause.TOKEN, scope=user),
        Circuit(cause=Cause.BILLING, scope=user),
    ]
    if call.is_spending:
        passed.append(_spending(call))
    return passed


def told(call: Call, failure: BrokerdError | None, *, is_answered: bool) -> Mapping[Circuit, bool]:
    """Return what a call's end says: True of a breaker whose cause is not so, False where it is.

    Of the others it says nothing.
    """
    good, bad = _told(failure, is_answered=is_answered)
    verdicts = {circuit: True for circuit in circuits_of(call) if circuit.cause in good}
    if bad is Cause.BILLING and call.is_spending:
        verdicts[_spending(call)] = False
    elif bad is not None:
        verdicts |= {c: False for c in circuits_of(call) if c.cause is bad}
    return verdicts


def _spending(call: Call) -> Circuit:
    """Return the breaker of what costs money: reading goes on when only that is refused."""
    return Circuit(cause=Cause.BILLING, scope=f"spending:{call.token}")


_REACHED = frozenset({Cause.TLS, Cause.TRANSPORT})
_SERVED = _REACHED | {Cause.SERVER}
_KNOWN = _SERVED | {Cause.TOKEN}
_NOTHING: frozenset[Cause] = frozenset()


def _told(
    failure: BrokerdError | None, *, is_answered: bool
) -> tuple[frozenset[Cause], Cause | None]:
    """Return which causes are not so, and which one is."""
    good, bad = _NOTHING, None
    match failure:
        case None:
            good = frozenset(Cause)
        case TlsInvalid():
            bad = Cause.TLS
        case Unauthorized():
            good, bad = _SERVED, Cause.TOKEN
        case TopUpRequired():
            good, bad = _KNOWN, Cause.BILLING
        case RemoteUnavailable() if is_answered:
            good, bad = _REACHED, Cause.SERVER
        case RemoteUnavailable():
            bad = Cause.TRANSPORT
        case NotConnected() | Synchronizing():  # a 5xx, of one account's terminal
            good = _REACHED | {Cause.TOKEN}
        case MalformedAnswer() if is_answered:
            good = _REACHED
        case Rejected() | Throttled() if is_answered:
            good = _KNOWN
        case _:
            pass
    return good, bad
