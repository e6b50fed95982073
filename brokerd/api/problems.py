"""What a failure says to a client: RFC 9457 problems with stable types; pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from litestar.exceptions import HTTPException

from brokerd.api.cursor import BadCursor
from brokerd.api.validation import Invalid, Unreadable, Violation
from brokerd.errors import (
    BudgetExhausted,
    Conflict,
    CursorLost,
    KnownBadCredentials,
    NotFound,
    QueueFull,
    StaleVersion,
    StoreUnavailable,
    TooManyStreams,
)

STORE_RETRY_SECONDS = 1.0
QUEUE_RETRY_SECONDS = 10.0
STREAM_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A failure in terms of the API; `kind` ends the type's URI and never changes."""

    status: int
    kind: str
    title: str
    reason: str
    detail: str = ""
    is_retryable: bool = False
    retry_after_seconds: float | None = None
    violations: Sequence[Violation] = ()

    @property
    def type(self) -> str:
        """Return the problem's type, a URI reference."""
        return f"/problems/{self.kind}"

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        if self.status == HTTPStatus.UNAUTHORIZED:
            return {"WWW-Authenticate": 'Bearer realm="brokerd"'}
        if self.retry_after_seconds is None:
            return {}
        return {"Retry-After": str(math.ceil(self.retry_after_seconds))}


_OF_STATUS = {
    400: ("malformed", "The request cannot be read"),
    401: ("unauthorized", "A valid API key is needed"),
    404: ("not-found", "There is no such thing"),
    405: ("method-not-allowed", "This address does not know the method"),
    413: ("body-too-large", "The body is too large"),
}


def problem_of(error: Exception) -> Problem | None:
    """Return what a client is told of a failure; None for one that nobody foresaw."""
    match error:
        case Invalid() | BadCursor() | Unreadable():
            return _of_request(error)
        case NotFound() | KnownBadCredentials() | BudgetExhausted():
            return _of_refusal(error)
        case Conflict() | QueueFull() | StoreUnavailable():
            return _of_store(error)
        case CursorLost() | TooManyStreams():
            return _of_feed(error)
        case HTTPException() if error.status_code in _OF_STATUS:
            return _plain(error.status_code, "")
        case _:
            return None


UNFORESEEN = Problem(
    status=500,
    kind="internal",
    title="brokerd failed",
    reason="internal",
    detail="the failure is in the log under this requestId",
)


def _of_request(error: Invalid | BadCursor | Unreadable) -> Problem:
    match error:
        case Invalid():
            return _validation(error.violations)
        case BadCursor():
            violation = Violation(path="?after", message="is not the `next` of an earlier page")
            return _validation([violation])
        case Unreadable():
            return _plain(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}")


def _of_store(error: Conflict | QueueFull | StoreUnavailable) -> Problem:
    match error:
        case StaleVersion():
            return Problem(
                status=412,
                kind="version-conflict",
                title="The link is not as you last saw it",
                reason=error.code,
                detail=str(error),
            )
        case Conflict():
            return Problem(
                status=409,
                kind="conflict",
                title="The registry refuses this",
                reason=error.code,
                detail=str(error),
            )
        case QueueFull():
            return Problem(
                status=429,
                kind="queue-full",
                title="As many links wait as may",
                reason=error.code,
                detail=str(error),
                is_retryable=True,
                retry_after_seconds=QUEUE_RETRY_SECONDS,
            )
        case StoreUnavailable():
            return Problem(
                status=503,
                kind="dependency-unavailable",
                title="The store is out of reach",
                reason=error.code,
                detail="Postgres did not answer; whether a change was taken is unknown",
                is_retryable=True,
                retry_after_seconds=STORE_RETRY_SECONDS,
            )


def _of_refusal(error: NotFound | KnownBadCredentials | BudgetExhausted) -> Problem:
    match error:
        case NotFound():
            return _plain(HTTPStatus.NOT_FOUND, str(error))
        case KnownBadCredentials():
            return Problem(
                status=422,
                kind="bad-credentials-known",
                title="The broker refused these credentials before",
                reason=error.code,
                detail=str(error),
            )
        case BudgetExhausted():
            return Problem(
                status=409,
                kind="budget-exhausted",
                title="It would cost more than may be spent now",
                reason=error.code,
                detail=str(error),
                is_retryable=True,
                retry_after_seconds=error.retry_after_seconds,
            )


def _of_feed(error: CursorLost | TooManyStreams) -> Problem:
    match error:
        case CursorLost():
            return Problem(
                status=410,
                kind="cursor-lost",
                title="Events behind this cursor are gone",
                reason=error.code,
                detail=f"{error}; take after=latest, list again, then go on from there",
            )
        case TooManyStreams():
            return Problem(
                status=429,
                kind="too-many-streams",
                title="As many event streams are open as may be",
                reason=error.code,
                detail=str(error),
                is_retryable=True,
                retry_after_seconds=STREAM_RETRY_SECONDS,
            )


def _validation(violations: Sequence[Violation]) -> Problem:
    return Problem(
        status=422,
        kind="validation",
        title="The request breaks the rules listed",
        reason="validation",
        violations=violations,
    )


def _plain(status: int, detail: str) -> Problem:
    kind, title = _OF_STATUS[status]
    return Problem(
        status=status, kind=kind, title=title, reason=kind.replace("-", "_"), detail=detail
    )
