"""What becomes of a link that was refused: where it waits, for how long, and for what reason."""

from dataclasses import dataclass

from brokerd.config.settings import LinkSettings
from brokerd.connector.states import LinkEvent
from brokerd.domain import UserAction
from brokerd.errors import (
    AuthFailed,
    AuthSuspected,
    BrokerdError,
    Held,
    IdentityMismatch,
    Rejected,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The event a refusal is; None seconds means until the link's spec or credentials change."""

    event: LinkEvent
    delay_seconds: float | None


def judge(refusal: Rejected, settings: LinkSettings) -> Verdict:
    """Say what a refusal means for its link.

    Credentials that are refused for good are never tried again by themselves: each attempt may
    cost money. All else is looked at again, at the time the refusal itself gives if it gives one.
    """
    delay_seconds = refusal.retry_after_seconds
    if delay_seconds is None:
        delay_seconds = settings.blocked_recheck_seconds
    match refusal:
        case AuthFailed():
            return Verdict(event=LinkEvent.AUTH_REFUSED, delay_seconds=None)
        case AuthSuspected():
            return Verdict(event=LinkEvent.AUTH_DOUBTED, delay_seconds=delay_seconds)
        case IdentityMismatch():
            return Verdict(event=LinkEvent.MISMATCHED, delay_seconds=delay_seconds)
        case _:
            return Verdict(event=LinkEvent.REFUSED, delay_seconds=delay_seconds)


def reason_of(failure: BrokerdError) -> str:
    """Return the failure's stable code in the form conditions use: CamelCase.

    Of what the governor holds because of a refusal the refusal is the reason.
    """
    is_refused = failure.user_action is not UserAction.NONE
    code = failure.cause if isinstance(failure, Held) and is_refused else failure.code
    return "".join(part.capitalize() for part in code.split("_"))
