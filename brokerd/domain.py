"""The values brokerd talks about: frozen, free of I/O, the same in every layer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NewType

AccountId = NewType("AccountId", int)
"""The registry's own number of an account; the ledger's rows hang on it."""
LinkId = NewType("LinkId", str)
"""The id a client chose for a link."""
UserId = NewType("UserId", str)
DealId = NewType("DealId", str)
"""The broker's deal ticket; for MT4 with the entry type appended (metaapi.md 6.1)."""
Incarnation = NewType("Incarnation", int)
"""One start of one process; rises with every start of any node."""

MAX_ID_LENGTH = 128


class Platform(StrEnum):
    """The MetaTrader generation of an account."""

    MT4 = "mt4"
    MT5 = "mt5"


class Desired(StrEnum):
    """What the client wants of a link; it never changes by itself."""

    LIVE = "live"  # holds a slot
    PAUSED = "paused"  # session closed, slot freed, the MetaApi account stays deployed
    STOPPED = "stopped"  # the MetaApi account is undeployed as well, and costs next to nothing


class Priority(StrEnum):
    """How long a link is prepared to wait for a slot; the seconds are configuration."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Phase(StrEnum):
    """Where a link is in its life (reference: docs/architecture.md)."""

    QUEUED = "queued"  # wanted, owned by nobody
    CLAIMED = "claimed"  # a slot and a lease, nothing opened yet
    PROVISIONING = "provisioning"  # its MetaApi account is created, deployed or undeployed
    CONNECTING = "connecting"  # preflight and opening the session
    VERIFYING = "verifying"  # comparing who answered with who was registered
    SYNCING = "syncing"  # pulling history, stream deals wait
    LIVE = "live"  # watermark reached the start of the pull that closed the sync
    SUSPECT = "suspect"  # was live and went silent; a probe decides within seconds
    BACKOFF = "backoff"  # lost; waits for its next attempt
    AUTH_SUSPECT = "auth_suspect"  # the broker refused what it took last week; asked once more
    AUTH_FAILED = "auth_failed"  # the broker refuses login and password; only new ones lead on
    BLOCKED = "blocked"  # refused for a reason outside the link; probed rarely
    QUARANTINED = "quarantined"  # evidence kept, nothing written; an operator must act
    DRAINING = "draining"  # closing in order
    PAUSED = "paused"  # not wanted live; its MetaApi account stays deployed
    STOPPED = "stopped"  # not wanted at all; its MetaApi account is undeployed
    DELETING = "deleting"  # DELETE was asked, the owner still drains


class UserAction(StrEnum):
    """What a human must do before the link can go on."""

    NONE = "none"
    UPDATE_CREDENTIALS = "update_credentials"  # the user: login or password is wrong
    ACCEPT_BROKER_TERMS = "accept_broker_terms"  # the user, in a terminal of the broker's
    CONTACT_BROKER = "contact_broker"  # the user: the broker disabled the account
    TOP_UP = "top_up"  # whoever pays MetaApi
    DEPLOY_ACCOUNT = "deploy_account"
    FIX_TOKEN = "fix_token"  # noqa: S105  # names an action, holds no secret
    FIX_IDENTITY = "fix_identity"
    CONTACT_OPERATOR = "contact_operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which MetaTrader account a link is for; immutable once registered."""

    platform: Platform
    login: str
    server: str
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaApiRef:
    """Where MetaApi keeps the account: a configured token's name, the id there, the region."""

    token: str
    account_id: str
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaApiPlace:
    """Where MetaApi shall keep an account that brokerd creates."""

    token: str
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """What a client asks for. `sync_from` bounds the history; None takes all of it."""

    user_id: UserId
    desired: Desired
    priority: Priority
    metaapi: MetaApiRef | MetaApiPlace
    identity: Identity
    sync_from: datetime | None = None
    max_staleness_seconds: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class Book(StrEnum):
    """Which of the account's two sums a deal moves."""

    BALANCE = "balance"
    CREDIT = "credit"
    UNMAPPED = "unmapped"  # makes the balance proof Unknown, never wrong


_BALANCE_TYPES = frozenset(
    {
        "DEAL_TYPE_BUY",
        "DEAL_TYPE_SELL",
        "DEAL_TYPE_BALANCE",
        "DEAL_TYPE_CHARGE",
        "DEAL_TYPE_CORRECTION",
        "DEAL_TYPE_COMMISSION",
        "DEAL_TYPE_COMMISSION_DAILY",
        "DEAL_TYPE_COMMISSION_MONTHLY",
        "DEAL_TYPE_COMMISSION_AGENT_DAILY",
        "DEAL_TYPE_COMMISSION_AGENT_MONTHLY",
        "DEAL_TYPE_INTEREST",
        "DEAL_TYPE_BUY_CANCELED",
        "DEAL_TYPE_SELL_CANCELED",
        "DEAL_DIVIDEND",
        "DEAL_DIVIDEND_FRANKED",
        "DEAL_TAX",
    }
)
_TRADE_TYPES = frozenset({"DEAL_TYPE_BUY", "DEAL_TYPE_SELL"})


