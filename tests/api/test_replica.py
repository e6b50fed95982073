"""Lists are read from a replica while it answers, and say how old they may be."""

import asyncio
import contextlib
import math
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass

import psycopg
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from brokerd.api.postgres import PostgresRegistry
from brokerd.api.postgres_reads import PostgresReads, postgres_reads
from brokerd.api.query import Query, totals_query
from brokerd.api.replica import LAG_HEADER, REST_SECONDS, Copy, Reads, Replica
from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, QueueSettings, Secret
from brokerd.demo.engines import Engines, engines
from brokerd.demo.server import Recipe, Server, run_once
from brokerd.errors import ConfigInvalid, StoreUnavailable
from brokerd.store.engine import Database, open_database
from brokerd.store.memory import MemoryState
from brokerd.store.migrate import upgrade
from brokerd.store.replica import open_replica
from brokerd.telemetry import Metrics

_PORT = 5433
_ACCOUNT = """
INSERT INTO brokerd.accounts (link_id, user_id, platform, login, server, currency, token,
  metaapi_account_id, region, desired, priority)
VALUES ('a', 'ann', 'mt5', '1', 'Demo', 'USD', 'main', 'm', 'london', 'live', 'normal');
INSERT INTO brokerd.deals (account_id, deal_id, user_id, type, time, broker_time, profit,
  commission, swap, book, raw, content_hash, source, write_id)
SELECT account_id, '1', 'ann', 'DEAL_TYPE_BUY', now(), '', 1, 0, 0, 'balance', '{}', 1, 'pull', 1
FROM brokerd.accounts
"""


class Jumping(SystemClock):
    """A clock that a test moves on."""

    def __init__(self):
        self.offset_seconds = 0.0

    def monotonic(self):
        """Return the loop's clock, moved on."""
        return super().monotonic() + self.offset_seconds


class Standby(Server):
    """A streaming replica of the embedded PostgreSQL, beside it in its folder."""

    def __init__(self, primary):
        self._primary = primary
        self._data = primary._folder.path / "replica"
        options = ("-c", f"port={_PORT}", "-c", "wal_receiver_status_interval=1s")
        postgres = str(primary._bin / "postgres")
        argv = (postgres, "-D", str(self._data), "-k", str(primary._folder.path), *options)
        recipe = Recipe(
            name="standby", argv=argv, stop_signal=signal.SIGINT, is_ready=self._is_serving
        )
        super().__init__(recipe, folder=primary._folder)

    async def create(self):
        """Copy the primary."""
        tool = str(self._primary._bin / "pg_basebackup")
        source = ("-d", self._primary.url("postgres"), "-D", str(self._data))
        argv = [tool, *source, "-R", "-c", "fast", "--no-sync"]
        await run_once(argv, name="pg_basebackup", folder=self._folder)

    def url(self, database):
        """Return its URI."""
        return f"{self._primary.url(database)}&port={_PORT}"

    async def _is_serving(self, _pid):
        with contextlib.suppress(psycopg.OperationalError):
            async with await psycopg.AsyncConnection.connect(self.url("postgres")):
                return True
        return False


@dataclass
class World:
    """A primary, its replica, and the readers over both."""

    running: Engines
    standby: Standby
    primary: Database
    copy: Database
    reads: PostgresReads
    registry: CollectorRegistry
    clock: Jumping

    async def totals(self):
        """Read the totals of the one user."""
        query = totals_query(Query(b"user=ann", known=("user",)))
        return await self.reads.totals.read(lambda reader: reader.totals(query))

    async def until_copied(self):
        """Wait until the replica shows the deal."""
        return await self.until(lambda answered: answered.value != [])

    async def until(self, is_so):
        """Read until the answer is as it should be."""
        async with asyncio.timeout(10):
            while not is_so(answered := await self.totals()):  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.02)
        return answered

    async def on(self, database, statement):
        """Run one statement."""
        async with database.statement() as connection:
            await connection.execute(sa.text(statement))

    def metric(self, name):
        """Read a metric."""
        return self.registry.get_sample_value(name)


