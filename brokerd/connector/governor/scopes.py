"""Which scopes a call is charged to, and which one a 429 means (metaapi.md 3.1, 4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from brokerd.connector.governor.ports import Call, Service


class ScopeKind(StrEnum):
    """What MetaApi counts by; SOCKETS is our own."""

    ACCOUNT = "account"
    USER = "user"  # an API token: one MetaApi user, one application
    SERVER = "server"  # the API servers of a region
    PROVISIONING = "provisioning"  # requests of a token to the provisioning service
    SOCKETS = "sockets"  # sockets that the fleet opens


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """One of the things that is counted, as `user:main`."""

    kind: ScopeKind
    name: str

    def __str__(self) -> str:
        """Spell the scope as messages and logs do."""
        return f"{self.kind}:{self.name}"


FLEET_SOCKETS = Scope(kind=ScopeKind.SOCKETS, name="fleet")


def scopes_of(call: Call) -> Sequence[Scope]:
    """Return what a call is charged to, the narrowest first: there it waits longest for others."""
    if call.service is Service.STREAM:
        return (FLEET_SOCKETS,)
    if call.service is Service.PROVISIONING:
        return (Scope(kind=ScopeKind.PROVISIONING, name=call.token),)
    scopes = [Scope(kind=ScopeKind.USER, name=call.token)]
    if call.account_id is not None:
        scopes.insert(0, Scope(kind=ScopeKind.ACCOUNT, name=call.account_id))
    if call.region is not None:
        scopes.append(Scope(kind=ScopeKind.SERVER, name=call.region))
    return scopes


def throttled_scope(call: Call, named: str, *, is_widespread: bool) -> Scope:
    """Return which scope a 429 holds.

    One that names none is taken for the narrowest: holding too little costs another 429, holding
    too much stops links that nobody throttled. When another account of the token is held by such
    an answer too (`is_widespread`), it is the token's.
    """
    by_kind = {scope.kind: scope for scope in scopes_of(call)}
    for kind, scope in by_kind.items():
        if kind == named:
            return scope
    if is_widespread and ScopeKind.USER in by_kind:
        return by_kind[ScopeKind.USER]
    return next(iter(by_kind.values()))