def book_of(deal_type: str) -> Book:
    """Say which sum a deal type moves.

    Types as in metaapi.md 6.1. DEAL_TYPE_BONUS is left unmapped on purpose: brokers book bonuses
    into either sum, and no source settles it.
    """
    if deal_type in _BALANCE_TYPES:
        return Book.BALANCE
    return Book.CREDIT if deal_type == "DEAL_TYPE_CREDIT" else Book.UNMAPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """MetaTrader's execution or cash record, as the broker keeps it.

    Money, volume and price are quantised by `connector.wire` (the rule is written there);
    `broker_time` is the broker's own clock as text; `raw` is the record as received, JSON text.
    """

    deal_id: DealId
    type: str
    entry: str | None
    symbol: str | None
    volume: Decimal | None
    price: Decimal | None
    time: datetime
    broker_time: str
    profit: Decimal
    commission: Decimal
    swap: Decimal
    order_id: str | None
    position_id: str | None
    raw: str = field(repr=False, compare=False)

    @property
    def amount(self) -> Decimal:
        """Return what the deal adds to its book."""
        return self.profit + self.commission + self.swap

    @property
    def book(self) -> Book:
        """Return the sum this deal moves."""
        return book_of(self.type)

    @property
    def is_trade(self) -> bool:
        """Say whether the deal is a fill; everything else is cash."""
        return self.type in _TRADE_TYPES


class Source(StrEnum):
    """How a deal reached us. The stream may insert; only what was pulled may revise or remove."""

    STREAM = "stream"
    PULL = "pull"
    AUDIT = "audit"  # a pull of a window that was closed long before


class BadReason(StrEnum):
    """Why a record is in quarantine."""

    MALFORMED = "malformed"  # not the JSON of a deal: a field is missing, or of another type
    NO_ID = "no_id"  # nothing to tell it from others by
    NUMBER = "number"  # NaN, infinite, or beyond what the ledger can hold
    TEXT = "text"  # NUL, half a character, bytes that are no UTF-8
    SIZE = "size"  # larger than any deal is
    REFUSED = "refused"  # we saw nothing wrong, the database did


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRecord:
    """A record of an account that cannot be a row of the ledger; made by `connector.poison`.

    `digest` is the hash of the record as it came: the same record seen again is the same one.
    `raw` is that record in a form any store can hold, cut when it is huge (`is_cut`); `problem`
    is printable and short. `deal_id` and `time` are None when even they cannot be read.
    """

    digest: str
    reason: BadReason
    problem: str
    deal_id: DealId | None
    time: datetime | None
    raw: str = field(repr=False)
    raw_bytes: int
    is_cut: bool


class QuarantineState(StrEnum):
    """What became of a record in quarantine."""

    OPEN = "open"  # the ledger lacks what it says
    REPLAYED = "replayed"  # it can be read by now, and is in the ledger
    DISCARDED = "discarded"  # an operator says that the ledger lacks nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRecord:
    """An open record of the quarantine, as the owner of its link needs it.

    `raw` is set once an operator asked for a replay; `seen_at` is when a pull last brought it.
    """

    quarantine_id: int
    deal_id: DealId | None
    seen_at: datetime
    raw: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """The right to write for one account: owner and epoch must still be the lease's."""

    account_id: AccountId
    incarnation: Incarnation
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Where a link stands in its backoff; stored, so that a restart does not forget it.

    `bound_seconds` is the upper edge of the last jittered wait, 0 before the first failure.
    """

    attempt: int = 0
    bound_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A lease just taken (or a spec just changed) with all that its owner needs to run the link.

    `created_id` is the MetaApi account that brokerd created for a spec that names none.
    """

    fence: Fence
    link_id: LinkId
    spec: LinkSpec
    generation: int
    is_deleted: bool = False
    backoff: Backoff = field(default_factory=Backoff)
    created_id: str | None = None
    removes_remote: bool = False
    credential_version: int = 0


class Proof(StrEnum):
    """What the last balance proof said."""

    UNKNOWN = "unknown"
    PROVEN = "proven"
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """What a link's owner reports of it; `since` is when `phase` began."""

    phase: Phase
    reason: str
    message: str
    observed_generation: int
    since: datetime
    next_attempt_at: datetime | None = None
    attempt: int = 0
    user_action: UserAction = UserAction.NONE
    proof: Proof = Proof.UNKNOWN
    proof_detail: str = ""
    proven_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkWrite:
    """Deals and removals of one link for one fenced write.

    `fetched_at` is when the pull that brought them began (our clock); None marks the stream,
    which may insert but never revise. Removals name deals that a pull proved gone.
    """

    fence: Fence
    link_id: LinkId
    user_id: UserId
    source: Source
    deals: tuple[Deal, ...]
    removals: tuple[DealId, ...] = ()
    fetched_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOutcome:
    """What one `LinkWrite` did; what is in none of the sets was already there, unchanged.

    `refused` are deals that went to the quarantine instead.
    """

    inserted: frozenset[DealId]
    revised: frozenset[DealId]
    removed: frozenset[DealId]
    refused: frozenset[DealId] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What an account held when its partial history began: the broker's sums less the ledger's."""

    balance: Decimal
    credit: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The ledger's sums of one account over all its deals that are not removed.

    `quarantined` records are open beside them: the ledger lacks what those say. `anchor` is what
    the account held before, where its history is partial and was anchored.
    """

    deals: int
    balance: Decimal
    credit: Decimal
    unmapped_types: frozenset[str]
    quarantined: int = 0
    anchor: Anchor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a window of the ledger holds; `content_hash` does not depend on the deals' order."""

    count: int
    content_hash: int
    balance: Decimal
    credit: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A closed span of history, `start` inclusive, `end` exclusive, with its receipt.

    `verified_at` is when it was last compared with the broker; when we did not look, None.
    """

    start: datetime
    end: datetime
    receipt: Receipt
    verified_at: datetime | None = field(default=None, compare=False)
