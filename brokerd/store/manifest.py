"""What stands beside a backup: what is in it, and whether the file is still the one written."""

import hashlib
from datetime import datetime
from pathlib import Path

import msgspec

from brokerd.errors import BackupFailed

COUNT = """
SELECT (SELECT count(*) FROM brokerd.accounts), (SELECT count(*) FROM brokerd.deals),
    (SELECT count(*) FROM brokerd.deal_revisions), (SELECT count(*) FROM brokerd.windows),
    (SELECT count(*) FROM brokerd.events)
"""
"""The numbers of `Counts`, in its order."""


class Counts(msgspec.Struct, frozen=True):
    """Rows in the tables that matter."""

    accounts: int
    deals: int
    deal_revisions: int
    windows: int
    events: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest, as JSON."""

    taken_at: datetime  # by the database's clock
    revision: str  # of the schema
    server_version: int
    size_bytes: int
    sha256: str
    counts: Counts


def manifest_path(dump: Path) -> Path:
    """Name the manifest of a dump."""
    return dump.with_suffix(".json")


def digest(dump: Path) -> str:
    """Return the SHA-256 of a dump."""
    with dump.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode(manifest: Manifest) -> bytes:
    """Return a manifest as its file holds it."""
    return msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"


def read_checked(dump: Path) -> Manifest:
    """Read a dump's manifest; raise `BackupFailed` unless the dump is what it describes."""
    try:
        manifest = msgspec.json.decode(manifest_path(dump).read_bytes(), type=Manifest)
        size_bytes, sha256 = dump.stat().st_size, digest(dump)
    except OSError as error:
        raise BackupFailed(f"{error.filename}: cannot be read ({error.strerror})") from error
    except msgspec.DecodeError as error:
        raise BackupFailed(f"{manifest_path(dump)}: is no manifest of a backup") from error
    if (size_bytes, sha256) != (manifest.size_bytes, manifest.sha256):
        raise BackupFailed(f"{dump}: is not the file that was written; take another backup")
    return manifest
