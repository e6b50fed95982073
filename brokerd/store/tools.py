"""PostgreSQL's own programs, found on PATH; they get a URL's secrets by environment alone."""

import asyncio
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import pq
from psycopg.conninfo import make_conninfo

from brokerd.config.settings import Secret
from brokerd.errors import BackupFailed, ConfigInvalid
from brokerd.store.engine import conninfo

_TAIL_LINES = 3
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    """A database as a command line may show it, and what only the environment may hold."""

    public: str
    secrets: Mapping[str, str]


async def run(name: str, *arguments: str, url: Secret) -> None:
    """Run a program on a database to its end; raise `BackupFailed` with the last of its words."""
    address = _address(url)
    await _output(
        name,
        *(*arguments, "--no-password", f"--dbname={address.public}"),
        secrets=address.secrets,
    )


async def list_archive(path: str) -> str:
    """Return the list of what an archive of pg_dump holds, as `pg_restore --use-list` reads it."""
    return await _output("pg_restore", "--list", path, secrets={})


async def require_version(name: str, *, server_version: int) -> None:
    """Raise `BackupFailed` if the program is older than the server (in libpq's six digits)."""
    said = await _output(name, "--version", secrets={})
    found = _VERSION.search(said)
    if found is None:
        raise BackupFailed(f"{name} does not tell its version; put PostgreSQL's own on PATH")
    major = server_version // 10_000
    if int(found[1]) < major:
        raise BackupFailed(
            f"{name} is of PostgreSQL {found[1]} and cannot read a server of {major};"
            f" put {name} {major} or later first on PATH"
        )


async def _output(name: str, *arguments: str, secrets: Mapping[str, str]) -> str:
    program = shutil.which(name)
    if program is None:
        raise BackupFailed(f"{name} is not on PATH; install PostgreSQL's client programs")
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **secrets, "LC_ALL": "C"},
    )
    try:
        output, words = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise BackupFailed(f"{name} failed: {_tail(words, secrets)}")
    return output.decode(errors="replace")


def _tail(words: bytes, secrets: Mapping[str, str]) -> str:
    lines = words.decode(errors="replace").splitlines()
    tail = " | ".join(lines[-_TAIL_LINES:]) or "it said nothing"
    for secret in filter(None, secrets.values()):
        tail = tail.replace(secret, "…")
    return tail


def _address(url: Secret) -> _Address:
    public: dict[str, str] = {}
    secrets: dict[str, str] = {}
    for option in pq.Conninfo.parse(conninfo(url).encode()):
        if option.val is None:
            continue
        keyword, value = option.keyword.decode(), option.val.decode()
        if option.dispchar != b"*" and not keyword.startswith("scram_"):
            public[keyword] = value
        elif option.envvar:
            secrets[option.envvar.decode()] = value
        else:
            raise ConfigInvalid([f"database.url: {keyword} cannot be handed to PostgreSQL's tools"])
    return _Address(public=make_conninfo("", **public), secrets=secrets)
