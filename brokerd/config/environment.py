"""How environment variables name settings: BROKERD_POOL__MAX_LINKS is pool.max_links.

Two underscores go one level down. A variable without them is ours only if it names a setting of
the top level, because container platforms make up names such as BROKERD_PORT on their own.
"""

from collections.abc import Mapping
from dataclasses import fields

from brokerd.config.settings import Settings

_PREFIX = "BROKERD_"
_LEVEL = "__"
_TOP_LEVEL = frozenset(field.name for field in fields(Settings))


class EnvironmentText(str):
    """A value from the environment: always text, whatever type its setting has."""

    __slots__ = ()


def overlay(raw: dict[str, object], *, environ: Mapping[str, str]) -> list[str]:
    """Write the environment's settings over the file's, in place; return what does not fit."""
    problems = []
    for variable in sorted(environ):
        path = variable.removeprefix(_PREFIX).lower().split(_LEVEL)
        if not variable.startswith(_PREFIX) or (len(path) == 1 and path[0] not in _TOP_LEVEL):
            continue
        table = _table_at(raw, path[:-1])
        if table is None:
            problems.append(f"{variable}: {'.'.join(path[:-1])} is not a table; check its name")
        else:
            table[path[-1]] = EnvironmentText(environ[variable])
    return problems


def _table_at(raw: dict[str, object], path: list[str]) -> dict[str, object] | None:
    """Return the table at `path`, made where it is missing; None where a value is in its way."""
    table = raw
    for name in path:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            return None
        table = inner
    return table
