"""A backup brought back: into its place, or into a database of its own to see whether it would be.

What a restored database says of nodes and leases was true once. So all are freed, and the feed goes
on in a new generation: transaction ids and events may count again from below.
"""

import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from prometheus_client import CollectorRegistry
from psycopg import sql
from psycopg.conninfo import make_conninfo

from brokerd.config.settings import Secret, Settings
from brokerd.errors import BackupFailed
from brokerd.ledger.generation import raise_generation
from brokerd.ledger.recount import FalseReceipt, false_receipts
from brokerd.store import tools
from brokerd.store.backup import connected, counts
from brokerd.store.engine import conninfo, open_database
from brokerd.store.manifest import Manifest, read_checked
from brokerd.store.migrate import knows, upgrade
from brokerd.telemetry import Metrics

# The schema is made by us. Policies name roles that this server need not have: `migrate
# --reader-role` makes them again, and until then row-level security shows such a role nothing.
_LEFT_OUT = re.compile(r"\d+; \d+ \d+ (SCHEMA|POLICY) ")
_ALIVE = """
SELECT string_agg(DISTINCT name, ', ') FROM brokerd.nodes
WHERE closed_at IS NULL AND heartbeat_at > clock_timestamp() - make_interval(secs => %s)
"""
_PLACE = """
SELECT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('brokerd')),
    to_regnamespace('brokerd_replaced') IS NOT NULL, to_regclass('brokerd.nodes') IS NOT NULL
"""
_CLEAR = (
    "DROP SCHEMA IF EXISTS brokerd CASCADE",
    "ALTER SCHEMA brokerd_replaced RENAME TO brokerd",
)
_FREE = """
UPDATE brokerd.leases SET owner = NULL, not_before = NULL, queued_at = clock_timestamp()
WHERE owner IS NOT NULL
"""
_FRESH_START = (
    "UPDATE brokerd.nodes SET closed_at = clock_timestamp() WHERE closed_at IS NULL",
    _FREE,
    "UPDATE brokerd.links SET proof = 'unknown', proof_detail = 'restored from a backup'",
)
_LEFTOVERS = """
SELECT datname FROM pg_database WHERE datname ~ '^brokerd_check_[0-9a-f]{8}$'
    AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = pg_database.datname)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What came back, and which of its receipts do not hold."""

    manifest: Manifest
    false_receipts: Sequence[FalseReceipt]


async def restore(settings: Settings, *, dump: Path, is_replacing: bool) -> Restored:
    """Bring a backup back to where the configuration points; with `is_replacing` over a ledger.

    Whatever was there stays until the backup is in its place, and comes back if that fails.
    Raises `BackupFailed`, `ConfigInvalid` and `StoreUnavailable`.
    """
    manifest = _readable(dump)
    url = settings.database.url
    async with connected(url, is_autocommit=True) as connection:
        await tools.require_version("pg_restore", server_version=manifest.server_version)
        await _require_free(connection, settings, is_replacing=is_replacing)
        async with _replaced(connection):
            await _bring_back(connection, url, dump, manifest)
            await upgrade(url)
            await _start_afresh(connection, settings)
        return Restored(manifest=manifest, false_receipts=await false_receipts(connection))


async def verify_backup(settings: Settings, *, dump: Path) -> Restored:
    """Restore a backup into a new database beside ours, recount it, and drop that database.

    The role needs CREATEDB. Raises `BackupFailed`, `ConfigInvalid` and `StoreUnavailable`.
    """
    manifest = _readable(dump)
    await tools.require_version("pg_restore", server_version=manifest.server_version)
    async with (
        _scratch(settings.database.url) as url,
        connected(url, is_autocommit=True) as connection,
    ):
        await _bring_back(connection, url, dump, manifest)
        await upgrade(url)
        return Restored(manifest=manifest, false_receipts=await false_receipts(connection))


def _readable(dump: Path) -> Manifest:
    manifest = read_checked(dump)
    if not knows(manifest.revision):
        raise BackupFailed(
            f"{dump}: is of a newer schema ({manifest.revision}); install the newer brokerd"
        )
    return manifest


async def _require_free(
    connection: psycopg.AsyncConnection, settings: Settings, *, is_replacing: bool
) -> None:
    """Refuse to touch what lives, what is not to be replaced, and what an earlier try left."""
    ((is_filled, is_left, has_nodes),) = await (await connection.execute(_PLACE)).fetchall()
    if has_nodes:
        found = await connection.execute(_ALIVE, [settings.pool.lease_seconds])
        ((names,),) = await found.fetchall()
        if names is not None:
            raise BackupFailed(f"nodes are running: stop {names}, then restore")
    if is_left:
        raise BackupFailed(
            "schema brokerd_replaced is what an interrupted restore put aside: drop the one of the"
            " two that you do not want, name the other brokerd, then restore"
        )
    if is_filled and not is_replacing:
        raise BackupFailed("the database holds a ledger; --replace restores over it")


@asynccontextmanager
async def _replaced(connection: psycopg.AsyncConnection) -> AsyncIterator[None]:
    """Put the old schema aside; drop it at the end, or bring it back if the block fails."""
    async with connection.transaction():
        await connection.execute("CREATE SCHEMA IF NOT EXISTS brokerd")
        await connection.execute("ALTER SCHEMA brokerd RENAME TO brokerd_replaced")
    try:
        yield
    except BaseException:
        async with connection.transaction():
            for statement in _CLEAR:
                await connection.execute(statement)
        raise
    await connection.execute("DROP SCHEMA brokerd_replaced CASCADE")


async def _bring_back(
    connection: psycopg.AsyncConnection, url: Secret, dump: Path, manifest: Manifest
) -> None:
    """Fill schema `brokerd`, which is not there yet, from a dump, and count what came."""
    listed = (await tools.list_archive(str(dump))).splitlines()
    await connection.execute("CREATE SCHEMA brokerd")
    with tempfile.NamedTemporaryFile("w", suffix=".list") as wanted:
        wanted.write("\n".join(line for line in listed if not _LEFT_OUT.match(line)))
        wanted.flush()
        await tools.run(
            "pg_restore",
            *("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"),
            *(f"--use-list={wanted.name}", str(dump)),
            url=url,
        )
    found = await counts(connection)
    if found != manifest.counts:
        raise BackupFailed(f"the backup says {manifest.counts}, and {found} came of it")


async def _start_afresh(connection: psycopg.AsyncConnection, settings: Settings) -> None:
    """Free what nodes of the past held, and let nothing they count come twice."""
    async with connection.transaction():
        for statement in _FRESH_START:
            await connection.execute(statement)
    metrics = Metrics(CollectorRegistry())
    async with open_database(settings.database, metrics=metrics, max_connections=1) as database:
        await raise_generation(database)


@asynccontextmanager
async def _scratch(url: Secret) -> AsyncIterator[Secret]:
    """Make an empty database on the same server and drop it at the end; sweep what kills left."""
    name = f"brokerd_check_{secrets.token_hex(4)}"
    async with connected(url, is_autocommit=True) as connection:
        for (left,) in await (await connection.execute(_LEFTOVERS)).fetchall():
            await connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(left)))
        created = sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name))
        try:
            await connection.execute(created)
        except psycopg.errors.InsufficientPrivilege as error:
            raise BackupFailed(
                "the role of database.url may not create the database to restore into:"
                " ALTER ROLE … CREATEDB"
            ) from error
        try:
            yield Secret(make_conninfo(conninfo(url), dbname=name))
        finally:
            dropped = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            await connection.execute(dropped)
