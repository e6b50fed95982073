"""Every failure brokerd raises on purpose, in one tree; the branch tells the caller what to do.

BrokerdError
├── Transient             try again later; backoff or the hint decides when
│   ├── LinkLost              the session ended or went silent
│   │   ├── StreamDeaf            the stream beats, but pulls bring what it should have
│   │   └── BrokerAway            the terminal beats, but its broker stays away for long
│   ├── TimedOut              a bounded wait passed its deadline
│   │   ├── ConnectTimeout        no terminal answered
│   │   └── SyncStalled           a synchronization made no progress
│   ├── NotConnected          MetaApi answers, its terminal is not connected to the broker
│   ├── Synchronizing         MetaApi's own history copy is not complete yet
│   ├── Throttled             429; carries the wait
│   │   └── ValidationLocked      MetaApi checks this account's credentials no more for an hour
│   ├── Held                  the governor did not send it; carries the wait
│   ├── RemoteUnavailable     transport failure or 5xx from MetaApi
│   ├── MalformedAnswer       an answer we refuse to read; never taken as empty
│   ├── Incomplete            the broker's answer contradicts what the ledger proves
│   ├── LedgerRewound         the ledger is behind what we knew of it: commits were lost
│   ├── ProvisionTimeout      MetaApi did not bring the account where it should be in time
│   ├── StoreUnavailable      Postgres did not take it; nothing was acknowledged
│   └── ControlUnavailable    a command got no answer from the control API
├── Rejected              retrying the same thing cannot help
│   ├── Unauthorized          401: the API token is bad
│   ├── Forbidden             403
│   ├── TopUpRequired         402, or 403 that asks for money: the MetaApi balance is exhausted
│   ├── TlsInvalid            the server's certificate is not valid for it; nothing was sent
│   ├── NotFound              404
│   ├── InvalidRequest        400 and every other refused 4xx
│   │   ├── QuotaExceeded         400: MetaApi's limit of accounts or subscriptions
│   │   ├── ServerNotFound        400: MetaApi knows no such broker server
│   │   ├── TimezoneUndetected    400: MetaApi cannot detect the broker's settings
│   │   └── ResourceSlots         400: the account needs more of what MetaApi sells
│   ├── AuthSuspected         the broker refuses credentials that it took last week
│   ├── AuthFailed            the broker refuses login and password
│   │   ├── KnownBadCredentials   it refused these before; it is not asked
│   │   └── CredentialsMissing    there is no password to ask with
│   ├── TermsRequired         the broker wants its user to act in a terminal first
│   │   ├── OtpRequired           to switch one-time passwords off
│   │   └── PasswordChangeRequired    to choose another password
│   ├── AccountDisabled       the broker disabled the account
│   │   └── NoSymbols             it gives the account nothing to trade
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

from brokerd.domain import UserAction


class BrokerdError(Exception):
    """Base of everything raised on purpose; `code` is stable and shown by API, logs and metrics.

    `user_action` is what a human must do about it.
    """

    code: ClassVar[str] = "internal"
    user_action: UserAction = UserAction.NONE


class Transient(BrokerdError):
    """A failure that time may cure."""

    code = "transient"


class LinkLost(Transient):
    """The session ended or went silent."""

    code = "link_lost"


class StreamDeaf(LinkLost):
    """The stream beats, but only pulls bring the deals it should have brought."""

    code = "stream_deaf"


class BrokerAway(LinkLost):
    """The terminal beats, but the broker lets it in no more, in session and it alone, for long."""

    code = "broker_away"


class TimedOut(Transient):
    """A bounded wait passed its deadline."""

    code = "timed_out"


class ConnectTimeout(TimedOut):
    """No terminal of the account answered in time."""

    code = "connect_timeout"


class SyncStalled(TimedOut):
    """A synchronization made no progress for too long."""

    code = "sync_stalled"


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
    """The governor refused to send: nothing was sent and nothing was spent.

    `scope` says what is held (as `user:main`) and `cause` why: `throttled`, `credits`, `rate`, or
    what a breaker opened for. Where that is a refusal somebody must act on, `user_action` says who.
    """

    code = "held"

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float,
        scope: str,
        cause: str,
        user_action: UserAction = UserAction.NONE,
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.scope = scope
        self.cause = cause
        self.user_action = user_action


class ValidationLocked(Throttled):
    """MetaApi refused too many credentials of this account and looks at none for an hour."""

    code = "validation_locked"


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


class ProvisionTimeout(Transient):
    """MetaApi did not bring the account where it should be in time; it may still do so."""

    code = "provision_timeout"


class StoreUnavailable(Transient):
    """Postgres did not take the work; nothing was acknowledged."""

    code = "store_unavailable"


class ControlUnavailable(Transient):
    """The control API did not answer a command, or could not just then."""

    code = "control_unavailable"


class Rejected(BrokerdError):
    """A refusal that repeating cannot change.

    `retry_after_seconds` is when looking again makes sense, None where the one who asked decides.
    """

    code = "rejected"
    user_action = UserAction.CONTACT_OPERATOR

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unauthorized(Rejected):
    """The API token is missing, revoked or wrong (401)."""

    code = "unauthorized"
    user_action = UserAction.FIX_TOKEN


class Forbidden(Rejected):
    """The token may not do this (403)."""

    code = "forbidden"


class TopUpRequired(Rejected):
    """The MetaApi balance is exhausted (402, or 403 that asks for a top-up)."""

    code = "billing"
    user_action = UserAction.TOP_UP


class TlsInvalid(Rejected):
    """The server's certificate is expired, or of another host, or of nobody we trust.

    Nothing was sent, and nothing is sent without TLS instead.
    """

    code = "tls_invalid"


class NotFound(Rejected):
    """There is no such thing (404)."""

    code = "not_found"


class InvalidRequest(Rejected):
    """The other side refuses the request itself (400 and the remaining 4xx)."""

    code = "invalid_request"


class QuotaExceeded(InvalidRequest):
    """MetaApi allows no more accounts or subscriptions (400)."""

    code = "quota"


class ServerNotFound(InvalidRequest):
    """MetaApi knows no such broker server; the message names those it suggests."""

    code = "server_not_found"
    user_action = UserAction.FIX_IDENTITY


class TimezoneUndetected(InvalidRequest):
    """MetaApi could not detect the broker's settings (E_SERVER_TIMEZONE); each attempt costs."""

    code = "timezone_undetected"


