"""What MetaApi says of an account that it cannot add or log in: codes, messages, `details`; pure.

`details` is polymorphic (metaapi.md 2.3): a list of field errors, a bare code, or an object with a
`code` and what the client needs to know.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

Details = str | Mapping[str, object] | Sequence[Mapping[str, object]]


class ValidationCode(StrEnum):
    """The codes of a ValidationError."""

    SRV_NOT_FOUND = "E_SRV_NOT_FOUND"
    AUTH = "E_AUTH"
    SERVER_TIMEZONE = "E_SERVER_TIMEZONE"
    RESOURCE_SLOTS = "E_RESOURCE_SLOTS"
    NO_SYMBOLS = "E_NO_SYMBOLS"
    OTP_REQUIRED = "ERR_OTP_REQUIRED"
    PASSWORD_CHANGE_REQUIRED = "E_PASSWORD_CHANGE_REQUIRED"  # noqa: S105  # a code
    TRADING_ACCOUNT_DISABLED = "E_TRADING_ACCOUNT_DISABLED"


CHARGED = frozenset({ValidationCode.AUTH, ValidationCode.SERVER_TIMEZONE})
"""What MetaApi may charge as an excessive failed attempt (metaapi.md 3.7)."""

COUNTED = frozenset(
    {
        ValidationCode.AUTH,
        ValidationCode.OTP_REQUIRED,
        ValidationCode.PASSWORD_CHANGE_REQUIRED,
        ValidationCode.TRADING_ACCOUNT_DISABLED,
    }
)
"""Failed checks of credentials: enough of them lock the validation for a while."""

MESSAGES = {
    ValidationCode.SRV_NOT_FOUND: "We were unable to find the .dat file for server {server}.",
    ValidationCode.AUTH: (
        "We failed to authenticate to your broker using credentials provided. Please check that"
        " your MetaTrader account credentials are correct."
    ),
    ValidationCode.SERVER_TIMEZONE: "We were not able to retrieve server settings of {server}.",
    ValidationCode.RESOURCE_SLOTS: "The trading account needs more resource slots.",
    ValidationCode.NO_SYMBOLS: "The trading account has no symbols.",
    ValidationCode.OTP_REQUIRED: "The trading account requires a one-time password.",
    ValidationCode.PASSWORD_CHANGE_REQUIRED: "The broker demands a change of password.",
    ValidationCode.TRADING_ACCOUNT_DISABLED: "The trading account is disabled at the broker.",
}


def field_error(parameter: str, message: str, *, value: object = None) -> Mapping[str, object]:
    """Return one entry of a list of field errors."""
    error: dict[str, object] = {"parameter": parameter, "message": message}
    return error if value is None else error | {"value": value}


def details_of(
    code: ValidationCode, *, suggestions: Mapping[str, Sequence[str]], recommended_slots: int
) -> Details:
    """Return the `details` that go with a code."""
    if code is ValidationCode.SRV_NOT_FOUND:
        return {"code": code.value, "serversByBrokers": suggestions}
    if code is ValidationCode.RESOURCE_SLOTS:
        return {"code": code.value, "recommendedResourceSlots": recommended_slots}
    return code.value
