"""The folder in which one run of the embedded engines lives, and the sweep of dead runs' folders.

Whether a run still lives is told by a lock, not by a pid. The launcher locks the folder itself and
its engines inherit the descriptor, so the kernel keeps the lock until the last of them is gone,
however each of them died. A folder whose lock can be taken belongs to nobody alive.
"""

import asyncio
import fcntl
import os
import pwd
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import structlog

from brokerd.errors import EngineFailed

PREFIX = "brokerd-engines-"
_SOCKET_PATH_LIMIT = 60  # a Unix socket's path ends at 107 bytes; ours append 40 at most
_REMOVE_SECONDS = 5.0
_READ_AND_ENTER = 0o5  # of a mode's bits for others

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineUser:
    """Who the engines run as; `is_switched` when that is not us, because we are root."""

    uid: int
    gid: int
    is_switched: bool


def engine_user() -> EngineUser:
    """Choose `nobody` for root, whom PostgreSQL refuses, and ourselves otherwise."""
    if os.geteuid() != 0:
        return EngineUser(uid=os.geteuid(), gid=os.getegid(), is_switched=False)
    nobody = pwd.getpwnam("nobody")
    return EngineUser(uid=nobody.pw_uid, gid=nobody.pw_gid, is_switched=True)


class EngineFolder:
    """A fresh folder directly under the temporary folder, owned by the engines' user, locked."""

    def __init__(self, *, user: EngineUser) -> None:
        self.user = user
        self.path, self.lock_fd = _create(_parent(user), user)

    def write_private(self, name: str, text: str) -> Path:
        """Write a file that only the engines' user can read, and return its path."""
        path = self.path / name
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            os.fchown(fd, self.user.uid, self.user.gid)
            file.write(text)
        return path

    def adopt(self, source: Path) -> Path:
        """Return where the engines' user can run `source`: where it lies, or a copy in here.

        It is copied when we are root and that user may not read all of it, or not enter a folder
        above it: modes out there are not ours to change.
        """
        if not self.user.is_switched or _is_open(source, self.user):
            return source
        target = self.path / source.name
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("include", "__pycache__"))
        for directory, _, files in os.walk(target):
            for entry in (directory, *(os.path.join(directory, file) for file in files)):  # noqa: PTH118  # walk speaks str
                os.chown(entry, self.user.uid, self.user.gid, follow_symlinks=False)
        return target

    async def remove(self) -> None:
        """Let go of the lock and remove the folder once no engine holds it any more.

        What cannot be removed in time is left to the next run's sweep.
        """
        os.close(self.lock_fd)
        try:
            async with asyncio.timeout(_REMOVE_SECONDS):
                while not _remove_if_dead(self.path, user=self.user):  # noqa: ASYNC110  # a lock
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log.warning("engines.folder_left", path=str(self.path))


def sweep(*, user: EngineUser) -> list[Path]:
    """Remove the folders of runs that were killed, and return them."""
    return [
        path
        for path in sorted(_parent(user).glob(f"{PREFIX}*"))
        if _remove_if_dead(path, user=user)
    ]


def _remove_if_dead(path: Path, *, user: EngineUser) -> bool:
    """Remove `path` if it is ours and nobody holds its lock; say whether it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:  # another user's, or no folder at all: neither is ours to touch
        return False
    try:
        if os.fstat(fd).st_uid not in {user.uid, os.geteuid()}:
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return not path.exists()


def _create(parent: Path, user: EngineUser) -> tuple[Path, int]:
    """Make and lock a folder, again if another run's sweep took it before it was locked."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(path)):  # noqa: PTH116  # beside fstat
                os.fchown(fd, user.uid, user.gid)
                return path, fd
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)


def _parent(user: EngineUser) -> Path:
    """Find a temporary folder that the engines' user can enter and whose path is short enough."""
    for candidate in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108  # made by mkdtemp
        path = candidate.resolve()
        if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT and _is_reachable(path, user):
            return path
    raise EngineFailed("no temporary folder that the engines' user can enter; set TMPDIR to one")


def _is_reachable(path: Path, user: EngineUser) -> bool:
    if not user.is_switched:
        return os.access(path, os.W_OK | os.X_OK)
    return all(part.stat().st_mode & stat.S_IXOTH for part in (path, *path.parents))


def _is_open(tree: Path, user: EngineUser) -> bool:
    """Say whether others may read, enter and run what the owner of a tree may."""
    modes = (entry.stat().st_mode for entry in (tree, *tree.rglob("*")))
    return _is_reachable(tree.parent, user) and all(
        mode & _READ_AND_ENTER == mode >> 6 & _READ_AND_ENTER for mode in modes
    )
