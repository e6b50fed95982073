import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random

import psycopg
import psycopg_pool
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.demo.engines import engines
from brokerd.errors import ConfigInvalid, StoreUnavailable
from brokerd.store.engine import Database, open_database, unavailability
from brokerd.telemetry import Metrics

ONE = sa.text("SELECT 1")


@asynccontextmanager
async def opened(url: str, **settings: float) -> AsyncIterator[tuple[Database, CollectorRegistry]]:
    """Open a pool on that database."""
    registry = CollectorRegistry()
    async with open_database(
        DatabaseSettings(url=Secret(url), **settings), metrics=Metrics(registry)
    ) as database:
        yield database, registry


async def admin(url: str, sql: str) -> list[tuple]:
    """Run a statement beside the pool."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(sql)
        return await cursor.fetchall() if cursor.description else []


OURS = "FROM pg_stat_activity WHERE application_name = 'brokerd' AND datname = current_database()"


async def answer(database: Database) -> int:
    """Ask for one."""
    async with database.statement() as connection:
        return await connection.scalar(ONE)


async def in_transaction(database: Database, *sql: str, idle_seconds: float = 0) -> None:
    """Run statements in one transaction."""
    async with database.transaction() as connection:
        for each in sql:
            await connection.execute(sa.text(each))
        await asyncio.sleep(idle_seconds)


def failures(registry: CollectorRegistry, code: str) -> float | None:
    """Read the metric."""
    return registry.get_sample_value("brokerd_db_failures_total", {"code": code})


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("08006", "connection_lost"),
        ("08P01", "connection_lost"),
        ("25006", "read_only"),
        ("25P03", "timeout"),
        ("40001", "serialization"),
        ("40P01", "deadlock"),
        ("53100", "disk_full"),
        ("53200", "resources"),
        ("53300", "too_many_connections"),
        ("55P03", "lock_not_available"),
        ("57014", "timeout"),
        ("57P01", "connection_lost"),
        ("57P03", "connection_lost"),
        ("58030", "io_error"),
        ("22003", None),
        ("23505", None),
        ("25P02", None),
        ("42601", None),
        ("42501", None),
        ("XX000", None),
    ],
)
def test_each_class_of_error_is_ours_or_a_mistake(state: str, reason: str | None) -> None:
    """Time can cure what has a reason; the rest is a bug and must not be retried."""
    error = psycopg.errors.lookup(state)("as the server says")
    assert unavailability(error) == reason
    assert unavailability(sa.exc.DBAPIError("SELECT", None, error)) == reason


def test_errors_without_a_state_are_told_apart() -> None:
    """A lost connection, an exhausted pool and a deadline are times; bad data is not."""
    assert unavailability(psycopg.OperationalError("gone")) == "connection_lost"
    assert unavailability(psycopg_pool.PoolTimeout("full")) == "pool_exhausted"
    assert unavailability(TimeoutError()) == "timeout"
    assert unavailability(psycopg.DataError("NUL")) is None
    assert unavailability(KeyError("x")) is None


async def test_a_statement_commits_at_once_and_a_transaction_at_its_end(database_url: str) -> None:
    """Both commit; only the transaction takes everything back when its block fails."""
    async with opened(database_url) as (database, _):
        async with database.statement() as connection:
            await connection.execute(sa.text("CREATE TABLE t (n int)"))
            await connection.execute(sa.text("INSERT INTO t VALUES (1)"))
            assert await admin(database_url, "SELECT n FROM t") == [(1,)]
        async with database.transaction() as connection:
            await connection.execute(sa.text("INSERT INTO t VALUES (2)"))
            assert await admin(database_url, "SELECT n FROM t") == [(1,)]
        with pytest.raises(sa.exc.ProgrammingError):
            await in_transaction(database, "INSERT INTO t VALUES (3)", "nonsense")
        assert await admin(database_url, "SELECT n FROM t ORDER BY n") == [(1,), (2,)]


async def test_the_pool_is_bounded_and_waiting_for_it_too(database_url: str) -> None:
    """Ten callers, three connections: the patient are served, the others told in time."""
    async with opened(database_url, pool_size=3, acquire_seconds=0.5) as (database, registry):

        async def hold() -> None:
            async with database.statement() as connection:
                await connection.execute(sa.text("SELECT pg_sleep(0.7)"))

        tasks = [asyncio.create_task(hold()) for _ in range(10)]
        await asyncio.sleep(0.4)
        assert (await admin(database_url, f"SELECT count(*) {OURS}"))[0][0] == 3
        results = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [each for each in results if isinstance(each, StoreUnavailable)]
        assert len(refused) == 7
        assert failures(registry, "pool_exhausted") == 7
        assert await answer(database) == 1


async def test_cancelled_callers_cost_the_pool_nothing(database_url: str) -> None:
    """Cancelled while waiting, dialling or running: afterwards all connections work again."""
    async with opened(database_url, pool_size=2, acquire_seconds=2) as (database, _):

        async def run() -> None:
            async with database.statement() as connection:
                await connection.execute(sa.text("SELECT pg_sleep(5)"))

        for delay in (0, 0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1):
            tasks = [asyncio.create_task(run()) for _ in range(4)]
            await asyncio.sleep(delay)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(both_at_once(database), 3)


@pytest.mark.parametrize("steps", range(12))
async def test_no_connection_is_lost_when_cancelled_in_a_busy_loop(
    database_url: str, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Psycopg pauses even where it need not wait, when the loop was busy for long."""
    monkeypatch.setattr(psycopg.waiting, "MAX_BUSY_TIME", 0.0)
    async with opened(database_url, pool_size=1, acquire_seconds=2) as (database, _):
        assert await answer(database) == 1
        task = asyncio.create_task(answer(database))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert await answer(database) == 1


