"""What the control API needs: the registry of links, and the ledger to read."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Protocol

from brokerd.connector.provisioning.ports import Sealed
from brokerd.domain import (
    AccountId,
    BadRecord,
    Deal,
    DealId,
    Identity,
    Incarnation,
    LinkId,
    LinkSpec,
    LinkStatus,
    Platform,
    QuarantineState,
    Source,
    UserId,
)
from brokerd.ledger.feed import FeedCursor, FeedFilter, FeedPage
from brokerd.operations import Operation, OperationId, OperationKind


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePlace:
    """Where a waiting link stands: `position` 1 is next, as it was `age_seconds` ago.

    `waiting_seconds` counts from the moment since which the link may have a slot.
    """

    position: int
    age_seconds: float
    waiting_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRecord:
    """A registered link: what is wanted, what was last reported of it, where it waits.

    `open_gaps` are records in quarantine: deals that the ledger lacks. `owner`, `epoch`,
    `queued_at`, `not_before` and `has_errand` are the lease's; `read_at` is the store's time.
    """

    link_id: LinkId
    spec: LinkSpec
    generation: int
    created_at: datetime
    is_deleted: bool
    status: LinkStatus
    owner: Incarnation | None
    owner_name: str | None
    epoch: int
    watermark: datetime | None
    deals: int
    open_gaps: int
    queued_at: datetime
    not_before: datetime | None
    queue: QueuePlace | None
    read_at: datetime
    has_errand: bool = False
    created_id: str | None = None
    credential_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PutResult:
    """`is_new`: the link did not exist; `is_changed`: its generation rose."""

    record: LinkRecord
    is_new: bool
    is_changed: bool


class Registry(Protocol):
    """The links as clients see them. All methods raise `StoreUnavailable` without Postgres."""

    async def put(
        self, link_id: LinkId, spec: LinkSpec, *, if_match: int | None, must_be_new: bool
    ) -> PutResult:
        """Create or replace a spec.

        Raises `Conflict` (identity taken or changed), `StaleVersion` (`if_match` is not the
        link's generation, or it is not new) and `QueueFull`.
        """

    async def get(self, link_id: LinkId) -> LinkRecord | None:
        """Read one link; None when it never was or is gone."""

    async def page(
        self, *, user_id: UserId | None, after: LinkId | None, limit: int
    ) -> Sequence[LinkRecord]:
        """Read links in the order of their ids, starting behind `after`."""

    async def delete(self, link_id: LinkId, *, removes_remote: bool = False) -> bool:
        """Ask the link to end; its ledger stays. False when there is none.

        True as well while a deleted link is still being drained, or its MetaApi account removed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedPassword:
    """A password that a client submits, in no form that can be read.

    `digests` are all by which these credentials of the identity may be known as bad; `digest`,
    one of them, is what they are remembered by from now on.
    """

    identity: Identity
    digest: str
    digests: Sequence[str]
    sealed: Sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitResult:
    """`is_changed`: a newer version waits now; the very same password changes nothing."""

    credential_version: int
    is_changed: bool


class CredentialBook(Protocol):
    """Where passwords wait until they are used. Raises `StoreUnavailable`."""

    async def submit(self, link_id: LinkId, password: SubmittedPassword) -> SubmitResult | None:
        """Store a password for the link's owner to use; None when there is no such link.

        Raises `KnownBadCredentials` when the broker refused them before, `Conflict` when the
        link is for another identity by now.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An operation that is open now; `is_new`: it was not before."""

    operation: Operation
    is_new: bool


class OperationRegistry(Protocol):
    """Long work as clients see it. Both methods raise `StoreUnavailable`."""

    async def ask(self, link_id: LinkId, kind: OperationKind) -> Asked | None:
        """Ask something of a link, unless that is open already; None when there is no such link."""

    async def read(self, operation_id: OperationId) -> Operation | None:
        """Read one operation; None when it never was, or ended long ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDeal:
    """A deal as the ledger holds it."""

    account_id: AccountId
    link_id: LinkId
    user_id: UserId
    deal: Deal
    revision: int
    source: Source
    committed_at: datetime
    removed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DealQuery:
    """Which deals to read: of one link or of one user; `start` inclusive, `end` exclusive.

    Exactly one of `link_id` and `user_id` is set. `kind` is `trade`, `cash` or None; `after` is
    the (time, deal_id, account_id) of the last deal seen.
    """

    link_id: LinkId | None
    user_id: UserId | None
    symbol: str | None
    kind: str | None
    start: datetime | None
    end: datetime | None
    is_newest_first: bool
    limit: int
    after: tuple[datetime, DealId, AccountId] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedRecord:
    """A record that is no deal, and what became of it."""

    quarantine_id: int
    link_id: LinkId
    platform: Platform
    record: BadRecord
    source: Source
    state: QuarantineState
    times: int
    first_seen_at: datetime
    last_seen_at: datetime
    replay_asked_at: datetime | None
    closed_at: datetime | None
    note: str | None


class QuarantineReader(Protocol):
    """The quarantine of the links. All methods raise `StoreUnavailable`."""

    async def page(
        self, link_id: LinkId, *, state: QuarantineState | None, after: int, limit: int
    ) -> Sequence[QuarantinedRecord] | None:
        """Read records behind `after`; None when no link ever had that id."""

    async def read(self, link_id: LinkId, quarantine_id: int) -> QuarantinedRecord | None:
        """Read one record."""

    async def ask_replay(self, link_id: LinkId, quarantine_id: int) -> QuarantinedRecord | None:
        """Have the owner write an open record; None when it is open no more."""

    async def discard(
        self, link_id: LinkId, quarantine_id: int, *, note: str
    ) -> QuarantinedRecord | None:
        """Close an open record for a reason; None when it is open no more."""


class DealReader(Protocol):
    """The ledger, read only. Removed deals are left out. Raises `StoreUnavailable`."""

    async def deals(self, query: DealQuery) -> Sequence[StoredDeal]:
        """Read one keyset page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalsQuery:
    """Whose days to sum up: of one link or of one user; `start` inclusive, `end` exclusive.

    Exactly one of `link_id` and `user_id` is set. A day that `start` or `end` cuts is summed up
    only inside them. A page holds `limit` days at most, and none behind the one that brings it to
    `max_deals` deals. `after` is the (account_id, day) of the last totals seen.
    """

    link_id: LinkId | None
    user_id: UserId | None
    start: datetime | None
    end: datetime | None
    limit: int
    max_deals: int
    after: tuple[AccountId, date] | None

    def is_full(self, page: Sequence["DayTotals"]) -> bool:
        """Say whether the page had to end here, so that more may follow."""
        return len(page) >= self.limit or sum(each.deals for each in page) >= self.max_deals


@dataclass(frozen=True, slots=True, kw_only=True)
class DayTotals:
    """What the deals of one account on one UTC day add up to.

    `profit`, `commission` and `swap` are sums over all deals, `volume` over trades; `balance` and
    `credit` are what the day did to the broker's two books.
    """

    account_id: AccountId
    link_id: LinkId
    user_id: UserId
    currency: str
    day: date
    deals: int
    trades: int
    volume: Decimal
    profit: Decimal
    commission: Decimal
    swap: Decimal
    balance: Decimal
    credit: Decimal


class FeedReader(Protocol):
    """The outbox as a feed. Both methods raise `StoreUnavailable`."""

    async def page(self, after: FeedCursor, *, wanted: FeedFilter, limit: int) -> FeedPage:
        """Read the wanted events behind a cursor, as many as `limit`.

        Every event that is ever committed comes behind every cursor that was given before. Raises
        `CursorLost` when what stood behind the cursor is gone.
        """

    async def end(self) -> FeedCursor:
        """Return the place behind everything that can be read now."""


class TotalsReader(Protocol):
    """Sums over the ledger. Removed deals are left out. Raises `StoreUnavailable`."""

    async def totals(self, query: TotalsQuery) -> Sequence[DayTotals]:
        """Read one keyset page in the order of account and day; days without deals are left out."""
