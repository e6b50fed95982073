"""Every failure brokerd raises on purpose, in one tree; the branch tells the caller what to do.

BrokerdError
├── Transient             try again later; backoff or the hint decides when
│   ├── LinkLost              the session ended or went silent
│   ├── TimedOut              a bounded wait passed its deadline
│   ├── NotConnected          MetaApi answers, its terminal is not connected to the broker
│   ├── Synchronizing         MetaApi's own history copy is not complete yet
│   ├── Throttled             429; carries the wait
│   ├── Held                  we let no such request out now; carries the wait
│   ├── RemoteUnavailable     transport failure or 5xx from MetaApi
│   ├── MalformedAnswer       an answer we refuse to read; never taken as empty
│   ├── Incomplete            the broker's answer contradicts what the ledger proves
│   ├── StoreUnavailable      Postgres did not take it; nothing was acknowledged
│   └── ControlUnavailable    a command got no answer from the control API
├── Rejected              retrying the same thing cannot help
│   ├── Unauthorized          401: the API token is bad
│   ├── Forbidden             403
│   │   └── TopUpRequired         403: MetaApi wants money first
│   ├── NotFound              404
│   ├── InvalidRequest        400 and every other refused 4xx
│   │   └── QuotaExceeded         400: MetaApi's limit of accounts or subscriptions
│   ├── TlsInvalid            the other side's certificate does not hold
│   ├── AuthFailed            the broker refuses login and password
│   ├── TermsRequired         the broker wants its user to act first
│   ├── AccountDisabled       the broker disabled the account
│   ├── BudgetExhausted       our own limit of spending is reached
│   ├── NotDeployed           the MetaApi account is not deployed
│   ├── IdentityMismatch      the account behind the id is not the one registered
│   ├── Conflict              the registry refuses: identity taken or immutable
│   │   └── StaleVersion          the link is not as the caller last saw it
│   ├── QueueFull             queue.max_length is reached
│   ├── TooManyStreams        api.max_streams is reached
│   ├── ConfigInvalid         configuration or schema unusable: exit code 78
│   ├── CursorLost            the feed behind a cursor is gone; list again
│   ├── BadDeal               a deal that cannot be stored as it stands
│   ├── ControlRefused        the control API refuses what a command asked
│   ├── BackupFailed          no backup was made, or nothing was restored
│   └── EngineFailed          an embedded engine of demo and tests does not run
└── Fenced                someone else owns it: stop, write nothing, not even a status
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar


class BrokerdError(Exception):
    """Base of everything raised on purpose; `code` is stable and shown by API, logs and metrics."""

    code: ClassVar[str] = "internal"


class Transient(BrokerdError):
    """A failure that time may cure."""

    code = "transient"


class LinkLost(Transient):
    """The session ended or went silent."""

    code = "link_lost"


class TimedOut(Transient):
    """A bounded wait passed its deadline."""

    code = "timed_out"


class NotConnected(Transient):
    """MetaApi answers, but the account's terminal is not connected to its broker."""

    code = "not_connected"


class Synchronizing(Transient):
    """MetaApi says that its history copy is incomplete; the watermark must not move."""

    code = "synchronizing"


class Throttled(Transient):
    """MetaApi answered 429.

    `retry_after_seconds` is already floored to one second; `scope` names what was exhausted
    (`account`, `server`, `user` or `unknown`).
    """

    code = "throttled"

    def __init__(self, message: str, *, retry_after_seconds: float, scope: str = "unknown") -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.scope = scope


class Held(Transient):
    """We let no such request out for now: its scope is being waited for, or somebody holds it.

    Carries the seconds to wait, and the scope that is held.
    """

    code = "held"

    def __init__(self, message: str, *, retry_after_seconds: float, scope: str = "unknown") -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.scope = scope


