"""Redis may be fast, slow, empty, broken or gone: the answers stay the same."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import redis.asyncio as redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokerd.api.redis import RedisHints, RedisSnapshots
from brokerd.api.reporting import ForgettingLeases
from brokerd.clock import SystemClock
from brokerd.config.settings import QueueSettings, RedisSettings, Secret
from brokerd.domain import (
    AccountId,
    Backoff,
    Fence,
    Incarnation,
    LinkId,
    LinkStatus,
    Phase,
)
from brokerd.pool.memory_leases import MemoryLeases
from brokerd.store.memory import MemoryState
from brokerd.store.redis import namespace_of, open_redis
from brokerd.telemetry import Metrics

SETTINGS = RedisSettings(snapshot_seconds=0.5)
PATH = "/v1/links/a"


class Rig:
    """An API with snapshots and hints, and the same rows without."""

    def __init__(self, new_api, effort, metrics, namespace="test"):
        self.metrics = metrics
        self.effort = effort
        self.state = MemoryState(clock=SystemClock())
        self.wake = asyncio.Event()
        self.snapshots = RedisSnapshots(effort, settings=SETTINGS, namespace=namespace)
        self.hints = RedisHints(effort, wake=self.wake.set, namespace=namespace)
        self.cached = new_api(self.state, snapshots=self.snapshots, hints=self.hints)
        self.plain = new_api(self.state)

    @property
    def failures(self):
        """Return how many calls to Redis failed."""
        return self.metrics.registry.get_sample_value("brokerd_redis_failures_total")

    async def put(self, **spec):
        """Put the link over the API that caches."""
        answer = await self.cached.client.put(PATH, json=self.cached.put_body(**spec))
        assert answer.status_code in {200, 201}

    async def phase(self):
        """Return the phase that a reader of the API that caches sees."""
        return (await self.cached.client.get(PATH)).json()["status"]["phase"]


@asynccontextmanager
async def rig_on(url, new_api):
    """Open everything over one Redis."""
    metrics = Metrics(CollectorRegistry())
    async with open_redis(
        Secret(url), settings=SETTINGS, clock=SystemClock(), metrics=metrics
    ) as effort:
        rig = Rig(new_api, effort, metrics)
        async with rig.cached.client, rig.plain.client:
            yield rig


@pytest.fixture
async def rig(redis_url, new_api) -> AsyncIterator[Rig]:
    """Give the API over the shared Valkey, emptied."""
    async with rig_on(redis_url, new_api) as made:
        yield made


def steady(body):
    """Return a body without what counts seconds."""
    status = dict(body["status"])
    status["queue"] = status["queue"] and {"position": status["queue"]["position"]}
    status["sync"] = {**status["sync"], "lagSeconds": None}
    return {**body, "status": status}


async def test_a_snapshot_serves_readers_until_its_life_ends(rig):
    """What changed behind our back shows after a moment at the latest; ages move on meanwhile."""
    await rig.put()
    await asyncio.sleep(0.6)  # the mark of the PUT
    assert await rig.phase() == "queued"
    rig.cached.own("a")
    first = (await rig.cached.client.get(PATH)).json()["status"]
    assert first["phase"] == "queued"
    await asyncio.sleep(0.2)
    second = (await rig.cached.client.get(PATH)).json()["status"]
    assert second["queue"]["positionAgeSeconds"] >= first["queue"]["positionAgeSeconds"] + 0.2
    assert second["queue"]["waitingSeconds"] >= first["queue"]["waitingSeconds"] + 0.2
    await asyncio.sleep(0.4)
    assert await rig.phase() == "live"
    assert rig.failures == 0


async def test_a_put_is_read_at_once(rig):
    """Who changed a link reads the change, however many read it before."""
    await rig.put()
    await asyncio.sleep(0.6)
    await rig.phase()
    await rig.put(desired="paused")
    assert await rig.phase() == "paused"
    assert (await rig.cached.client.delete(PATH)).status_code == 202
    assert (await rig.cached.client.get(PATH)).status_code == 404


async def test_a_reading_under_way_cannot_put_back_what_was_forgotten(rig):
    """A reader who began before a change and ends after it keeps nothing."""
    await rig.put()
    await asyncio.sleep(0.6)
    await rig.phase()
    link_id = LinkId("a")
    old = await rig.snapshots.read(link_id)
    assert old is not None
    await rig.snapshots.forget(link_id)
    await rig.snapshots.keep(link_id, old, age_seconds=0.2)
    assert await rig.snapshots.read(link_id) is None
    await asyncio.sleep(0.6)
    await rig.snapshots.keep(link_id, old, age_seconds=0.6)
    assert await rig.snapshots.read(link_id) is None
    await rig.snapshots.keep(link_id, old, age_seconds=0.1)
    assert await rig.snapshots.read(link_id) == old


async def test_a_report_of_the_owner_is_read_at_once(rig):
    """The owner's reports and its release make readers ask Postgres."""
    await rig.put()
    rig.cached.own("a", phase=Phase.SYNCING)
    leases = ForgettingLeases(
        MemoryLeases(rig.state, patience_seconds=QueueSettings().patience_seconds),
        link_id=LinkId("a"),
        snapshots=rig.snapshots,
    )
    await asyncio.sleep(0.6)
    assert await rig.phase() == "syncing"
    fence = Fence(account_id=AccountId(1), incarnation=Incarnation(7), epoch=1)
    status = LinkStatus(
        phase=Phase.LIVE,
        reason="Live",
        message="",
        observed_generation=1,
        since=datetime.now(UTC),
    )
    await leases.report(fence, status)
    assert await rig.phase() == "live"
    await leases.save_backoff(fence, Backoff())
    assert await leases.record_modes(fence, margin_mode="hedging", trade_mode="demo")
    await asyncio.sleep(0.6)
    assert await rig.phase() == "live"
    await leases.release(fence, backoff=Backoff(), delay_seconds=0.0)
    assert await rig.phase() == "queued"


