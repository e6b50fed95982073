"""Refusals of MetaApi's REST services, and the form they have on the wire (metaapi.md 4.1).

A body has `id`, `error`, a message that ends with a request id, `details` only on 400, `metadata`
only on 429.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from brokerd.sandbox import wire
from brokerd.sandbox.validation import MESSAGES, Details, ValidationCode, details_of, field_error

_ERRORS = {
    400: (3, "ValidationError"),
    401: (1, "UnauthorizedError"),
    403: (2, "ForbiddenError"),
    404: (4, "NotFoundError"),
    429: (1, "TooManyRequestsError"),
    500: (1, "InternalError"),
    504: (1, "TimeoutError"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """When to come again; both forms of it go with a 429, the metadata beside the second one."""

    retry_at: datetime
    metadata: Mapping[str, object] = field(default_factory=dict)

    def fields(self, offset: timedelta) -> dict[str, object]:
        """Return the metadata, by a clock that is `offset` ahead of ours."""
        retry_at = wire.iso_time(self.retry_at + offset)
        return {**self.metadata, "recommendedRetryTime": retry_at}


class Refused(Exception):
    """MetaApi refuses a request.

    `details` goes with 400, `hint` with 429. `error` is MetaApi's class name where the status
    alone does not settle it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        details: Details | None = None,
        hint: Hint | None = None,
        error: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.details = details
        self.hint = hint
        self.error = error

    @property
    def code(self) -> str | None:
        """Return the code in the details, None where there is none."""
        code = self.details.get("code") if isinstance(self.details, Mapping) else self.details
        return code if isinstance(code, str) else None


def invalid(parameter: str, message: str, *, value: object = None) -> Refused:
    """Return the refusal of one field."""
    error = field_error(parameter, message, value=value)
    return Refused(400, "Validation failed", details=[error])


def not_valid(
    code: ValidationCode,
    *,
    server: str,
    suggestions: Mapping[str, list[str]],
    recommended_slots: int = 1,
) -> Refused:
    """Return the refusal of an account that cannot be added or logged in."""
    details = details_of(code, suggestions=suggestions, recommended_slots=recommended_slots)
    return Refused(400, MESSAGES[code].format(server=server), details=details)


def not_found(account_id: str) -> Refused:
    """Return the refusal of an account that this user does not have."""
    return Refused(404, f"Trading account with id {account_id} not found")


def body_of(refused: Refused, *, request_id: str, offset: timedelta) -> dict[str, object]:
    """Return the body of the answer; its hint is by a clock that is `offset` ahead of ours."""
    number, name = _ERRORS.get(refused.status, (1, "ApiError"))
    body: dict[str, object] = {
        "id": number,
        "error": refused.error or name,
        "message": f"{refused} ({request_id})",
    }
    if refused.details is not None:
        body["details"] = refused.details
    if refused.hint is not None:
        body["metadata"] = refused.hint.fields(offset)
    return body