class ResourceSlots(InvalidRequest):
    """The account needs more resource slots; the message says how many."""

    code = "resource_slots"


class AuthSuspected(Rejected):
    """The broker refuses credentials that it took within the last week: to be asked once more.

    Brokers that restart refuse everybody for a while. `retry_after_seconds` is when to ask.
    """

    code = "auth_suspect"
    user_action = UserAction.NONE


class AuthFailed(Rejected):
    """The broker refuses login and password (E_AUTH); each repetition may cost money."""

    code = "auth_failed"
    user_action = UserAction.UPDATE_CREDENTIALS


class KnownBadCredentials(AuthFailed):
    """The broker refused these very credentials before: they are not tried again."""

    code = "bad_credentials_known"


class CredentialsMissing(AuthFailed):
    """An account is to be created, and there is no password to create it with."""

    code = "credentials_missing"


class TermsRequired(Rejected):
    """The broker wants its user to accept terms, or to do something else in a terminal, first."""

    code = "terms_required"
    user_action = UserAction.ACCEPT_BROKER_TERMS


class OtpRequired(TermsRequired):
    """The broker asks for a one-time password, which nobody can give at night."""

    code = "otp_required"


class PasswordChangeRequired(TermsRequired):
    """The broker lets its user in only with another password."""

    code = "password_change_required"


class AccountDisabled(Rejected):
    """The broker disabled the account; only the broker can change that."""

    code = "account_disabled"
    user_action = UserAction.CONTACT_BROKER


class NoSymbols(AccountDisabled):
    """The broker gives the account no symbol, and so MetaApi nothing to work with."""

    code = "no_symbols"


class BudgetExhausted(Rejected):
    """Our own limit of spending is reached; nothing was spent."""

    code = "budget_exhausted"


class NotDeployed(Rejected):
    """The MetaApi account exists but is not deployed; someone must deploy it."""

    code = "not_deployed"
    user_action = UserAction.DEPLOY_ACCOUNT


class IdentityMismatch(Rejected):
    """The account behind the id is not the one that was registered; nothing may be written."""

    code = "identity_mismatch"
    user_action = UserAction.FIX_IDENTITY


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