@pytest.mark.parametrize("rubbish", [b"\x00", b"{}", b"[]", b'{"read_at":1,"body":2}'])
async def test_rubbish_in_redis_is_ignored(rig, redis_url, rubbish):
    """What cannot be read is read from Postgres, and counted."""
    await rig.put()
    async with redis.Redis.from_url(redis_url) as client:
        await client.set("brokerd:test:link:a", rubbish)
    assert await rig.phase() == "queued"
    assert rig.failures == 1


async def test_a_flushed_redis_changes_nothing(rig, redis_url):
    """FLUSHALL costs one query."""
    await rig.put()
    async with redis.Redis.from_url(redis_url) as client:
        await client.flushall()
    assert await rig.phase() == "queued"
    assert rig.failures == 0


async def test_a_killed_redis_is_done_without_and_comes_back(valkey, new_api):
    """Killed in the middle: same answers, one warning, one word of recovery, no restart of ours."""
    async with rig_on(valkey.url, new_api) as rig, asyncio.TaskGroup() as group:
        listening = group.create_task(rig.hints.run())
        with capture_logs() as logs:
            await rig.put()
            assert await rig.phase() == "queued"
            valkey.kill()
            for number in range(5):
                await rig.put(labels={"n": str(number)})
                assert await rig.phase() == "queued"
            assert rig.failures >= 1
            await valkey.start()
            rig.wake.clear()
            async with asyncio.timeout(10):
                await rig.wake.wait()  # the listener is back, and may have missed something
            rig.cached.own("a")
            await asyncio.sleep(1.1)
            assert await rig.phase() == "live"
            rig.cached.release("a")
            assert await rig.phase() == "live"  # it caches again
        events = [entry["event"] for entry in logs if entry["event"].startswith("redis.")]
        assert events == ["redis.lost", "redis.recovered"]
        assert valkey.url not in str(logs)
        listening.cancel()


