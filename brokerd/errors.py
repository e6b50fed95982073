"""Every failure brokerd raises on purpose, in one tree; the branch tells the caller what to do.

BrokerdError
├── Transient             try again later; backoff or the hint decides when
│   ├── LinkLost              the session ended or went silent
│   ├── TimedOut              a bounded wait passed its deadline
│   ├── NotConnected          MetaApi answers, its terminal is not connected to the broker
│   ├── Synchronizing         MetaApi's own history copy is not complete yet
│   ├── Throttled             429; carries the wait
│   ├── RemoteUnavailable     transport failure or 5xx from MetaApi
│   ├── MalformedAnswer       an answer we refuse to read; never taken as empty
│   ├── Incomplete            the broker's answer contradicts what the ledger proves
│   ├── LedgerRewound         the ledger is behind what we knew of it: commits were lost
│   └── StoreUnavailable      Postgres did not take it; nothing was acknowledged
├── Rejected              retrying the same thing cannot help
│   ├── Unauthorized          401: the API token is bad
│   ├── Forbidden             403
│   ├── NotFound              404
│   ├── InvalidRequest        400 and every other refused 4xx
│   ├── NotDeployed           the MetaApi account is not deployed
│   ├── IdentityMismatch      the account behind the id is not the one registered
│   ├── Conflict              the registry refuses: identity taken or immutable
│   │   └── StaleVersion          the link is not as the caller last saw it
│   ├── QueueFull             queue.max_length is reached
│   ├── TooManyStreams        api.max_streams is reached
│   ├── ConfigInvalid         configuration or schema unusable: exit code 78
│   ├── CursorLost            the feed behind a cursor is gone; list again
│   ├── BadDeal               a deal that cannot be stored as it stands
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


class LedgerRewound(Transient):
    """The ledger is behind what we knew of it: a failover or a restored backup lost commits."""

    code = "ledger_rewound"


class StoreUnavailable(Transient):
    """Postgres did not take the work; nothing was acknowledged."""

    code = "store_unavailable"


class Rejected(BrokerdError):
    """A refusal that repeating cannot change."""

    code = "rejected"


class Unauthorized(Rejected):
    """The API token is missing, revoked or wrong (401)."""

    code = "unauthorized"


class Forbidden(Rejected):
    """The token may not do this, or the MetaApi balance is exhausted (403)."""

    code = "forbidden"


class NotFound(Rejected):
    """There is no such thing (404)."""

    code = "not_found"


class InvalidRequest(Rejected):
    """The other side refuses the request itself (400 and the remaining 4xx)."""

    code = "invalid_request"


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
