"""What one link needs from the world: MetaApi's two sides, the ledger, and its own lease."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from random import Random
from typing import Protocol

from brokerd.clock import Clock
from brokerd.config.settings import LinkSettings
from brokerd.domain import (
    AccountId,
    Anchor,
    Backoff,
    BadRecord,
    Book,
    Claim,
    Deal,
    DealId,
    Fence,
    LinkId,
    LinkStatus,
    LinkWrite,
    MetaApiRef,
    OpenRecord,
    Platform,
    Source,
    Totals,
    Window,
    WriteOutcome,
)
from brokerd.operations import AuditResult, Operation, OperationId, Progress
from brokerd.telemetry import Metrics

PAGE_LIMIT = 1000
"""The most deals one history page may hold (metaapi.md 7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteAccount:
    """A MetaApi account as its provisioning service shows it (metaapi.md 2.4, 2.5).

    `state` and `connection_status` are kept as sent: unknown values must not break us.
    """

    account_id: str
    state: str
    connection_status: str
    platform: Platform
    login: str
    server: str
    region: str
    reliability: str
    generation: str = "cloud-g2"  # of its terminals; MetaApi calls it `type`, this is its default


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountInformation:
    """The trading account as its terminal shows it (metaapi.md 6.4)."""

    platform: Platform
    login: str
    server: str
    currency: str
    balance: Decimal
    credit: Decimal
    margin_mode: str | None
    trade_mode: str | None
    currency_digits: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DealsPage:
    """One page of history. `is_synchronizing`: MetaApi says the answer may be incomplete.

    `unreadable` are records that are no deals, by their place among all records of the page.
    """

    deals: tuple[Deal, ...]
    is_synchronizing: bool
    unreadable: Mapping[int, BadRecord] = field(default_factory=dict)

    @property
    def keys(self) -> Sequence[str]:
        """Return what tells each record of the page from the others, in their order."""
        deals = iter(self.deals)
        return [
            self.unreadable[place].digest if place in self.unreadable else next(deals).deal_id
            for place in range(len(self.deals) + len(self.unreadable))
        ]


class RestPort(Protocol):
    """MetaApi's request and answer side.

    Every method raises `Transient` (try again) or `Rejected` (do not), never anything else.
    """

    async def account(self, remote: MetaApiRef) -> RemoteAccount:
        """Read the account's deployment state."""

    async def account_information(self, remote: MetaApiRef) -> AccountInformation:
        """Read who is connected and the account's balance and credit now."""

    async def deals(
        self, remote: MetaApiRef, *, start: datetime, end: datetime, offset: int
    ) -> DealsPage:
        """Read one page of the deals with start <= time < end, at most `PAGE_LIMIT` of them."""

    async def deals_by_ticket(self, remote: MetaApiRef, *, deal_id: DealId) -> DealsPage:
        """Read the deals the broker holds under one ticket; none when it knows none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """A terminal of the account answered on this session; a synchronization will follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Synchronized:
    """The stream finished replaying history of its current synchronization."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """The terminal left, or was silent for longer than the transport's own limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerStatus:
    """The terminal's heartbeat: whether it is logged in at its broker."""

    is_connected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DealSeen:
    """One deal from the stream: a hint, inserted if new, never a revision."""

    deal: Deal


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Something the stream carried did not reach us (overflow, unreadable deal): pull now."""

    reason: str


StreamEvent = Connected | Synchronized | Disconnected | BrokerStatus | DealSeen | Gap


class Session(Protocol):
    """One open connection of a link."""

    async def receive(self) -> Sequence[StreamEvent]:
        """Wait for at least one event, then return all that wait, in order.

        Safe to cancel: nothing is lost. Raises `LinkLost` once the session is beyond repair,
        `Unauthorized` once MetaApi refuses its token.
        """

    def acknowledge(self, through: datetime) -> None:
        """Note that the ledger is durable through that time; resynchronizations start there."""

    async def close(self) -> None:
        """Leave in bounded time; never raises. The link may be opened again after it returned."""


class StreamPort(Protocol):
    """MetaApi's stream. With `Session` these are the only four verbs."""

    async def open(
        self, remote: MetaApiRef, *, account: RemoteAccount, synced_through: datetime
    ) -> Session:
        """Open the session of the account that is there; returns before its terminal answered.

        `synced_through` is the durable watermark; the adapter subtracts its own overlap. Waits for
        its turn under the admission rate. Raises `Transient` or `Rejected`. When cancelled it
        leaves nothing open.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldDeal:
    """What the ledger tells of a deal it holds: enough to ask whether the broker still has it."""

    book: Book
    amount: Decimal


class Ledger(Protocol):
    """Where deals go, and what the ledger says of them.

    All methods raise `Fenced` when the lease is no longer ours, `StoreUnavailable` when Postgres
    stayed away longer than the writer may wait.
    """

    async def write(self, write: LinkWrite) -> WriteOutcome:
        """Commit deals and removals; returns when they are durable. May wait: back-pressure."""

    async def close_window(
        self, fence: Fence, *, start: datetime, end: datetime, is_continuation: bool = False
    ) -> None:
        """Record that [start, end) was pulled whole, and move the watermark to `end`.

        What lies before the watermark is covered already. Raises `LedgerRewound` when `start` would
        leave a hole behind the watermark, or when a continuation finds none.
        """

    async def watermark(self, account_id: AccountId) -> datetime | None:
        """Return the time through which the ledger is complete; None before the first window."""

    async def held(
        self, account_id: AccountId, *, start: datetime, end: datetime
    ) -> Mapping[DealId, HeldDeal]:
        """Return the deals the ledger holds (not removed) with start <= time < end."""

    async def totals(self, account_id: AccountId) -> Totals:
        """Return the ledger's sums over all deals of the account that are not removed."""

    @property
    def quarantine(self) -> "Quarantine":
        """Return where records go that cannot be deals."""


class Quarantine(Protocol):
    """What the ledger keeps of records that it cannot hold. Raises as `Ledger` does."""

    async def keep(
        self, fence: Fence, records: Sequence[BadRecord], *, link_id: LinkId, source: Source
    ) -> None:
        """Keep the records; the same one again is noted as seen once more."""

    async def open_records(self, account_id: AccountId) -> Sequence[OpenRecord]:
        """Return the records of an account that are still open."""

    async def close(self, fence: Fence, quarantine_ids: Sequence[int]) -> None:
        """Note that what these records say is in the ledger now."""


class Windows(Protocol):
    """The closed spans of an account's history, and where a pull may end one.

    All methods raise `StoreUnavailable`; those with a fence raise `Fenced`.
    """

    async def span_end(
        self, account_id: AccountId, *, start: datetime, end: datetime, max_deals: int
    ) -> datetime:
        """Return `end`, or the earlier time at which the ledger's deals from `start` on exceed.

        Deals of one time stay together, so more than `max_deals` of them make a larger span.
        """

    async def closed(self, account_id: AccountId) -> Sequence[Window]:
        """Return the account's windows in order."""

    async def merge(self, fence: Fence, *, start: datetime, end: datetime) -> bool:
        """Make one window of those that tile [start, end); False when they do not, any more."""

    async def verify(self, fence: Fence, *, start: datetime) -> bool:
        """Note that the window was compared with the broker; say whether its receipt was true.

        The window is counted anew; a receipt that was not true is put right.
        """

    async def anchor(self, fence: Fence, anchor: Anchor) -> None:
        """Store what the account held before its partial history; the first one stays."""


class LeaseHandle(Protocol):
    """A link's way to speak of itself. Raises `Fenced` when the lease is no longer ours."""

    async def report(self, fence: Fence, status: LinkStatus) -> None:
        """Store the link's status, and the transition when its phase changed."""

    async def release(self, fence: Fence, *, backoff: Backoff, delay_seconds: float) -> None:
        """Give the slot back; the link may be claimed again after the delay.

        At once if its spec changed and nobody reported to have seen that: it may be what it needs.
        """

    async def finish(self, fence: Fence, *, generation: int) -> None:
        """Give the lease back: the errand of that generation is done. A newer one waits on."""

    async def save_backoff(self, fence: Fence, backoff: Backoff) -> None:
        """Store the backoff while the lease is kept."""

    async def record_modes(self, fence: Fence, *, margin_mode: str, trade_mode: str) -> bool:
        """Store the account's modes at the first connect; later say whether they are the same."""


class Operations(Protocol):
    """What clients asked of the links of this node.

    The methods with a fence raise `Fenced` and `StoreUnavailable`; they say whether the operation
    is still open: it may have expired, or its link may have been deleted.
    """

    def asked(self, account_id: AccountId) -> Operation | None:
        """Return what is open for an account as of the node's last look; asks nobody."""

    def followed(
        self, account_id: AccountId, wake: Callable[[], None]
    ) -> AbstractContextManager[None]:
        """Call `wake` whenever something new is open for the account, while in this context."""

    async def advance(self, fence: Fence, operation_id: OperationId, progress: Progress) -> bool:
        """Note how far we came; the operation is running from then on."""

    async def finish(self, fence: Fence, operation_id: OperationId, result: AuditResult) -> bool:
        """Close the operation with what it found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """A link whose MetaApi account is deployed: its claim, which knows the account by now."""

    claim: Claim
    account: RemoteAccount


Working = Callable[[str], Awaitable[None]]
"""Told, with a reason, when something has to be done or waited for at MetaApi."""


class Provisioning(Protocol):
    """Brings a link's MetaApi account up. Raises `Transient`, `Rejected` or `Fenced`."""

    @property
    def timeout_seconds(self) -> float:
        """Return what each of the two may take; then it has failed, as a `Transient`."""

    async def deployed(self, claim: Claim, *, working: Working) -> Provisioned:
        """Return once the account is deployed: at once if it is, else after minutes."""

    async def restarted(self, claim: Claim, *, working: Working) -> Provisioned:
        """Undeploy and deploy: whether the broker still lets us in, no other question tells.

        It costs a deployment; whether it is worth that the caller decides.
        """


class Incidents(Protocol):
    """What links that share a server, a region or the node do when many of them fail together.

    None of its methods waits or fails.
    """

    def joined(self, claim: Claim) -> None:
        """Note that a link runs here."""

    def left(self, link_id: LinkId) -> None:
        """Note that a link is not wanted here any more."""

    def lost(self, link_id: LinkId) -> None:
        """Note that a link failed; nothing comes of one that was not live."""

    def live(self, link_id: LinkId) -> None:
        """Note that a link is live."""

    def turn(self, link_id: LinkId, *, is_up: bool) -> float:
        """Return 0 when the link may come back, which uses a turn up, else the seconds to wait.

        `is_up`: its terminal answers already.
        """

    def is_expected(self, claim: Claim) -> bool:
        """Say whether nobody need wonder that the link is lost: out of hours, or with many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPorts:
    """All that a link is made of beside its claim.

    `long_pulls` is shared by the links of a node: it bounds how many long histories it reads.
    """

    rest: RestPort
    provisioning: Provisioning
    stream: StreamPort
    ledger: Ledger
    windows: Windows
    long_pulls: asyncio.Semaphore
    operations: Operations
    lease: LeaseHandle
    incidents: Incidents
    settings: LinkSettings
    clock: Clock
    random: Random
    metrics: Metrics
