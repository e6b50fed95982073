"""One PostgreSQL and one Valkey per test process; a fresh migrated database per test."""

import asyncio
import gc
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from random import Random

import psycopg
import pytest
import redis
import structlog
from fast_folder import fast_folder
from hypothesis import HealthCheck, settings

from brokerd.config.settings import Secret
from brokerd.demo.engines import Engines, engines
from brokerd.demo.folder import EngineFolder, engine_user
from brokerd.demo.valkey import Valkey
from brokerd.store.migrate import upgrade

_TEMPLATE = "template_brokerd"
_numbers = count(1)
_NEW_OBJECTS = 20_000
"""After how many Python looks for garbage; by itself after 700."""


# A shared machine stalls at any moment: how long one example took says nothing about our code.
settings.register_profile("brokerd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("brokerd")


def pytest_configure() -> None:
    """Prepare this process for its tests.

    There is no current loop: looptime asks for one before every synchronous test, and asyncio
    would make one for the asking, which nobody closes. Tracebacks are logged plainly: to draw one
    with rich takes half a second, and tests log hundreds. No HTTP client and no daemon reads the
    world's certificates, 20 ms each time: here are none.
    """
    os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)
    os.environ.pop("SSL_CERT_FILE", None)
    asyncio.set_event_loop(None)
    structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import the tests without garbage collections, and leave them out of all later ones.

    There is no garbage in them, and looking for it is a third of each worker's start. Tests leave
    little, so that it is looked for seldom.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(_NEW_OBJECTS)
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the tests of whole nodes among the others, which compute while those wait.

    Those are mixed at random, the same in every worker; none that may take long is last.
    """
    Random(0).shuffle(items)
    nodes = [item for item in items if _is_of_nodes(item)]
    others = [item for item in items if not _is_of_nodes(item)]
    between = len(others) * 3 // 4 // len(nodes) if nodes else 0
    items.clear()
    for node in nodes:
        items += [node, *others[:between]]
        del others[:between]
    items += others


@pytest.fixture(scope="session", autouse=True)
def engines_start_in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let every engine that a test starts be a fast one; what `tmp_path` gives stays on disk."""
    tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(fast_folder()))
        yield


@pytest.fixture(scope="session")
def shared_engines() -> Iterator[Engines]:
    """Run both servers for this test process; a test that stops servers starts its own.

    A loop of its own drives them: no test's loop is running while a synchronous fixture is.
    """
    with closing(asyncio.new_event_loop()) as loop:
        manager = engines(is_durable=False)
        running = loop.run_until_complete(manager.__aenter__())
        try:
            with _admin(running) as connection:
                connection.execute(f"CREATE DATABASE {_TEMPLATE}")
            loop.run_until_complete(upgrade(Secret(running.postgres.url(_TEMPLATE))))
            yield running
        finally:
            loop.run_until_complete(manager.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def database_admin(shared_engines: Engines) -> Iterator[psycopg.Connection]:
    """Give a connection that makes and drops databases."""
    with _admin(shared_engines) as connection:
        yield connection


@pytest.fixture
def database_url(shared_engines: Engines, database_admin: psycopg.Connection) -> Iterator[str]:
    """Give the libpq URI of a fresh, migrated database, and drop it afterwards."""
    name = f"test_{next(_numbers)}"
    # without fsync, copying files is half the work of logging each page
    database_admin.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY file_copy")
    yield shared_engines.postgres.url(name)
    database_admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def redis_url(shared_engines: Engines) -> str:
    """Give the URL of an empty Valkey."""
    with closing(redis.Redis.from_url(shared_engines.redis_url)) as client:
        client.flushall()
    return shared_engines.redis_url


@pytest.fixture
async def valkey() -> AsyncIterator[Valkey]:
    """Run a Valkey that the test may kill."""
    folder = EngineFolder(user=engine_user())
    server = Valkey(folder=folder)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
        await folder.remove()


def _is_of_nodes(item: pytest.Item) -> bool:
    return "e2e" in item.path.parts


def _admin(running: Engines) -> psycopg.Connection:
    return psycopg.connect(running.postgres.url("postgres"), autocommit=True)
