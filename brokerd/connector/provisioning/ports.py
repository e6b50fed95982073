"""What provisioning needs: MetaApi's changing calls, and what the store keeps of them.

Theory. Each call that changes something at MetaApi is an *intent*: a row that is committed before
the call, under the link's fence, with what the call may cost at worst. The answer closes it and
settles the cost. An account has at most one open intent. Whoever finds one open, after a crash or
an answer that never came, looks up what became of it and never simply asks again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from brokerd.config.settings import Secret
from brokerd.connector.ports import RemoteAccount
from brokerd.connector.provisioning.budgets import BudgetName, Limit, Spent
from brokerd.domain import AccountId, Fence, LinkId, MetaApiRef, Platform


class IntentKind(StrEnum):
    """The calls that change something at MetaApi."""

    CREATE = "create"
    UPDATE = "update"  # another password
    DEPLOY = "deploy"
    UNDEPLOY = "undeploy"
    DELETE = "delete"


CHARGEABLE = frozenset({IntentKind.CREATE, IntentKind.UPDATE, IntentKind.DEPLOY})
"""The calls that may cost, if only by failing; undeploying and deleting is free."""


class Charge(StrEnum):
    """What an attempt turned out to be on MetaApi's bill."""

    RESERVED = "reserved"  # not known yet: the worst it may cost
    NONE = "none"
    ADD = "add"  # an account, and with it its first deployment
    DEPLOY = "deploy"
    AUTH = "auth"  # refused credentials
    TIMEZONE = "timezone"  # undetected broker settings


class CredentialState(StrEnum):
    """Where a password stands; only one that waits is still kept, sealed."""

    WAITING = "waiting"
    UPDATED = "updated"  # MetaApi has it, and uses it from the next deployment on
    ACCEPTED = "accepted"  # MetaApi uses it
    REJECTED = "rejected"


class Auth(StrEnum):
    """What the broker last said of an account's credentials."""

    OK = "ok"  # it took them, or was not asked yet
    SUSPECTED = "suspected"  # it refused what it took lately; to be confirmed once
    FAILED = "failed"  # it refused them; only others are tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A password in a form that only the holder of a key can read."""

    key_id: str
    box: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCredentials:
    """The newest password of an account; `is_known_bad`: a broker refused the very same."""

    version: int
    state: CredentialState
    is_known_bad: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPassword:
    """What is known of a submitted password; `was_refused`: MetaApi did not take it, ever."""

    digest: str
    state: CredentialState
    is_sealed: bool
    was_refused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A call that was about to be made, and whose end is not known yet."""

    intent_id: int
    kind: IntentKind
    transaction_id: str
    credential_version: int
    opened_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How the last chargeable call for the present spec and password was refused."""

    code: str
    problem: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the store knows of an account's life at MetaApi, at `now` by its own clock.

    `created_id` is the MetaApi account that we created or found for a link whose spec names none.
    `deployed_at` is when a chargeable call last succeeded; `watermark` tells when the link was
    last live.
    """

    now: datetime
    created_id: str | None = None
    credentials: KnownCredentials | None = None
    intent: Intent | None = None
    refusal: Refusal | None = None
    auth: Auth = Auth.OK
    auth_at: datetime | None = None
    locked_until: datetime | None = None
    deployed_at: datetime | None = None
    watermark: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is about to be called. `reserve_usd` is the worst it may cost; None is free.

    `generation` and `credential_version` say for which spec and password.
    """

    kind: IntentKind
    transaction_id: str
    generation: int
    credential_version: int
    reserve_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call ended, with all that follows from it; stored whole or not at all.

    `code` is `done`, `abandoned`, or the error's. None leaves a thing as it is; of the cost that is
    the reserve. `remembers_seconds` puts the credentials among the known bad ones for so long.
    """

    code: str
    problem: str = ""
    charge: Charge | None = None
    usd: Decimal | None = None
    created_id: str | None = None
    credentials: CredentialState | None = None
    auth: Auth | None = None
    remembers_seconds: float | None = None
    locked_seconds: float | None = None


class Intents(Protocol):
    """The account's calls in the store. All raise `StoreUnavailable`; with a fence `Fenced`."""

    async def standing(self, account_id: AccountId, *, generation: int) -> Standing:
        """Read what is known; `generation` is the spec's, for which refusals count."""

    async def open(self, fence: Fence, call: Call, *, limits: Sequence[Limit]) -> Intent:
        """Commit the intent and its reserve; nothing may be called without it.

        Raises `BudgetExhausted` when a limit leaves less, and `Fenced` also while an intent is
        open that we did not know.
        """

    async def close(self, fence: Fence, intent: Intent, outcome: Outcome) -> None:
        """Note how the call ended, with all that follows; erase passwords that wait no more."""

    async def adopt(self, fence: Fence, created_id: str | None) -> None:
        """Note which MetaApi account is the link's, found without an intent; None: it is gone."""

    async def sealed(self, account_id: AccountId, *, version: int) -> Sealed | None:
        """Return a password that still waits."""


class SpendReader(Protocol):
    """What was spent, for people. Raises `StoreUnavailable`."""

    async def spent(self, limits: Sequence[Limit]) -> Mapping[BudgetName, Spent]:
        """Return by budget what was spent in its window; of links and users, the most of any."""

    async def spent_by(
        self, link_id: LinkId, limits: Sequence[Limit]
    ) -> Mapping[BudgetName, Spent]:
        """Return by budget what was spent in its window of what one link may spend."""

    async def charges(self, *, window_seconds: float) -> Mapping[Charge, Spent]:
        """Return what was spent in the window by what it was for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAccount:
    """A MetaApi account to be created (metaapi.md 2.2); it is deployed at once."""

    name: str
    platform: Platform
    login: str
    password: Secret
    server: str
    region: str
    type: str
    reliability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The account exists."""

    account_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """MetaApi is still finding out about the broker; ask again with the same transaction."""

    retry_after_seconds: float | None


class ProvisioningPort(Protocol):
    """MetaApi's provisioning side. Every method raises `Transient` or `Rejected`, nothing else.

    Only what may be sent twice without harm is ever sent again by itself.
    """

    async def accounts(
        self, token: str, *, login: str | None = None, states: Sequence[str] = ()
    ) -> Sequence[RemoteAccount]:
        """List the token's accounts that match, page by page, each once."""

    async def create(
        self, token: str, account: NewAccount, *, transaction_id: str
    ) -> Created | Pending:
        """Create an account, once per transaction however often it is asked."""

    async def update(self, remote: MetaApiRef, *, password: Secret) -> None:
        """Give the account another password; MetaApi uses it from the next deployment on."""

    async def deploy(self, remote: MetaApiRef) -> None:
        """Start the account's terminal; returns when MetaApi agreed, not when it is up."""

    async def undeploy(self, remote: MetaApiRef) -> None:
        """Stop the account's terminal; returns when MetaApi agreed."""

    async def delete(self, remote: MetaApiRef) -> None:
        """Remove the account; one that is gone already counts as removed."""