async def test_no_cancellation_is_lost_in_the_wait_for_a_connection(database_url: str) -> None:
    """Whoever repeats itself for ever ends when cancelled once, at whatever moment."""
    random = Random(7)
    async with opened(database_url, pool_size=2) as (database, _):

        async def repeat() -> None:
            while True:
                await answer(database)
                await in_transaction(database, "SELECT 1")

        for _ in range(60):
            tasks = [asyncio.create_task(repeat()) for _ in range(20)]
            await asyncio.sleep(random.uniform(0.0, 0.02))
            for task in tasks:
                task.cancel()
                await asyncio.sleep(0)
            _, immortal = await asyncio.wait(tasks, timeout=5)
            for task in immortal:
                task.cancel()
            assert not immortal


async def both_at_once(database: Database) -> None:
    """Use two connections at the same time."""
    async with database.statement() as one, database.statement() as two:
        assert await one.scalar(ONE) == await two.scalar(ONE) == 1


async def test_a_call_past_its_deadline_ends_on_the_server_too(database_url: str) -> None:
    """The deadline is ours, the statement is cancelled there, the connection stays good."""
    async with opened(database_url, statement_timeout_seconds=0.3) as (database, registry):
        with pytest.raises(StoreUnavailable, match="timeout"):
            async with database.statement() as connection:
                await connection.execute(sa.text("SELECT pg_sleep(30)"))
        assert await admin(database_url, f"SELECT pid {OURS} AND state = 'active'") == []
        assert failures(registry, "timeout") == 1
        assert await answer(database) == 1


async def test_limits_end_with_their_transaction(database_url: str) -> None:
    """Session state would leak to strangers behind a proxy that pools transactions."""
    show = sa.text(
        "SELECT current_setting('statement_timeout'),"
        " current_setting('idle_in_transaction_session_timeout'), pg_backend_pid()"
    )
    async with opened(database_url, pool_size=1, statement_timeout_seconds=7) as (database, _):
        async with database.transaction() as connection:
            inside = (await connection.execute(show)).one()
        async with database.statement() as connection:
            after = (await connection.execute(show)).one()
    assert tuple(inside)[:2] == ("7s", "7s")
    assert tuple(after)[:2] == ("0", "0")
    assert inside[2] == after[2]


async def test_a_transaction_that_sits_idle_is_ended(database_url: str) -> None:
    """A block that forgets itself does not keep its locks."""
    async with opened(database_url, statement_timeout_seconds=0.4) as (database, _):
        with pytest.raises(StoreUnavailable):
            await in_transaction(database, "SELECT 1", idle_seconds=5)
        assert await admin(database_url, f"SELECT pid {OURS} AND state LIKE 'idle in%'") == []
        assert await answer(database) == 1


