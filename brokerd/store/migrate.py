"""Bring the database to the schema this brokerd was built for, or say that it is not there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from brokerd.config.settings import Secret
from brokerd.errors import ConfigInvalid, StoreUnavailable
from brokerd.store.engine import conninfo, unavailability
from brokerd.store.tables import SCHEMA

_LOCK_KEY = 0x62726F6B65726400  # "brokerd": one migration at a time per database
_CONNECT_SECONDS = 5
_TARGET = "head"
# Where a restore puts the schema it replaces, until it has done everything.
_IS_HALF_RESTORED = sa.text("SELECT to_regnamespace('brokerd_replaced') IS NOT NULL")


async def upgrade(url: Secret) -> None:
    """Apply what is missing, whole or not at all; concurrent calls wait for each other.

    Use a direct connection rather than a proxy's. Raises `StoreUnavailable` and `ConfigInvalid`.
    """
    async with _connection(url) as connection:
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_KEY)))
        await connection.run_sync(_require_known)
        await connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
        await connection.run_sync(_upgrade)


async def check(url: Secret) -> None:
    """Raise `ConfigInvalid` unless the schema is exactly ours; `StoreUnavailable` when away."""
    async with _connection(url) as connection:
        if (await connection.execute(_IS_HALF_RESTORED)).scalar_one():
            raise ConfigInvalid(
                ["a restore was interrupted, or is under way: run `brokerd restore` to its end"]
            )
        await connection.run_sync(_require_known)
        if await connection.run_sync(_current) != _head():
            raise ConfigInvalid(["the database schema is not up to date: run `brokerd migrate`"])


def knows(revision: str) -> bool:
    """Say whether this brokerd can bring a schema of that revision to its own."""
    return revision in {script.revision for script in _scripts().walk_revisions()}


@asynccontextmanager
async def _connection(url: Secret) -> AsyncIterator[AsyncConnection]:
    """Open one connection in one transaction."""
    dsn = conninfo(url)

    async def connect() -> psycopg.AsyncConnection:
        return await psycopg.AsyncConnection.connect(
            dsn, prepare_threshold=None, connect_timeout=_CONNECT_SECONDS
        )

    engine = create_async_engine(
        "postgresql+psycopg://",
        async_creator=connect,
        poolclass=NullPool,
        use_native_hstore=False,
    )
    try:
        async with engine.begin() as connection:
            yield connection
    except (sa.exc.DBAPIError, psycopg.Error) as error:
        reason = unavailability(error)
        if reason is None:
            raise
        raise StoreUnavailable(f"Postgres cannot be used: {reason}") from error


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "brokerd.store:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _head() -> str | None:
    return _scripts().get_current_head()


def _current(connection: sa.Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
    return context.get_current_revision()


def _require_known(connection: sa.Connection) -> None:
    """Refuse a schema that a later brokerd made: we cannot know what it means."""
    current = _current(connection)
    if current is not None and not knows(current):
        raise ConfigInvalid(
            [f"the database schema ({current}) is newer than this brokerd: install the newer one"]
        )


def _upgrade(connection: sa.Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, _TARGET)
