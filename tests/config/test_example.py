"""The example documents every setting, at its true default, and is itself a valid configuration."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest

from brokerd.config.load import load
from brokerd.config.settings import Secret, Settings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config" / "brokerd.example.toml"
UNIT = ROOT / "systemd" / "brokerd.service"
_SETTING = re.compile(r"^#(?=[a-z_]+ = |\[)", re.MULTILINE)
_EXAMPLES = {"health.markets"}
"""Tables of free names: empty by default, and shown with an example."""
_WITHOUT_DEFAULT = {
    "node_name",
    "metaapi.tokens",
    "metaapi.provisioning_url",
    "metaapi.client_url",
    "metaapi.stream_url",
    "database.url",
    "database.read_url",
    "api.key",
    "redis.url",
}


@pytest.fixture
def credentials(tmp_path: Path) -> dict[str, str]:
    """Make the environment of a unit that loaded the example's credentials."""
    secrets = {
        "metaapi-main": "token-of-the-test",
        "database-url": "postgresql://brokerd:hunter2@localhost/brokerd",
        "database-read-url": "postgresql://brokerd:hunter2@replica/brokerd",
        "api-key": "0123456789abcdef",
        "redis-url": "redis://localhost",
    }
    for name, secret in secrets.items():
        (tmp_path / name).write_text(f"{secret}\n")
    return {"CREDENTIALS_DIRECTORY": str(tmp_path)}


def _uncommented() -> str:
    return _SETTING.sub("", EXAMPLE.read_text())


def _defaults(make: type, prefix: str = "") -> dict[str, object]:
    """Return every setting's default by its dotted name, MISSING or None where there is none."""
    found: dict[str, object] = {}
    hints = get_type_hints(make)
    for field in dataclasses.fields(make):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(hint) and hint is not Secret:
            found |= _defaults(hint, f"{key}.")
        elif field.default_factory is not dataclasses.MISSING:
            found[key] = field.default_factory()
        else:
            found[key] = field.default
    return found


def _documented(tables: dict[str, object], known: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in tables.items():
        if isinstance(value, dict) and name not in known and "credential" not in value:
            inner = {key.removeprefix(f"{name}."): item for key, item in known.items()}
            found |= {f"{name}.{key}": item for key, item in _documented(value, inner).items()}
        else:
            found[name] = value
    return found


def test_the_example_is_valid(credentials: dict[str, str]) -> None:
    """Copied as it is, the example loads and leaves every optional setting at its default."""
    settings = load(EXAMPLE, environ=credentials)
    assert settings.node_name == "node-1"
    assert settings.metaapi.tokens["main"].reveal() == "token-of-the-test"
    bare = Settings(
        node_name=settings.node_name,
        metaapi=settings.metaapi,
        database=settings.database,
        api=settings.api,
    )
    assert settings == bare


def test_every_setting_is_documented_at_its_default() -> None:
    """Uncommenting everything gives exactly the dataclasses' fields with their defaults."""
    known = _defaults(Settings)
    documented = _documented(tomllib.loads(_uncommented()), known)
    assert set(documented) == set(known)
    shown_otherwise = _WITHOUT_DEFAULT | _EXAMPLES
    assert {key: value for key, value in documented.items() if key not in shown_otherwise} == {
        key: value for key, value in known.items() if key not in shown_otherwise
    }
    assert {key for key in known if known[key] in (None, dataclasses.MISSING)} == _WITHOUT_DEFAULT


def test_the_example_uncommented_is_valid(tmp_path: Path, credentials: dict[str, str]) -> None:
    """Every commented setting can be switched on as it stands."""
    path = tmp_path / "brokerd.toml"
    path.write_text(_uncommented())
    settings = load(path, environ=credentials)
    assert settings.redis.url is not None
    assert settings.metaapi.stream_url == "http://127.0.0.1:8080"
    assert settings.health.markets["Broker-*"].time_zone == "Europe/Athens"


def test_every_setting_has_a_reason() -> None:
    """A comment stands above each setting or the group it begins."""
    lines = EXAMPLE.read_text().splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        if _SETTING.match(line) or re.match(r"[a-z_]+ = ", line):
            assert above.startswith(("# ", "#", "[metaapi.tokens]", "[queue.patience_seconds]"))
