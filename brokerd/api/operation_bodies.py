"""What goes over the wire of long work that was asked for."""

from brokerd.api.bodies import Amount, Body, Moment
from brokerd.domain import Phase, Proof
from brokerd.operations import OperationFailure, OperationKind, OperationState


class DifferenceBody(Body):
    """Broker minus ledger, as decimal strings in the account's currency."""

    balance: Amount
    credit: Amount
    currency: str


class AuditBody(Body):
    """What an audit found: of `windows` read again, what was not as the broker has it now."""

    proof: Proof
    detail: str
    windows: int
    inserted: int
    revised: int
    missing: int
    false_receipts: int
    difference: DifferenceBody | None


class ProgressBody(Body):
    """How far an operation is; `note` says what its next step waits for, if anything."""

    windows_read: int
    windows_left: int
    note: str


class WaitingBody(Body):
    """Why nobody carries an open operation out: its link is in this phase, for this reason."""

    phase: Phase
    reason: str
    message: str


class OperationProblemBody(Body):
    """Why an operation failed; as RFC 9457 has it, without what belongs to a request."""

    type: str
    title: str
    reason: OperationFailure


class OperationBody(Body):
    """Long work that was asked of a link."""

    id: str
    kind: OperationKind
    link_id: str
    state: OperationState
    asked_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    expires_at: Moment
    waiting_for: WaitingBody | None
    progress: ProgressBody
    result: AuditBody | None
    problem: OperationProblemBody | None