async def test_a_read_only_server_is_unavailable(database_url: str) -> None:
    """After a failover we may still talk to the old primary."""
    async with opened(database_url) as (database, registry):
        with pytest.raises(StoreUnavailable, match="read_only"):
            await in_transaction(database, "SET TRANSACTION READ ONLY", "CREATE TABLE t (n int)")
        assert failures(registry, "read_only") == 1


async def test_a_mistake_stays_one_and_shows_no_values(database_url: str) -> None:
    """Wrong SQL passes through as it is; what was sent along stays out of the message."""
    async with opened(database_url) as (database, _):
        with pytest.raises(sa.exc.ProgrammingError) as caught:
            async with database.statement() as connection:
                await connection.execute(sa.text("SELECT :value FROM nowhere"), {"value": "4711"})
        assert "4711" not in str(caught.value)


async def test_connections_that_the_server_closed_are_replaced_unseen(database_url: str) -> None:
    """After every idle connection was killed the next callers notice nothing."""
    async with opened(database_url, pool_size=3) as (database, _):
        async with database.statement(), database.statement(), database.statement():
            pass
        await admin(database_url, f"SELECT pg_terminate_backend(pid, 5000) {OURS}")
        async with asyncio.timeout(1):
            async with database.statement() as one, database.statement() as two:
                assert await one.scalar(ONE) == await two.scalar(ONE) == 1


async def test_connections_lost_in_use_leave_their_place(database_url: str) -> None:
    """A pool of two survives the loss of ten."""
    async with opened(database_url, pool_size=2, acquire_seconds=1) as (database, registry):
        for _ in range(10):
            with pytest.raises(StoreUnavailable, match="connection_lost"):
                async with database.statement() as connection:
                    await connection.execute(
                        sa.text("SELECT pg_terminate_backend(pg_backend_pid())")
                    )
        assert failures(registry, "connection_lost") == 10
        await asyncio.wait_for(both_at_once(database), 1)


async def test_survives_a_restart_of_postgres() -> None:
    """Away means unavailable, in bounded time; back means usable at once."""
    async with (
        engines(is_durable=False) as running,
        opened(running.postgres_url, acquire_seconds=0.5) as (database, _),
    ):
        assert await answer(database) == 1
        await running.postgres.stop()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(answer(database), 1.5)
        await running.postgres.start()
        async with asyncio.timeout(3):
            while not await is_usable(database):
                pass


async def is_usable(database: Database) -> bool:
    """Say whether Postgres answers."""
    with suppress(StoreUnavailable):
        return await answer(database) == 1
    return False


async def test_one_connection_of_its_own(database_url: str) -> None:
    """Heartbeats get through while the pool is exhausted."""
    settings = DatabaseSettings(url=Secret(database_url), pool_size=1, acquire_seconds=0.2)
    metrics = Metrics(CollectorRegistry())
    async with (
        open_database(settings, metrics=metrics) as database,
        open_database(settings, metrics=metrics, max_connections=1) as heartbeats,
        database.statement(),
    ):
        with pytest.raises(StoreUnavailable):
            await answer(database)
        assert await answer(heartbeats) == 1
        assert (await admin(database_url, f"SELECT count(*) {OURS}"))[0][0] == 2


@pytest.mark.parametrize("url", ["postgresql://u:hunter2@/db?nonsense=1", "hunter2"])
async def test_a_url_that_cannot_be_read_is_not_quoted(url: str) -> None:
    """The message names the setting and not its value."""
    with pytest.raises(ConfigInvalid) as caught:
        async with opened(url):
            pass
    assert "database.url" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


async def test_the_password_is_in_no_error_and_no_log(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a refused login nor an unreachable host tells it."""
    caplog.set_level("DEBUG")
    host = database_url.partition("?")[2]
    for url in (
        f"postgresql://brokerd:hunter2@/postgres?{host}",
        "postgresql://brokerd:hunter2@127.0.0.1:1/postgres",
    ):
        async with opened(url, acquire_seconds=0.3) as (database, _):
            with pytest.raises(StoreUnavailable) as caught:
                await answer(database)
            assert "hunter2" not in repr(caught.value) + repr(caught.value.__cause__)
            assert "hunter2" not in repr(database)
    assert "hunter2" not in caplog.text
