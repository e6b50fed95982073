"""Which MetaApi account is a link's, and whether the one that answered was registered."""

from brokerd.connector.ports import AccountInformation, RemoteAccount
from brokerd.domain import Claim, Identity, MetaApiRef
from brokerd.errors import IdentityMismatch

DEPLOYED = "DEPLOYED"
DEPLOYING = "DEPLOYING"


def remote_of(claim: Claim) -> MetaApiRef:
    """Return where MetaApi keeps the account; one that is ours to create must exist by now."""
    place = claim.spec.metaapi
    if isinstance(place, MetaApiRef):
        return place
    assert claim.created_id is not None, f"{claim.link_id} has no MetaApi account yet"
    return MetaApiRef(token=place.token, account_id=claim.created_id, region=place.region)


def check_registered(identity: Identity, remote: RemoteAccount) -> None:
    """Raise `IdentityMismatch` unless MetaApi's record is of the registered account."""
    _compare(
        {
            "platform": (identity.platform, remote.platform),
            "login": (identity.login, remote.login),
            "server": (identity.server, remote.server),
        }
    )


def check_connected(identity: Identity, seen: AccountInformation) -> None:
    """Raise `IdentityMismatch` unless the terminal is logged in to the registered account."""
    _compare(
        {
            "platform": (identity.platform, seen.platform),
            "login": (identity.login, seen.login),
            "server": (identity.server, seen.server),
            "currency": (identity.currency, seen.currency),
        }
    )


def _compare(pairs: dict[str, tuple[str, str]]) -> None:
    wrong = [
        f"{name} is {str(found)!r}, registered {str(expected)!r}"
        for name, (expected, found) in pairs.items()
        if expected != found
    ]
    if wrong:
        raise IdentityMismatch("; ".join(wrong) + "; nothing is written until it is corrected")
