"""The tables as plain values in one process: what the memory adapters of every component share.

Adapters change it between two awaits only, so that each of their calls is as atomic as the
statement it stands for. Times come from the clock that is passed in, as Postgres's come from its
own.
"""

from dataclasses import dataclass, field
from datetime import datetime

from brokerd.clock import Clock
from brokerd.domain import (
    AccountId,
    Anchor,
    BadRecord,
    Deal,
    DealId,
    Fence,
    Incarnation,
    LinkId,
    LinkSpec,
    LinkStatus,
    Phase,
    QuarantineState,
    Source,
    UserId,
    Window,
)
from brokerd.operations import Operation, OperationId


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRow:
    """A registered account, as in table `accounts`."""

    account_id: AccountId
    link_id: LinkId
    spec: LinkSpec
    generation: int
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None
    margin_mode: str | None = None
    trade_mode: str | None = None
    created_id: str | None = None
    removes_remote: bool = False
    credential_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRow:
    """Who runs a link, or since when it waits; as in table `leases`."""

    account_id: AccountId
    owner: Incarnation | None = None
    epoch: int = 0
    is_wanted: bool
    deadline: datetime
    queued_at: datetime
    not_before: datetime | None = None
    attempt: int = 0
    backoff_bound_seconds: float = 0.0
    has_errand: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """One start of one process, as in table `nodes`."""

    incarnation: Incarnation
    name: str
    max_links: int
    started_at: datetime
    heartbeat_at: datetime
    closed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionRow:
    """One change of phase, as in table `link_transitions`."""

    account_id: AccountId
    at: datetime
    phase: Phase
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DealRow:
    """A deal with what the ledger knows of it, as in table `deals`."""

    account_id: AccountId
    user_id: UserId
    deal: Deal
    revision: int
    content_hash: int
    source: Source
    write_id: int
    committed_at: datetime
    removed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRow:
    """A deal's row as it was before it changed, as in table `deal_revisions`."""

    kind: str
    replaced: DealRow


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRow:
    """What moves with every change of an account's ledger, as in table `heads`."""

    watermark: datetime | None = None
    account_seq: int = 0
    pulled_at: datetime | None = None
    anchor: Anchor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """What consumers are told, as in table `events`."""

    account_id: AccountId
    account_seq: int
    link_id: LinkId
    user_id: UserId
    type: str
    deal_id: DealId | None
    revision: int | None
    payload: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRow:
    """A record that is no deal, as in table `quarantine`."""

    quarantine_id: int
    account_id: AccountId
    record: BadRecord
    source: Source
    first_seen_at: datetime
    last_seen_at: datetime
    times: int = 1
    state: QuarantineState = QuarantineState.OPEN
    replay_asked_at: datetime | None = None
    closed_at: datetime | None = None
    note: str | None = None


@dataclass(slots=True, kw_only=True)
class MemoryState:
    """All rows of one imagined database."""

    clock: Clock
    accounts: dict[AccountId, AccountRow] = field(default_factory=dict)
    leases: dict[AccountId, LeaseRow] = field(default_factory=dict)
    links: dict[AccountId, LinkStatus] = field(default_factory=dict)
    nodes: dict[Incarnation, NodeRow] = field(default_factory=dict)
    transitions: list[TransitionRow] = field(default_factory=list)
    deals: dict[tuple[AccountId, DealId], DealRow] = field(default_factory=dict)
    revisions: list[RevisionRow] = field(default_factory=list)
    windows: dict[AccountId, list[Window]] = field(default_factory=dict)
    heads: dict[AccountId, HeadRow] = field(default_factory=dict)
    events: list[EventRow] = field(default_factory=list)
    quarantine: dict[int, QuarantineRow] = field(default_factory=dict)
    operations: dict[OperationId, Operation] = field(default_factory=dict)

    def holds(self, fence: Fence) -> bool:
        """Say whether the lease still belongs to that owner under that epoch."""
        lease = self.leases.get(fence.account_id)
        return lease is not None and lease.owner == fence.incarnation and lease.epoch == fence.epoch
