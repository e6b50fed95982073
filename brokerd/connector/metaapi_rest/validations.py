"""Decides which refusal a validation error of MetaApi's provisioning is (metaapi.md 2.3).

Its `details` have three shapes: a code, an object that has one, or a list of fields that are wrong.
Where there is no code we know, the words of the message must do.
"""

import re
from collections.abc import Mapping, Sequence

from brokerd.errors import (
    AccountDisabled,
    AuthFailed,
    NoSymbols,
    OtpRequired,
    PasswordChangeRequired,
    QuotaExceeded,
    Rejected,
    ResourceSlots,
    ServerNotFound,
    TermsRequired,
    TimezoneUndetected,
)

_CODES: Mapping[str, type[Rejected]] = {
    "E_AUTH": AuthFailed,
    "E_SERVER_TIMEZONE": TimezoneUndetected,
    "E_SRV_NOT_FOUND": ServerNotFound,
    "E_RESOURCE_SLOTS": ResourceSlots,
    "E_NO_SYMBOLS": NoSymbols,
    "ERR_OTP_REQUIRED": OtpRequired,
    "E_PASSWORD_CHANGE_REQUIRED": PasswordChangeRequired,
    "E_TRADING_ACCOUNT_DISABLED": AccountDisabled,
}
_WORDS: Sequence[tuple[re.Pattern[str], type[Rejected]]] = [
    (re.compile(words, re.IGNORECASE), kind)
    for words, kind in (
        (r"quota exceeded|exceeded .*quota", QuotaExceeded),
        (r"failed to authenticate", AuthFailed),
        (r"retrieve server settings", TimezoneUndetected),
        (r"\.dat file for server|\.srv file for server", ServerNotFound),
        (r"no symbols", NoSymbols),
        (r"one-time password", OtpRequired),
        # no source shows such a text; brokers do ask for it
        (r"accept .*(terms|agreement)", TermsRequired),
    )
]
_MAX_SUGGESTIONS = 5
_SUGGESTION_LENGTH = 64


def refusal_kind(*, error: str, message: str, details: object) -> type[Rejected] | None:
    """Return which of our refusals a 400 is; None for one that is no more than invalid."""
    code = code_of(details)
    if code in _CODES:
        return _CODES[code]
    if error == "QuotaExceededError":
        return QuotaExceeded
    return next((kind for words, kind in _WORDS if words.search(message)), None)


def code_of(details: object) -> str:
    """Return the code of an error's details, whatever their shape; nothing when there is none."""
    if isinstance(details, str):
        return details
    if isinstance(details, Mapping):
        code = details.get("code")
        return code if isinstance(code, str) else ""
    if isinstance(details, Sequence):
        return next(filter(None, map(code_of, details)), "")
    return ""


def advice(details: object) -> str:
    """Return what the details add for a human: servers to choose from, or slots that are needed."""
    if not isinstance(details, Mapping):
        return ""
    slots, brokers = details.get("recommendedResourceSlots"), details.get("serversByBrokers")
    if isinstance(slots, int):
        return f"; the account needs {slots} resource slots"
    if isinstance(brokers, Mapping):
        names = [
            name[:_SUGGESTION_LENGTH]
            for servers in brokers.values()
            if isinstance(servers, Sequence) and not isinstance(servers, str)
            for name in servers
            if isinstance(name, str) and name.isprintable()
        ]
        return f"; MetaApi suggests {', '.join(names[:_MAX_SUGGESTIONS])}" if names else ""
    return ""
