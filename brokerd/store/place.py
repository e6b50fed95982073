"""How table `accounts` keeps where MetaApi has an account, or shall have one."""

from brokerd.domain import MetaApiPlace, MetaApiRef


def place_of(token: str, account_id: str | None, region: str) -> MetaApiRef | MetaApiPlace:
    """Make the place of its columns; without an id the account is brokerd's to create."""
    if account_id is None:
        return MetaApiPlace(token=token, region=region)
    return MetaApiRef(token=token, account_id=account_id, region=region)


def named_id(place: MetaApiRef | MetaApiPlace) -> str | None:
    """Return the account id that a spec names; None when brokerd creates the account."""
    return place.account_id if isinstance(place, MetaApiRef) else None