@contextlib.asynccontextmanager
async def opened(running, standby) -> AsyncIterator[World]:
    """Open both pools and build the readers as the daemon does."""
    url, read_url = running.postgres_url, standby.url("brokerd")
    settings = DatabaseSettings(url=Secret(url), read_url=Secret(read_url), acquire_seconds=2)
    registry = CollectorRegistry()
    metrics, clock = Metrics(registry), Jumping()
    async with (
        open_database(settings, metrics=metrics) as primary,
        open_replica(settings, metrics=metrics) as copy,
    ):
        reads = postgres_reads(
            primary,
            copy=copy,
            registry=lambda db: PostgresRegistry(db, settings=QueueSettings(), clock=clock),
            clock=clock,
            metrics=metrics,
        )
        yield World(running, standby, primary, copy, reads, registry, clock)


@contextlib.asynccontextmanager
async def replicated() -> AsyncIterator[World]:
    """Run a primary with a streaming replica."""
    async with engines(is_durable=False) as running:
        await upgrade(Secret(running.postgres_url))
        standby = Standby(running.postgres)
        await standby.create()
        try:
            await standby.start()
            async with opened(running, standby) as world:
                yield world
        finally:
            await standby.stop()


async def test_a_streaming_replica_answers_and_says_how_old_it_is() -> None:
    """It serves lists, its lag grows while it does not replay or receive, and heals."""
    async with replicated() as world:
        await world.on(world.primary, _ACCOUNT.partition(";")[0])
        await world.on(world.primary, _ACCOUNT.partition(";")[2])
        answered = await world.until_copied()
        assert len(answered.value) == 1
        assert 0 <= answered.lag_seconds < 5
        assert float(answered.headers[LAG_HEADER]) == pytest.approx(answered.lag_seconds, abs=0.001)
        links = await world.reads.links.read(
            lambda registry: registry.page(user_id=None, after=None, limit=5)
        )
        assert links.lag_seconds is not None

        await world.on(world.copy, "SELECT pg_wal_replay_pause()")
        await asyncio.sleep(0.3)
        await world.on(world.primary, "UPDATE brokerd.deals SET profit = 2")
        # it has received then what it does not replay
        paused = await world.until(lambda answered: answered.lag_seconds >= 0.3)
        assert [each.profit for each in paused.value] == [1]
        await world.on(world.copy, "SELECT pg_wal_replay_resume()")
        await world.until(lambda answered: [each.profit for each in answered.value] == [2])
        assert world.metric("brokerd_replica_fallbacks_total") == 0

        # without its primary a replica is no longer up to date, whatever it has replayed
        await world.running.postgres.stop()
        await asyncio.sleep(0.5)
        orphaned = await world.totals()
        assert len(orphaned.value) == 1
        assert orphaned.lag_seconds > 0.4
        await world.running.postgres.start()

        await world.standby.stop()
        fallen = await world.totals()
        assert (len(fallen.value), fallen.lag_seconds, fallen.headers) == (1, None, {})
        assert math.isnan(world.metric("brokerd_replica_lag_seconds"))
        assert world.metric("brokerd_replica_fallbacks_total") == 1

        await world.standby.start()
        assert (await world.totals()).lag_seconds is None  # it rests
        world.clock.offset_seconds += REST_SECONDS
        async with asyncio.timeout(10):
            while (await world.totals()).lag_seconds is None:
                world.clock.offset_seconds += REST_SECONDS
                await asyncio.sleep(0.1)
        for each in world.reads.sampled:
            await each.refresh()
        assert world.metric("brokerd_replica_lag_seconds") < 60


class Source:
    """A reader that names itself, or fails."""

    def __init__(self, name, *, is_away=False):
        self.name, self.is_away, self.asked = name, is_away, 0

    async def ask(self):
        """Answer."""
        self.asked += 1
        if self.is_away:
            raise StoreUnavailable(f"{self.name} is away")
        return self.name


