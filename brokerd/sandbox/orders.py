"""What clients order of the provisioning service, and what is wrong with it field by field."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Literal, TypeVar

import msgspec

from brokerd.domain import Platform
from brokerd.sandbox import refusals
from brokerd.sandbox.facts import Reliability
from brokerd.sandbox.refusals import Refused
from brokerd.sandbox.truth import Hosting
from brokerd.sandbox.validation import field_error

_MAX_METADATA_CHARACTERS = 1024
_REQUIRED = "Required value."

FieldErrors = Iterator[Mapping[str, object]]


class Order(msgspec.Struct, kw_only=True, rename="camel"):
    """Fields that MetaApi knows and the sandbox does not are passed over."""

    login: str | None = None
    password: str | None = None
    magic: int | None = None
    manual_trades: bool | None = None
    quote_streaming_interval_in_seconds: float | None = None
    tags: tuple[str, ...] | None = None
    metadata: dict[str, object] | None = None
    resource_slots: int | None = None
    copy_factory_resource_slots: int | None = None

    def hosting(self, current: Hosting) -> Hosting:
        """Return the settings of an account after this order."""
        wanted = {f.name: getattr(self, f.name) for f in fields(Hosting)}
        return replace(current, **{k: v for k, v in wanted.items() if v is not None})

    def errors(self) -> FieldErrors:
        """Yield what is wrong."""
        if self.login is not None and not self.login.isdecimal():
            yield field_error("login", "Only digits are allowed.", value=self.login)
        if self.password == "":
            yield field_error("password", _REQUIRED)
        if self.manual_trades and self.magic:
            yield field_error("magic", "Must be 0 when manualTrades is true.", value=self.magic)
        if self.metadata is not None and (
            len(msgspec.json.encode(self.metadata)) > _MAX_METADATA_CHARACTERS
        ):
            yield field_error("metadata", f"At most {_MAX_METADATA_CHARACTERS} characters.")
        if self.resource_slots is not None and self.resource_slots < 1:
            yield field_error("resourceSlots", "Must be at least 1.", value=self.resource_slots)


class NewAccount(Order):
    """An account to add. Without login and password it is a draft that the end user fills in."""

    name: str | None = None
    server: str | None = None
    platform: Platform | None = None
    type: Literal["cloud-g2", "cloud-g1", "cloud"] = "cloud-g2"
    region: str = "new-york"
    reliability: Reliability | None = None
    provisioning_profile_id: str | None = None

    @property
    def is_draft(self) -> bool:
        """Say whether the end user is to fill in the credentials."""
        return self.login is None and self.password is None

    def errors(self) -> FieldErrors:
        """Yield what is wrong."""
        yield from super().errors()
        for parameter in ("name", "server", "magic"):
            if getattr(self, parameter) in (None, ""):
                yield field_error(parameter, _REQUIRED)
        if self.platform is None and self.provisioning_profile_id is None:
            yield field_error("platform", _REQUIRED)
        for parameter in ("login", "password"):
            if getattr(self, parameter) is None and not self.is_draft:
                yield field_error(parameter, _REQUIRED)


class AccountUpdate(Order):
    """What is to change; what is left out stays."""

    name: str | None = None
    server: str | None = None


_T = TypeVar("_T", bound=Order)


def read_order(body: bytes, kind: type[_T]) -> _T:
    """Read an order; raises `Refused` with every field that is wrong."""
    try:
        order = msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        parameter = str(error).partition("`$.")[2].rstrip("`") or "body"
        raise refusals.invalid(parameter, str(error)) from None
    except msgspec.DecodeError as error:
        raise refusals.invalid("body", str(error)) from None
    check_order(order)
    return order


def check_order(order: Order) -> None:
    """Raise `Refused` with every field that is wrong."""
    errors = list(order.errors())
    if errors:
        raise Refused(400, "Validation failed", details=errors)