async def test_a_hanging_redis_costs_one_short_wait(valkey, new_api):
    """A Redis that takes connections and answers nothing delays one request by its limit."""
    async with rig_on(valkey.url, new_api) as rig:
        await rig.put()
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            began = asyncio.get_running_loop().time()
            for _ in range(20):
                assert await rig.phase() == "queued"
            took = asyncio.get_running_loop().time() - began
        finally:
            os.kill(valkey.pid, signal.SIGCONT)
        assert took < 0.25 * 2 + 0.5
        assert 1 <= rig.failures <= 2


async def test_no_redis_at_all_is_no_obstacle(tmp_path, new_api):
    """An address where nobody listens gives the same answers."""
    async with rig_on(f"unix://{tmp_path}/nobody.sock", new_api) as rig:
        await rig.put()
        assert await rig.phase() == "queued"
        assert rig.wake.is_set()
        assert rig.failures == 1


async def test_a_hint_wakes_every_node(rig, redis_url, new_api):
    """A PUT on one node wakes the manager of another; another fleet's does not."""
    async with rig_on(redis_url, new_api) as other, asyncio.TaskGroup() as group:
        foreign = RedisHints(other.effort, wake=asyncio.Event().set, namespace="other")
        listening = group.create_task(other.hints.run())
        async with asyncio.timeout(5):
            await other.wake.wait()  # the first word: it may have missed something before
        other.wake.clear()
        await foreign.publish()
        await asyncio.sleep(0.1)
        assert not other.wake.is_set()
        await rig.put()
        async with asyncio.timeout(1):
            await other.wake.wait()
        assert rig.wake.is_set()
        listening.cancel()


def test_a_namespace_belongs_to_one_database():
    """Databases differ by host, port or name; user and password do not matter, nor show."""
    name = namespace_of(Secret("postgresql://u:secret@db:5432/brokerd"))
    assert name == namespace_of(Secret("postgresql://other:word@db:5432/brokerd"))
    assert name != namespace_of(Secret("postgresql://u:secret@db:5432/other"))
    assert name != namespace_of(Secret("postgresql://u:secret@db2:5432/brokerd"))
    assert "secret" not in name


STEPS = st.lists(
    st.sampled_from(["live", "paused", "label", "own", "release", "delete", "read", "flush"]),
    max_size=12,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_answers_with_redis_are_those_without(redis_url, new_api, steps):
    """After any history, readers see with Redis what they see without, once snapshots ended."""

    async def play():
        async with rig_on(redis_url, new_api) as rig:
            async with redis.Redis.from_url(redis_url) as client:
                await client.flushall()
                for step in steps:
                    await act(rig, client, step)
            await asyncio.sleep(SETTINGS.snapshot_seconds)
            await compare(rig)
            await compare(rig)

    asyncio.run(play())


async def act(rig, client, step):
    """Take one step of a history."""
    is_there = any(row.deleted_at is None for row in rig.state.accounts.values())
    match step:
        case "live" | "paused":
            await rig.cached.client.put(PATH, json=rig.cached.put_body(desired=step))
        case "label":
            labels = {"n": str(len(rig.state.transitions))}
            await rig.cached.client.put(PATH, json=rig.cached.put_body(labels=labels))
        case "own" | "release" if is_there:
            getattr(rig.cached, step)("a")
        case "delete":
            await rig.cached.client.delete(PATH)
        case "flush":
            await client.flushall()
        case _:
            await rig.cached.client.get(PATH)


async def compare(rig):
    """Hold the answers of both APIs side by side."""
    with_redis, without = await rig.cached.client.get(PATH), await rig.plain.client.get(PATH)
    assert with_redis.status_code == without.status_code
    if without.status_code == 200:
        assert steady(with_redis.json()) == steady(without.json())
        assert with_redis.headers["etag"] == without.headers["etag"]