class RemoteUnavailable(Transient):
    """The request did not reach MetaApi, or MetaApi failed on its side.

    `retry_after_seconds` is the server's hint where it gave one.
    """

    code = "remote_unavailable"

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class MalformedAnswer(Transient):
    """MetaApi sent something we cannot read; it is retried and never taken for an empty answer."""

    code = "malformed_answer"


class Incomplete(Transient):
    """The broker's answer lacks deals that the ledger holds and the balance still proves."""

    code = "incomplete"


class StoreUnavailable(Transient):
    """Postgres did not take the work; nothing was acknowledged."""

    code = "store_unavailable"


class ControlUnavailable(Transient):
    """The control API did not answer a command, or could not just then."""

    code = "control_unavailable"


class Rejected(BrokerdError):
    """A refusal that repeating cannot change."""

    code = "rejected"


class Unauthorized(Rejected):
    """The API token is missing, revoked or wrong (401)."""

    code = "unauthorized"


class Forbidden(Rejected):
    """The token may not do this (403)."""

    code = "forbidden"


class TopUpRequired(Forbidden):
    """MetaApi's balance is exhausted; whoever pays must top it up (403)."""

    code = "top_up_required"


class NotFound(Rejected):
    """There is no such thing (404)."""

    code = "not_found"


class InvalidRequest(Rejected):
    """The other side refuses the request itself (400 and the remaining 4xx)."""

    code = "invalid_request"


class QuotaExceeded(InvalidRequest):
    """MetaApi allows no more accounts or subscriptions (400)."""

    code = "quota_exceeded"


class TlsInvalid(Rejected):
    """The other side's certificate is expired, of another name or of a stranger; never bypassed."""

    code = "tls_invalid"


class AuthFailed(Rejected):
    """The broker refuses login and password (E_AUTH); each repetition may cost money."""

    code = "auth_failed"


class TermsRequired(Rejected):
    """The broker wants its user to accept terms or change the password first."""

    code = "terms_required"


class AccountDisabled(Rejected):
    """The broker disabled the account; only the broker can change that."""

    code = "account_disabled"


class BudgetExhausted(Rejected):
    """Our own limit of spending is reached; nothing was spent."""

    code = "budget_exhausted"


class NotDeployed(Rejected):
    """The MetaApi account exists but is not deployed; someone must deploy it."""

    code = "not_deployed"


class IdentityMismatch(Rejected):
    """The account behind the id is not the one that was registered; nothing may be written."""

    code = "identity_mismatch"


class Conflict(Rejected):
    """The registry refuses the change: the identity is taken, or would change."""

    code = "conflict"


class StaleVersion(Conflict):
    """The link is not, or no longer, as the caller's precondition says."""

    code = "version_conflict"


class QueueFull(Rejected):
    """As many links wait as `queue.max_length` allows."""

    code = "queue_full"


class TooManyStreams(Rejected):
    """As many event streams are open as `api.max_streams` allows."""

    code = "too_many_streams"


class CursorLost(Rejected):
    """What stood behind a reader's cursor is gone: it must list again and go on from the end."""

    code = "cursor_lost"


class BadDeal(Rejected):
    """A deal cannot be stored as it stands; the message says which field and why."""

    code = "bad_deal"


class ControlRefused(Rejected):
    """The control API refuses what a command asked of it; the message is the API's own."""

    code = "control_refused"


class BackupFailed(Rejected):
    """A backup could not be made, checked or restored; the message says what to do."""

    code = "backup_failed"


class EngineFailed(Rejected):
    """An embedded engine of the demo or the tests does not run; the message says why."""

    code = "engine_failed"


class ConfigInvalid(Rejected):
    """The configuration or the database schema cannot be used; `problems` lists every reason."""

    code = "config_invalid"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class Fenced(BrokerdError):
    """Another process owns this now: stop, write nothing, not even a status."""

    code = "fenced"


def leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    """Yield what a group, and the groups inside it, are made of."""
    for failure in group.exceptions:
        if isinstance(failure, ExceptionGroup):
            yield from leaves(failure)
        else:
            yield failure
