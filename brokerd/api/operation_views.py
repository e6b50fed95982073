"""What clients are shown of an operation, and of what it waits for; pure."""

from brokerd.api.operation_bodies import (
    AuditBody,
    DifferenceBody,
    OperationBody,
    OperationProblemBody,
    ProgressBody,
    WaitingBody,
)
from brokerd.api.ports import LinkRecord
from brokerd.api.views import amount, facts_of
from brokerd.domain import Phase
from brokerd.health.calendar import Calendar
from brokerd.health.conditions import shown
from brokerd.operations import AuditResult, Difference, Operation, OperationFailure

_TITLES = {
    OperationFailure.EXPIRED: "It was not done in time",
    OperationFailure.LINK_DELETED: "The link was deleted",
}


def operation_body(operation: Operation, link: LinkRecord | None) -> OperationBody:
    """Show an operation; `link` is the link of one that is open, if it is still there."""
    progress, failure = operation.progress, operation.failure
    return OperationBody(
        id=operation.operation_id,
        kind=operation.kind,
        link_id=operation.link_id,
        state=operation.state,
        asked_at=operation.asked_at,
        started_at=operation.started_at,
        finished_at=operation.finished_at,
        expires_at=operation.expires_at,
        waiting_for=None if link is None else _waiting(link),
        progress=ProgressBody(
            windows_read=progress.findings.windows,
            windows_left=progress.windows_left,
            note=progress.note,
        ),
        result=None if operation.result is None else _audit(operation.result),
        problem=None if failure is None else _problem(failure),
    )


def _waiting(link: LinkRecord) -> WaitingBody | None:
    """Say why the link's owner does not carry it out now: it does so while the link is live."""
    now = shown(facts_of(link, Calendar()))  # whatever its hours: the phase is the same
    if now.phase is Phase.LIVE:
        return None
    return WaitingBody(phase=now.phase, reason=now.reason, message=now.message)


def _audit(result: AuditResult) -> AuditBody:
    found = result.findings
    return AuditBody(
        proof=result.proof,
        detail=result.detail,
        windows=found.windows,
        inserted=found.inserted,
        revised=found.revised,
        missing=found.missing,
        false_receipts=found.false_receipts,
        difference=None if result.difference is None else _difference(result.difference),
    )


def _difference(difference: Difference) -> DifferenceBody:
    return DifferenceBody(
        balance=amount(difference.balance),
        credit=amount(difference.credit),
        currency=difference.currency,
    )


def _problem(failure: OperationFailure) -> OperationProblemBody:
    return OperationProblemBody(
        type=f"/problems/{failure.replace('_', '-')}", title=_TITLES[failure], reason=failure
    )
