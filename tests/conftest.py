"""One PostgreSQL and one Valkey per test process; a fresh migrated database per test."""

import asyncio
import gc
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from itertools import count, groupby
from pathlib import Path
from random import Random

import psycopg
import pytest
import redis
import structlog
from fast_folder import fast_folder
from hypothesis import HealthCheck, settings
from psycopg import sql

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


def pytest_configure(config: pytest.Config) -> None:
    """Prepare this process for its tests.

    There is no current loop: looptime asks for one before every synchronous test, and asyncio
    would make one for the asking, which nobody closes. Tracebacks are logged plainly: to draw one
    with rich takes half a second, and tests log hundreds. No HTTP client and no daemon reads the
    world's certificates, 20 ms each time: here are none. Coverage follows xdist's workers, neither
    the process that hands out the tests nor the programs that tests start.
    """
    os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)
    os.environ.pop("SSL_CERT_FILE", None)
    asyncio.set_event_loop(None)
    structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    elif config.getoption("numprocesses", None):
        sys.settrace(None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import the tests without garbage collections, and leave them out of all later ones.

    There is no garbage in them, and looking for it is a third of each worker's start. Tests leave
    little, so that it is looked for seldom. What importing runs is the same in each worker: one
    measures it.
    """
    is_first = os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0"
    gc.disable()
    try:
        with _coverage(rests=not is_first, has_greenlets=False):
            return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(_NEW_OBJECTS)
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say during which tests coverage rests, and put all in the order that takes least time."""
    for item in _with_nothing_new(items):
        item.add_marker("repeats")
    _spread(items)


def _with_nothing_new(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield the tests of whole nodes, and all arguments of a test but its first and last.

    They run what others run already. The first and last differ in kind: memory and PostgreSQL.
    """
    for _, group in groupby(items, key=lambda item: item.nodeid.partition("[")[0]):
        first, *others = group
        if {"e2e", "scenarios"}.intersection(first.path.parts):
            yield first
            yield from others
        else:
            yield from others[:-1]


def _spread(items: list[pytest.Item]) -> None:
    """Spread the tests that wait for processes among those that compute: no core idles.

    Otherwise they are mixed at random, the same in every worker; none that may take long is last.
    """
    Random(0).shuffle(items)
    waiting = [item for item in items if _is_e2e(item)]
    computing = [item for item in items if not _is_e2e(item)]
    between = len(computing) * 7 // 8 // len(waiting) if waiting else 0
    items.clear()
    for item in waiting:
        items += [item, *computing[:between]]
        del computing[:between]
    items += computing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let coverage rest during a test that repeats what itself or others run.

    What such a test alone runs counts as not run.
    """
    rests = item.get_closest_marker("repeats") is not None
    with _coverage(rests=rests, has_greenlets=_has_greenlets(item)):
        return (yield)


@contextmanager
def _coverage(*, rests: bool, has_greenlets: bool) -> Iterator[None]:
    """Measure coverage as cheaply as may be.

    Telling greenlets apart makes each call of a function thrice as slow, in libraries too.
    """
    tracer = sys.gettrace()
    if tracer is None:
        yield
        return
    tell_greenlets = tracer.concur_id_func
    if not has_greenlets:
        tracer.concur_id_func = None
    if rests:
        sys.settrace(None)
    try:
        yield
    finally:
        tracer.concur_id_func = tell_greenlets
        sys.settrace(tracer)


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
            _admin(running, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_TEMPLATE)))
            loop.run_until_complete(upgrade(Secret(running.postgres.url(_TEMPLATE))))
            yield running
        finally:
            loop.run_until_complete(manager.__aexit__(None, None, None))


@pytest.fixture
def database_url(shared_engines: Engines) -> Iterator[str]:
    """Give the libpq URI of a fresh, migrated database, and drop it afterwards."""
    name = f"test_{next(_numbers)}"
    _admin(
        shared_engines,
        # without fsync, copying files is half the work of logging each page
        sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
            sql.Identifier(name), sql.Identifier(_TEMPLATE)
        ),
    )
    yield shared_engines.postgres.url(name)
    _admin(shared_engines, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


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


def _is_e2e(item: pytest.Item) -> bool:
    return "e2e" in item.path.parts


def _has_greenlets(item: pytest.Item) -> bool:
    """Say whether a test may use SQLAlchemy, the one library of ours with greenlets.

    It opens a database by itself, or a fixture does, perhaps one that asks for it when it runs.
    """
    return any(hasattr(item.module, name) for name in ("engines", "open_database")) or any(
        name == "shared_engines" or name.endswith("_url") for name in item.fixturenames
    )


def _admin(running: Engines, statement: sql.Composed) -> None:
    with closing(psycopg.connect(running.postgres.url("postgres"), autocommit=True)) as connection:
        connection.execute(statement)
