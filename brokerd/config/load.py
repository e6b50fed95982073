"""How the configuration is read: a TOML file, the environment over it, all problems at once."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from brokerd.config.environment import overlay
from brokerd.config.reader import Table, read_settings
from brokerd.config.rules import broken_rules
from brokerd.config.secret_source import SecretSource
from brokerd.config.settings import DEFAULT_PATH, Settings
from brokerd.errors import ConfigInvalid


def load(path: Path | None, *, environ: Mapping[str, str]) -> Settings:
    """Read and check the whole configuration; raise `ConfigInvalid` with every problem found.

    Without a path the default one is read if it exists; the environment alone may suffice.
    """
    file = path or DEFAULT_PATH
    raw = _parse(file) if path is not None or file.exists() else {}
    problems = overlay(raw, environ=environ)
    secrets = SecretSource(environ=environ, folder=file.parent)
    settings = read_settings(raw, secrets=secrets, problems=problems)
    if settings is not None:
        problems += broken_rules(settings)
    if settings is None or problems:
        raise ConfigInvalid(problems)
    return settings


def _parse(path: Path) -> Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid([f"{path}: cannot be read ({error.strerror})"]) from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid([f"{path}: is not UTF-8; save it as UTF-8"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid([f"{path}: is not TOML: {error}"]) from error
