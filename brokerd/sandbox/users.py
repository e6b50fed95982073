"""The users of MetaApi: their tokens, what they may have, and what they have paid in."""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from hmac import compare_digest

from brokerd.errors import NotFound
from brokerd.sandbox.facts import DEFAULT_OWNER


class TopUp(StrEnum):
    """Whether MetaApi refuses to work before the user has paid something in."""

    BY_BALANCE = "by_balance"  # what costs is refused once the balance is used up
    COSTS = "costs"  # what costs is refused, whatever the balance
    ALL = "all"  # every request of the REST services is refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """How much a user may have in each region; the defaults are in nobody's way.

    MetaApi starts with 100 accounts and 100 deployed ones (metaapi.md 3.5).
    """

    accounts: int = 100_000
    deployed: int = 100_000
    provisioning_profiles: int = 100


@dataclass(slots=True, kw_only=True)
class User:
    """One user. A forbidden token is known and may do nothing; a revoked one is known no longer."""

    name: str
    token: str = field(repr=False)
    is_revoked: bool = False
    is_forbidden: bool = False
    paid: Decimal = Decimal(10_000)
    top_up: TopUp = TopUp.BY_BALANCE
    quotas: Quotas = field(default_factory=Quotas)
    region_quotas: dict[str, Quotas] = field(default_factory=dict)

    def quotas_in(self, region: str) -> Quotas:
        """Return the user's quotas of a region."""
        return self.region_quotas.get(region, self.quotas)


class Users:
    """Everyone who has a token; the first one is there from the start."""

    def __init__(self, *, token: str) -> None:
        self.default = User(name=DEFAULT_OWNER, token=token)
        self._by_name = {DEFAULT_OWNER: self.default}

    @property
    def all(self) -> tuple[User, ...]:
        """Return the users in the order in which they came."""
        return tuple(self._by_name.values())

    def add(self, user: User) -> User:
        """Take a user in, in place of an earlier one of the name."""
        self._by_name[user.name] = user
        return user

    def get(self, name: str) -> User:
        """Return a user by name; raises `NotFound`."""
        if name not in self._by_name:
            raise NotFound(f"no user {name}; there are {', '.join(self._by_name)}")
        return self._by_name[name]

    def of_token(self, token: str) -> User | None:
        """Return whose token it is; None when it is nobody's, or revoked."""
        for user in self._by_name.values():
            if not user.is_revoked and compare_digest(user.token.encode(), token.encode()):
                return user
        return None
