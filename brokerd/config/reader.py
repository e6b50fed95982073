"""How raw tables become `Settings`: every key known, every type right, every problem collected.

Texts are never repeated in a problem, numbers are: a secret may stand in any wrong place.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import TypeAlias, TypeGuard, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from brokerd.config.environment import EnvironmentText
from brokerd.config.secret_source import SecretProblem, SecretSource
from brokerd.config.settings import Secret, Settings

Table: TypeAlias = dict[str, object]

T = TypeVar("T")


def read_settings(raw: Table, *, secrets: SecretSource, problems: list[str]) -> Settings | None:
    """Build the settings, or add to `problems` every reason why not and return None."""
    return _Reader(secrets=secrets, problems=problems).section(Settings, raw, key="")


class _Reader:
    """One walk over the tables, guided by the settings' own annotations."""

    def __init__(self, *, secrets: SecretSource, problems: list[str]) -> None:
        self._secrets = secrets
        self._problems = problems

    def section(self, make: type[T], raw: object, *, key: str) -> T | None:
        """Read one table into the dataclass `make`."""
        if not isinstance(raw, dict):
            self._problems.append(f"{key}: must be a table; write it as [{key}]")
            return None
        known_before = len(self._problems)
        hints = get_type_hints(make)
        self._refuse_unknown(raw, known=hints, key=key)
        values = {}
        for field in dataclasses.fields(make):  # type: ignore[arg-type]  # T is always a dataclass
            name = f"{key}.{field.name}" if key else field.name
            default = _default(field)
            if field.name in raw:
                values[field.name] = self._value(
                    hints[field.name], raw[field.name], key=name, default=default
                )
            elif default is dataclasses.MISSING:
                values[field.name] = self._absent(hints[field.name], key=name)
        return None if len(self._problems) > known_before else make(**values)

    def _absent(self, hint: object, *, key: str) -> object:
        """Report a required key, or each required key of a required table."""
        if _is_section(hint):
            return self.section(hint, {}, key=key)
        self._problems.append(f"{key}: is missing and has no default; set it")
        return None

    def _value(self, hint: object, raw: object, *, key: str, default: object) -> object:
        if _is_section(hint):
            return self.section(hint, raw, key=key)
        if Secret in {hint, *get_args(hint)} and get_origin(hint) is not Mapping:
            return self._secret(raw, key=key)
        if get_origin(hint) is Mapping:
            return self._mapping(hint, raw, key=key, default=default)
        return self._leaf(hint, raw, key=key, default=default)

    def _mapping(self, hint: object, raw: object, *, key: str, default: object) -> object:
        """Read a table of free names; what it leaves out keeps its default."""
        if not isinstance(raw, dict):
            self._problems.append(f"{key}: must be a table; write it as [{key}]")
            return None
        name_type, value_type = get_args(hint)
        values = dict(default) if isinstance(default, Mapping) else {}
        for name, item in raw.items():
            inner = f"{key}.{name}"
            known = self._leaf(name_type, name, key=inner, default=dataclasses.MISSING)
            values[known] = self._value(value_type, item, key=inner, default=values.get(known))
        return values

    def _secret(self, raw: object, *, key: str) -> Secret | None:
        try:
            return self._secrets.resolve(raw)
        except SecretProblem as problem:
            self._problems.append(f"{key}: {problem}")
            return None

    def _leaf(self, hint: object, raw: object, *, key: str, default: object) -> object:
        is_text = isinstance(raw, EnvironmentText)
        try:
            return msgspec.convert(str(raw) if is_text else raw, hint, strict=not is_text)
        except msgspec.ValidationError as error:
            reason = str(error).replace("`", "").lower()
            hope = "" if default is dataclasses.MISSING else f"; the default is {default}"
            self._problems.append(f"{key}: {reason}{hope}")
            return None

    def _refuse_unknown(self, raw: Iterable[str], *, known: Iterable[str], key: str) -> None:
        names = sorted(known)
        for unknown in sorted(set(raw) - set(names)):
            name = f"{key}.{unknown}" if key else unknown
            close = difflib.get_close_matches(unknown, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(names)}"
            self._problems.append(f"{name}: is not a setting; {hint}")


def _is_section(hint: object) -> TypeGuard[type[object]]:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint) and hint is not Secret


def _default(field: "dataclasses.Field[object]") -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
