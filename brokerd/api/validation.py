"""Whether a request is well-formed: every violation at once, each with its JSON path.

msgspec stops at the first fault, so a body that it refuses is taken apart and each of its places is
converted by itself. What the types cannot say is checked beside: names that must be configured,
words that are planned, moments that lie ahead.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from brokerd.api.bodies import ID_PATTERN, PutBody, SpecBody
from brokerd.domain import Desired, Identity, LinkSpec, UserId
from brokerd.store.place import place_of

_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_VIOLATIONS: Final = 100
_PLANNED: Final = {
    ("$.spec.desired", "fresh"): (
        "`fresh` is planned and not available yet; use `live`, `paused` or `stopped`"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """What is wrong with one place of a request."""

    path: str
    message: str


class Unreadable(Exception):
    """The body is not JSON."""


class Invalid(Exception):
    """The request breaks the rules in all the ways listed."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{each.path}: {each.message}" for each in violations))
        self.violations = tuple(violations[:_MAX_VIOLATIONS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a spec is checked against beside its types.

    `can_create`: there are keys to seal a new account's password with.
    """

    tokens: Collection[str]
    now: datetime
    can_create: bool


def read_spec(raw: bytes, *, limits: Limits) -> LinkSpec:
    """Read the body of a PUT; raises `Unreadable` or `Invalid`."""
    body = _parse(raw)
    found = list(_misfits(PutBody, body, "$"))
    found += _broken_rules(body, limits, known={each.path for each in found})
    if found:
        raise Invalid(found)
    return _spec(msgspec.convert(body, PutBody).spec)


def check_id(value: str, *, path: str) -> None:
    """Raise `Invalid` unless the value may name a link or a user."""
    if not re.fullmatch(ID_PATTERN, value) or not value.isprintable():
        raise Invalid([Violation(path=path, message=f"must match {ID_PATTERN}")])


def _parse(raw: bytes) -> object:
    try:
        body: object = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Unreadable(str(error)) from error
    return body


def _misfits(kind: type[msgspec.Struct], value: object, path: str) -> Iterator[Violation]:
    """Name each place that does not fit its type."""
    if not isinstance(value, dict):
        yield Violation(path=path, message="must be an object")
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key in value.keys() - fields.keys():
        yield Violation(path=_at(path, key), message="is not known")
    for name, field in fields.items():
        if name in value:
            yield from _misfit(field.type, value[name], f"{path}.{name}")
        elif field.required:
            yield Violation(path=f"{path}.{name}", message="is missing")


def _misfit(kind: object, value: object, path: str) -> Iterator[Violation]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from _misfits(kind, value, path)
        return
    planned = _PLANNED.get((path, value)) if isinstance(value, str) else None
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message = str(error).replace(" - at `", " at `")
        yield Violation(path=path, message=planned or message)
    else:
        yield from _unprintable(value, path)


def _unprintable(value: object, path: str) -> Iterator[Violation]:
    """Name strings with control characters: a pattern's `$` lets a last newline pass."""
    if isinstance(value, str) and not value.isprintable():
        yield Violation(path=path, message="must not hold control characters")
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _unprintable(key, path)
            yield from _unprintable(item, _at(path, key))


def _broken_rules(body: object, limits: Limits, *, known: Collection[str]) -> Iterator[Violation]:
    """Check what the types cannot say, wherever the types were met."""
    token = _value_at(body, "spec", "metaapi", "token")
    is_name = "$.spec.metaapi.token" not in known and isinstance(token, str)
    if is_name and token not in limits.tokens:
        yield Violation(
            path="$.spec.metaapi.token", message="is not the name of a configured token"
        )
    metaapi = _value_at(body, "spec", "metaapi")
    is_creation = isinstance(metaapi, Mapping) and metaapi.get("accountId", "") is None
    if is_creation and not limits.can_create:
        yield Violation(
            path="$.spec.metaapi.accountId",
            message="must name a MetaApi account: without [secrets] keys brokerd creates none",
        )
    sync_from = _value_at(body, "spec", "syncFrom")
    if "$.spec.syncFrom" not in known and isinstance(sync_from, str):
        moment = msgspec.convert(sync_from, datetime)
        if not _EARLIEST <= moment <= limits.now:
            yield Violation(
                path="$.spec.syncFrom", message=f"must lie between {_EARLIEST:%Y-%m-%d} and now"
            )


def _value_at(value: object, *names: str) -> object:
    for name in names:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _at(path: str, key: object) -> str:
    return f"{path}.{key}" if str(key).isidentifier() else f"{path}[{str(key)!r}]"


def _spec(body: SpecBody) -> LinkSpec:
    return LinkSpec(
        user_id=UserId(body.user_id),
        desired=Desired(body.desired),
        priority=body.priority,
        metaapi=place_of(body.metaapi.token, body.metaapi.account_id, body.metaapi.region),
        identity=Identity(
            platform=body.identity.platform,
            login=body.identity.login,
            server=body.identity.server,
            currency=body.identity.currency,
        ),
        sync_from=body.sync_from.astimezone(UTC) if body.sync_from else None,
        max_staleness_seconds=body.max_staleness_seconds,
        labels=body.labels,
    )
