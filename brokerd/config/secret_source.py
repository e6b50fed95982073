"""Where secrets come from: a file, an environment variable or a systemd credential, by name.

No message here ever holds a secret, nor any text the operator may have put in place of one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from brokerd.config.environment import EnvironmentText
from brokerd.config.settings import Secret

_FORMS = '{ credential = "…" }, { file = "…" } or { env = "…" }'


class SecretProblem(Exception):
    """Why there is no secret, and what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretSource:
    """Resolves references to secrets; relative files start at `folder`, the config file's."""

    environ: Mapping[str, str]
    folder: Path

    def resolve(self, reference: object) -> Secret:
        """Return the secret that `reference` names; raise `SecretProblem`."""
        value = self._text(reference).strip()
        if not value:
            raise SecretProblem("is empty; write the secret where the reference points")
        if not value.isprintable() or " " in value:
            raise SecretProblem("has blanks or control characters inside; store the bare secret")
        return Secret(value)

    def _text(self, reference: object) -> str:
        if isinstance(reference, EnvironmentText):
            return str(reference)
        if not isinstance(reference, dict):
            raise SecretProblem(f"must not stand in the file; refer to it: {_FORMS}")
        chosen = {k: v for k, v in reference.items() if isinstance(v, EnvironmentText)} or reference
        match [*chosen.items()]:
            case [("file", str(name))]:
                return _read(self.folder / name)
            case [("env", str(name))]:
                if name not in self.environ:
                    raise SecretProblem("names an environment variable that is not set; set it")
                return self.environ[name]
            case [("credential", str(name))]:
                return self._credential(name)
        raise SecretProblem(f"must be exactly one of {_FORMS}")

    def _credential(self, name: str) -> str:
        folder = self.environ.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            raise SecretProblem(
                "is a systemd credential, and CREDENTIALS_DIRECTORY is not set; "
                "run under the unit, or set it to the folder that holds the credentials"
            )
        if "/" in name:
            raise SecretProblem("names a path; a credential has a plain name, as in LoadCredential")
        return _read(Path(folder) / name)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SecretProblem("is in a file that is not UTF-8 text; store the bare secret") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise SecretProblem(f"is in a file that cannot be read ({reason}); check it") from error
