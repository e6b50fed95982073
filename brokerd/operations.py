"""Long work that was asked for, as plain values: what it is, how far it came, what it found.

Theory. An operation is a row. Whoever asks only writes it; the node that owns the link finds it
and carries it out step by step, noting after each how far it came. So nothing is lost with a
node: the next owner goes on behind the last step that was noted.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NewType

from brokerd.domain import AccountId, LinkId, Proof

OperationId = NewType("OperationId", str)


class OperationKind(StrEnum):
    """What is to be done."""

    AUDIT = "audit"  # read all history again, count the receipts anew, prove the balance


class OperationState(StrEnum):
    """How far an operation is."""

    PENDING = "pending"  # nobody began it yet
    RUNNING = "running"  # an owner of the link began it, or goes on with it
    DONE = "done"
    FAILED = "failed"


class OperationFailure(StrEnum):
    """Why an operation will never be done."""

    EXPIRED = "expired"  # not done within operations.expire_seconds
    LINK_DELETED = "link_deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What reading windows again found; nothing but `windows` should ever be above zero."""

    windows: int = 0
    inserted: int = 0
    revised: int = 0
    missing: int = 0
    false_receipts: int = 0

    @property
    def is_clean(self) -> bool:
        """Say whether ledger and broker agreed on every window."""
        return not (self.inserted or self.revised or self.missing or self.false_receipts)

    def __add__(self, other: "Findings") -> "Findings":
        return Findings(
            windows=self.windows + other.windows,
            inserted=self.inserted + other.inserted,
            revised=self.revised + other.revised,
            missing=self.missing + other.missing,
            false_receipts=self.false_receipts + other.false_receipts,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an audit came: windows from before `until` are read, those up to `read_through` are.

    `until` is None before the first step. `note` says what it waits for, if anything.
    """

    until: datetime | None = None
    read_through: datetime | None = None
    windows_left: int = 0
    findings: Findings = field(default_factory=Findings)
    note: str = ""

    def having_read(self, end: datetime, found: Findings, *, windows_left: int) -> "Progress":
        """Add a window that ends there."""
        return replace(
            self,
            read_through=end,
            windows_left=windows_left,
            findings=self.findings + found,
            note="",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Broker minus ledger, both rounded to what the currency can hold."""

    balance: Decimal
    credit: Decimal
    currency: str

    @property
    def is_none(self) -> bool:
        """Say whether broker and ledger agree."""
        return not (self.balance or self.credit)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """What an audit concluded; no difference where the balance could not be compared."""

    proof: Proof
    detail: str
    findings: Findings
    difference: Difference | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Something asked of a link, under the id the link had then."""

    operation_id: OperationId
    kind: OperationKind
    account_id: AccountId
    link_id: LinkId
    state: OperationState
    asked_at: datetime
    expires_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Progress = field(default_factory=Progress)
    result: AuditResult | None = None
    failure: OperationFailure | None = None
