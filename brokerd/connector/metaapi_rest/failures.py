"""Decides which error an answer of MetaApi is, for every status and body it may come with.

Messages quote what MetaApi said in a line of bounded length and never a `value` it echoes: that may
be a password. The request id it appends is cut off, so that equal failures read equal.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from brokerd.connector.metaapi_rest.hints import hinted_seconds
from brokerd.connector.metaapi_rest.validations import advice, refusal_kind
from brokerd.errors import (
    BrokerdError,
    Forbidden,
    InvalidRequest,
    MalformedAnswer,
    NotConnected,
    NotFound,
    RemoteUnavailable,
    Synchronizing,
    Throttled,
    TopUpRequired,
    Transient,
    Unauthorized,
    ValidationLocked,
)

DEFAULT_THROTTLE_SECONDS = 10.0
"""The wait after a 429 that says nothing of it."""
LOCK_SECONDS = 3600.0
"""How long MetaApi checks no credentials of an account after too many bad ones (metaapi.md 2.3)."""

_QUOTED_LENGTH = 300
_REQUEST_ID = re.compile(r"\s*\([0-9a-f]{32}\)\s*$")
_NOT_CONNECTED = re.compile(r"not connected to broker", re.IGNORECASE)
_LOCKED = re.compile(r"validation .*rejected too many times", re.IGNORECASE)
_SCOPES = {"perUser": "user", "perServer": "server", "perAccount": "account"}
_SERVER_FAILED = 500
_TOO_MANY = 429
_SERVER_SLOW = frozenset({408, 425})
_REFUSED = 400
_UNPAID = frozenset({400, 403})
_MONEY = re.compile(
    r"top[- ]?up|insufficient (balance|funds)|balance is (insufficient|exhausted)", re.IGNORECASE
)
"""What a refusal says that is about money: neither its status nor its text is settled."""
_TOP_UP = "; top up the MetaApi balance"
_REFUSALS: Mapping[int, tuple[type[BrokerdError], str]] = {
    401: (Unauthorized, "; put a valid API token under that name"),
    402: (TopUpRequired, _TOP_UP),
    403: (Forbidden, "; check the token's rights"),
    404: (NotFound, "; check the account id, its region, and whose token it is"),
    409: (Transient, ""),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer as it came. `headers` do not care for case.

    `answered_at` is what MetaApi's own clock showed, as far as we know it.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    answered_at: datetime


class _ErrorBody(msgspec.Struct):
    """MetaApi's error object (metaapi.md 4.1); anything may be missing or of another type."""

    error: object = None
    message: object = None
    details: object = None
    metadata: object = None


def failure(answer: Answer, *, call: str) -> BrokerdError:
    """Return the error for an answer that is no success; `call` says what was asked of whom."""
    body = _error_body(answer.body)
    said = f"{call} failed: HTTP {answer.status}{_quoted(body)}"
    if answer.status >= _SERVER_FAILED:
        return _server_failure(answer, body, said)
    if answer.status == _TOO_MANY:
        return _throttled(answer, body, said)
    if answer.status in _SERVER_SLOW:
        return RemoteUnavailable(said, retry_after_seconds=_hint(answer, body))
    if answer.status >= _REFUSED:
        return _refused(answer, body, said)
    return MalformedAnswer(f"{said}, where another success was expected")


def _refused(answer: Answer, body: _ErrorBody, said: str) -> BrokerdError:
    message = _text(body.message)
    if answer.status in _UNPAID and _MONEY.search(message):
        return TopUpRequired(f"{said}{_TOP_UP}")
    if answer.status == _REFUSED:
        invalid = refusal_kind(error=_text(body.error), message=message, details=body.details)
        return (invalid or InvalidRequest)(f"{said}{advice(body.details)}")
    kind, what_to_do = _REFUSALS.get(answer.status, (InvalidRequest, ""))
    return kind(f"{said}{what_to_do}")


def _server_failure(answer: Answer, body: _ErrorBody, said: str) -> BrokerdError:
    if body.error == "NotSynchronizedError":
        return Synchronizing(said)
    if _NOT_CONNECTED.search(_text(body.message)):
        return NotConnected(
            f"{said}; the account is undeployed, logged out of its broker, or in another region"
        )
    return RemoteUnavailable(said, retry_after_seconds=_hint(answer, body))


def _throttled(answer: Answer, body: _ErrorBody, said: str) -> Throttled:
    wait = _hint(answer, body)
    if _LOCKED.search(_text(body.message)):
        seconds = LOCK_SECONDS if wait is None else wait
        return ValidationLocked(said, retry_after_seconds=seconds, scope="account")
    return Throttled(
        said,
        retry_after_seconds=DEFAULT_THROTTLE_SECONDS if wait is None else wait,
        scope=_SCOPES.get(_text(_member(body.metadata, "exceededConfig")), "unknown"),
    )


def _hint(answer: Answer, body: _ErrorBody) -> float | None:
    recommended = _member(body.metadata, "recommendedRetryTime")
    return hinted_seconds(
        answer.headers,
        recommended=recommended if isinstance(recommended, str) else None,
        now=answer.answered_at,
    )


def _error_body(body: bytes) -> _ErrorBody:
    try:
        return msgspec.json.decode(body, type=_ErrorBody)
    except (ValueError, RecursionError):  # HTML, truncated, another shape: the status must do
        return _ErrorBody()


def _quoted(body: _ErrorBody) -> str:
    message = _REQUEST_ID.sub("", _text(body.message))
    parts = [_text(body.error), message, _details(body.details)]
    line = " ".join(" · ".join(part for part in parts if part).split())
    if not line:
        return " without a readable error body"
    shown = line if len(line) <= _QUOTED_LENGTH else f"{line[:_QUOTED_LENGTH]}…"
    return f' "{shown}"'


def _details(details: object) -> str:
    if isinstance(details, str):
        return details
    if isinstance(details, Sequence):
        return ", ".join(filter(None, map(_details, details)))
    named = (_text(_member(details, name)) for name in ("code", "parameter", "message"))
    return ": ".join(part for part in named if part)


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
