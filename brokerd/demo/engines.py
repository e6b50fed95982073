"""PostgreSQL and Valkey for the demo and the tests: started from nothing, gone without a trace."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import structlog
from psycopg import sql

from brokerd.demo.folder import EngineFolder, engine_user, sweep
from brokerd.demo.postgres import Postgres
from brokerd.demo.valkey import Valkey

_DATABASE = "brokerd"

log = structlog.get_logger(__name__)


class Engines:
    """Both servers, running; each can be stopped, killed and started again by itself."""

    def __init__(self, *, postgres: Postgres, valkey: Valkey) -> None:
        self.postgres = postgres
        self.valkey = valkey

    @property
    def postgres_url(self) -> str:
        """Return the libpq URI of the empty database made for brokerd; it holds a password."""
        return self.postgres.url(_DATABASE)

    @property
    def redis_url(self) -> str:
        """Return the URL of Valkey."""
        return self.valkey.url


@asynccontextmanager
async def engines(*, is_durable: bool) -> AsyncIterator[Engines]:
    """Run both servers in a fresh folder, and take away all of it at the end.

    Sweeps first what killed runs left. Must be entered on the main thread (its death ends the
    servers). Not durable means that PostgreSQL never waits for the disk: for tests.
    """
    user = engine_user()
    for path in sweep(user=user):
        log.info("engines.folder_swept", path=str(path))
    folder = EngineFolder(user=user)
    try:
        postgres = Postgres(folder=folder, is_durable=is_durable)
        valkey = Valkey(folder=folder)
        try:
            await postgres.create()
            await postgres.start()
            await valkey.start()
            await _create_database(postgres)
            yield Engines(postgres=postgres, valkey=valkey)
        finally:
            try:
                await valkey.stop()
            finally:
                await postgres.stop()
    finally:
        await folder.remove()


async def _create_database(postgres: Postgres) -> None:
    connection = await psycopg.AsyncConnection.connect(postgres.url("postgres"), autocommit=True)
    async with connection:
        await connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE)))