def reads_of(primary, copy, *, lag_seconds=1.5):
    """Build reads over two sources."""

    async def lag():
        return lag_seconds

    registry, clock = CollectorRegistry(), Jumping()
    replica = Replica(lag, clock=clock, metrics=Metrics(registry))
    reads = Reads(primary=primary, copy=Copy(reader=copy, replica=replica))
    return reads, registry, clock


async def test_a_replica_that_failed_rests_before_it_is_asked_again():
    """One read in five seconds finds out; all others go to the primary at once."""
    primary, copy = Source("primary"), Source("copy", is_away=True)
    reads, registry, clock = reads_of(primary, copy)
    for _ in range(10):
        assert (await reads.read(Source.ask)).value == "primary"
    assert (primary.asked, copy.asked) == (10, 1)
    assert registry.get_sample_value("brokerd_replica_fallbacks_total") == 10
    copy.is_away = False
    clock.offset_seconds += REST_SECONDS
    answered = await reads.read(Source.ask)
    assert (answered.value, answered.lag_seconds) == ("copy", 1.5)
    assert answered.headers == {LAG_HEADER: "1.500"}
    assert registry.get_sample_value("brokerd_replica_lag_seconds") == 1.5


async def test_every_list_tells_its_age_over_http(new_api):
    """The header stands in answers of the replica, and in no others."""
    lag_seconds = 0.25

    async def lag():
        if lag_seconds is None:
            raise StoreUnavailable("away")
        return lag_seconds

    replica = Replica(lag, clock=Jumping(), metrics=Metrics(CollectorRegistry()))
    api = new_api(MemoryState(clock=SystemClock()), replica=replica)
    paths = ("/v1/links", "/v1/deals?user=ann", "/v1/totals?user=ann")
    async with api.client:
        for path in paths:
            assert (await api.client.get(path)).headers[LAG_HEADER] == "0.250"
        lag_seconds = None
        for path in paths:
            answer = await api.client.get(path)
            assert answer.status_code == 200
            assert LAG_HEADER not in answer.headers


async def test_a_scrape_measures_the_lag_and_does_not_wait_for_it(new_api, monkeypatch):
    """The metric is there while nobody reads; a replica that hangs costs the scrape little."""
    monkeypatch.setattr("brokerd.api.reads.SAMPLE_SECONDS", 0.05)
    is_hanging = False

    async def lag():
        if is_hanging:
            await asyncio.Event().wait()
        return 7.5

    api = new_api(MemoryState(clock=SystemClock()))
    replica = Replica(lag, clock=Jumping(), metrics=api.metrics)
    async with new_api(MemoryState(clock=SystemClock()), replica=replica).client as client:
        await client.get("/metrics")
        assert api.metrics.registry.get_sample_value("brokerd_replica_lag_seconds") == 7.5
        is_hanging = True
        async with asyncio.timeout(5):
            assert (await client.get("/metrics")).status_code == 200


async def test_what_the_primary_raises_is_raised():
    """With both away the caller learns that the store is."""
    reads, _, _ = reads_of(Source("p", is_away=True), Source("c", is_away=True))
    with pytest.raises(StoreUnavailable, match="p is away"):
        await reads.read(Source.ask)


async def test_a_fault_of_ours_is_not_hidden_by_the_primary():
    """Only what time can cure falls back."""
    reads, _, _ = reads_of(Source("primary"), Source("copy"))

    async def broken(_source):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await reads.read(broken)


async def test_without_a_replica_the_primary_answers():
    """No header, no lag."""
    answered = await Reads(primary=Source("primary")).read(Source.ask)
    assert (answered.value, answered.headers) == ("primary", {})


async def test_a_url_that_libpq_cannot_read_is_named_by_its_key():
    """The operator is told which of the two it is, and never the URL."""
    settings = DatabaseSettings(
        url=Secret("postgresql://here/brokerd"),
        read_url=Secret("postgresql://u:hunter2@there/x?nonsense=1"),
    )
    with pytest.raises(ConfigInvalid, match=r"database\.read_url") as caught:
        async with open_replica(settings, metrics=Metrics(CollectorRegistry())):
            pass
    assert "hunter2" not in repr(caught.value)
