"""A backup: one snapshot of schema `brokerd` in one file, beside a manifest of what is in it.

A dump bears its final name only when it is whole, on the disk, and its manifest beside it. What a
killed backup left is named `.partial`, and the next one takes it away.
"""

import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from brokerd.config.settings import Secret
from brokerd.errors import BackupFailed, StoreUnavailable
from brokerd.store import tools
from brokerd.store.engine import conninfo, unavailability
from brokerd.store.manifest import COUNT, Counts, Manifest, digest, encode, manifest_path
from brokerd.store.migrate import check

_CONNECT_SECONDS = 5
_LOCK_WAIT_MS = 60_000
_PARTIAL = ".partial"
_DUMPS = "brokerd-*Z.dump"
_SNAPSHOT = """
SELECT pg_export_snapshot(), clock_timestamp(), (SELECT version_num FROM brokerd.alembic_version)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup that was made, and the older ones it replaced."""

    path: Path
    manifest: Manifest
    dropped: Sequence[Path]


async def back_up(url: Secret, *, folder: Path, keep: int | None) -> Backup:
    """Write a backup into `folder`, then drop all but the `keep` newest ones there.

    Raises `BackupFailed`, `ConfigInvalid` (another schema than ours) and `StoreUnavailable`.
    """
    await check(url)
    try:
        with _turn(folder):
            _sweep(folder)
            path, manifest = await _write(url, folder)
            dropped = _drop_old(folder, keep) if keep is not None else []
    except OSError as error:
        raise BackupFailed(f"{folder}: cannot be written ({error.strerror})") from error
    return Backup(path=path, manifest=manifest, dropped=dropped)


def newest(folder: Path) -> Path:
    """Return the newest dump of a folder; raise `BackupFailed` if there is none."""
    found = max(folder.glob(_DUMPS), default=None)
    if found is None:
        raise BackupFailed(f"{folder}: holds no backup")
    return found


@asynccontextmanager
async def connected(
    url: Secret, *, is_autocommit: bool = False
) -> AsyncIterator[psycopg.AsyncConnection]:
    """Open a connection without any limit of time.

    Raises `StoreUnavailable` when it breaks and `BackupFailed` when the role may not.
    """
    try:
        async with await psycopg.AsyncConnection.connect(
            conninfo(url),
            autocommit=is_autocommit,
            prepare_threshold=None,
            connect_timeout=_CONNECT_SECONDS,
        ) as connection:
            yield connection
    except psycopg.errors.InsufficientPrivilege as error:
        reason = error.diag.message_primary
        raise BackupFailed(f"the role of database.url may not do this: {reason}") from error
    except psycopg.Error as error:
        reason = unavailability(error)
        if reason is None:
            raise
        raise StoreUnavailable(f"Postgres cannot be used: {reason}") from error


async def counts(connection: psycopg.AsyncConnection) -> Counts:
    """Count the rows that matter."""
    (row,) = await (await connection.execute(COUNT)).fetchall()
    return Counts(*row)


async def _write(url: Secret, folder: Path) -> tuple[Path, Manifest]:
    async with connected(url) as connection:
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await connection.set_read_only(True)
        server_version = connection.info.server_version
        await tools.require_version("pg_dump", server_version=server_version)
        ((snapshot, taken_at, revision),) = await (await connection.execute(_SNAPSHOT)).fetchall()
        path = folder / _name(taken_at)
        partial = _partial(path)
        with _whole_or_nothing(partial):
            await _dump(url, partial, snapshot=snapshot)
            manifest = Manifest(
                taken_at=taken_at,
                revision=revision,
                server_version=server_version,
                size_bytes=partial.stat().st_size,
                sha256=digest(partial),
                counts=await counts(connection),
            )
    _publish(path, manifest)
    return path, manifest


async def _dump(url: Secret, path: Path, *, snapshot: str) -> None:
    await tools.run(
        "pg_dump",
        *("--format=custom", "--schema=brokerd", "--no-owner", "--no-privileges"),
        *(f"--snapshot={snapshot}", f"--lock-wait-timeout={_LOCK_WAIT_MS}", f"--file={path}"),
        url=url,
    )


def _publish(path: Path, manifest: Manifest) -> None:
    """Give both files their names, the dump last, when every byte of them is on the disk."""
    beside = manifest_path(path)
    with _whole_or_nothing(_partial(beside)):
        _partial(beside).write_bytes(encode(manifest))
        for file in (_partial(path), _partial(beside), path.parent):
            _sync(file)
        _partial(beside).rename(beside)
        _partial(path).rename(path)
    _sync(path.parent)


@contextmanager
def _whole_or_nothing(partial: Path) -> Iterator[None]:
    """Make a file that only its owner reads, for others to fill; take it away if they fail."""
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Keep other backups out of the folder; the lock goes with the process."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackupFailed(f"{folder}: another backup is being written there") from error
        yield
    finally:
        os.close(held)


def _sweep(folder: Path) -> None:
    for left in folder.glob(f"brokerd-*{_PARTIAL}"):
        left.unlink()


def _drop_old(folder: Path, keep: int) -> Sequence[Path]:
    """Drop the oldest; a dump goes before its manifest, so that none stands without."""
    old = sorted(folder.glob(_DUMPS), reverse=True)[keep:]
    for path in old:
        path.unlink()
        manifest_path(path).unlink(missing_ok=True)
    return old


def _name(taken_at: datetime) -> str:
    """Name a dump so that names sort by age."""
    return f"brokerd-{taken_at.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}.dump"


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}{_PARTIAL}")


def _sync(path: Path) -> None:
    held = os.open(path, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)
