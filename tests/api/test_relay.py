"""Two nodes over one Postgres and one Valkey: what one tells, subscribers of the other soon hear.

Polls are made so slow that whatever comes early came by a hint; the figures are printed (-rP).
"""

import asyncio
import itertools
import json
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import median

import redis.asyncio as redis
from ledger_rig import PostgresRig
from prometheus_client import CollectorRegistry

from brokerd.api.feed import Feed, Limits
from brokerd.api.relay import PAUSE_SECONDS, FeedRelay
from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, RedisSettings, Secret
from brokerd.domain import (
    AccountId,
    Deal,
    DealId,
    Fence,
    Incarnation,
    LinkId,
    LinkStatus,
    LinkWrite,
    Phase,
    Source,
    UserId,
)
from brokerd.ledger.feed import EVERYTHING
from brokerd.ledger.ports import NumberedWrite
from brokerd.ledger.postgres import PostgresLedgerStore
from brokerd.ledger.postgres_feed import PostgresFeedReader
from brokerd.pool.postgres_leases import PostgresLeases
from brokerd.store.engine import open_database
from brokerd.store.redis import open_redis
from brokerd.telemetry import Metrics

FENCE = Fence(account_id=AccountId(1), incarnation=Incarnation(1), epoch=1)
START = datetime(2026, 3, 2, tzinfo=UTC)
FAR = 30.0
"""A poll that no test waits for."""
numbers = itertools.count(1)


class Node:
    """What of a process takes part: a writer's store, a feed, and a relay if there is a Redis."""

    def __init__(self, database, *, effort, poll_seconds, sender):
        self.database = database
        self.feed = Feed(
            PostgresFeedReader(database),
            wake=asyncio.Event(),
            limits=Limits(max_streams=9, buffer_bytes=1_000_000, poll_seconds=poll_seconds),
            metrics=Metrics(CollectorRegistry()),
        )
        self.relay = None
        self.tell = self.feed.wake.set
        if effort is not None:
            self.relay = FeedRelay(effort, wake=self.feed.wake.set, namespace="t", sender=sender)
            self.tell = self.relay.tell
        self.store = PostgresLedgerStore(database, told=self._told)
        self.told_at = {}
        self.heard_at = {}

    def _told(self):
        self.tell()  # as it is then: a test may listen in

    async def write(self):
        """Commit one deal; return its id."""
        deal_id = DealId(f"d{next(numbers)}")
        await self.store.commit([write_of(deal_id)])
        self.told_at[deal_id] = asyncio.get_running_loop().time()
        return deal_id

    async def subscribe(self, ready):
        """Note when each event arrived."""
        await until(lambda: self.feed.position.generation)
        with self.feed.subscribed(EVERYTHING, after=self.feed.position, cut=int) as subscription:
            ready.set()
            while True:
                await subscription.wait(60)
                for told in subscription.take(1_000):
                    key = json.loads(told.body).get("dealId") or told.type
                    assert key not in self.heard_at
                    self.heard_at[key] = asyncio.get_running_loop().time()

    async def until_heard(self, deal_ids, *, seconds):
        """Wait until all arrived."""
        await until(lambda: set(deal_ids) <= self.heard_at.keys(), seconds=seconds)


async def until(is_met, *, seconds=10.0):
    """Wait until something is so."""
    for _ in range(int(seconds / 0.005)):
        if is_met():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never became so")


def write_of(deal_id):
    """Build a write of one deal."""
    deal = Deal(
        deal_id=deal_id,
        type="DEAL_TYPE_BUY",
        entry=None,
        symbol="EURUSD",
        volume=None,
        price=None,
        time=START + timedelta(seconds=int(deal_id[1:])),
        broker_time="",
        profit=Decimal(1),
        commission=Decimal(0),
        swap=Decimal(0),
        order_id=None,
        position_id=None,
        raw="{}",
    )
    write = LinkWrite(
        fence=FENCE,
        link_id=LinkId("l-1"),
        user_id=UserId("u-1"),
        source=Source.STREAM,
        deals=(deal,),
    )
    return NumberedWrite(write_id=next(numbers), write=write)


@asynccontextmanager
async def two_nodes(database_url, redis_url, *, poll_seconds=FAR):
    """Run a node that writes and one whose subscriber listens."""
    metrics = Metrics(CollectorRegistry())
    settings = DatabaseSettings(url=Secret(database_url))
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(2):
            database = await stack.enter_async_context(
                open_database(settings, metrics=metrics, max_connections=3)
            )
            effort = None
            if redis_url is not None:
                opening = open_redis(
                    Secret(redis_url),
                    settings=RedisSettings(),
                    clock=SystemClock(),
                    metrics=metrics,
                )
                effort = await stack.enter_async_context(opening)
            sender = bytes([number])
            nodes.append(Node(database, effort=effort, poll_seconds=poll_seconds, sender=sender))
        await PostgresRig(nodes[0].database).lease(FENCE)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        ready = asyncio.Event()
        tasks = [group.create_task(nodes[1].subscribe(ready))]
        for node in nodes:
            tasks.append(group.create_task(node.feed.run()))
            if node.relay is not None:
                tasks.append(group.create_task(node.relay.run()))
        async with asyncio.timeout(10):
            await ready.wait()
        await asyncio.sleep(0.3)  # both listen
        yield nodes
        for task in tasks:
            task.cancel()


def delays(writer, listener):
    """Return how long each deal took from its commit to the other's subscriber, sorted."""
    return sorted(at - writer.told_at[deal_id] for deal_id, at in listener.heard_at.items())


async def test_a_hint_brings_events_long_before_the_poll(database_url, redis_url):
    """Forty deals, one by one, poll every 30 s: each is heard within moments."""
    async with two_nodes(database_url, redis_url) as (writer, listener):
        for _ in range(40):
            await writer.write()
            await asyncio.sleep(0.02)
        await listener.until_heard(writer.told_at, seconds=5)
        found = delays(writer, listener)
        sys.stdout.write(f"p50 {median(found) * 1000:.0f} ms, worst {found[-1] * 1000:.0f} ms\n")
        assert median(found) < 0.5


async def test_without_redis_the_poll_brings_them(database_url):
    """Later, and all of them."""
    async with two_nodes(database_url, None, poll_seconds=1.0) as (writer, listener):
        for _ in range(10):
            await writer.write()
            await asyncio.sleep(0.1)
        await listener.until_heard(writer.told_at, seconds=5)
        sys.stdout.write(f"p50 {median(delays(writer, listener)) * 1000:.0f} ms\n")


async def test_a_redis_that_is_flushed_and_killed_loses_nothing(database_url, valkey):
    """FLUSHALL, SIGKILL and a restart in the middle: every event once; then hints work again."""
    async with two_nodes(database_url, valkey.url, poll_seconds=1.0) as (writer, listener):
        for turn in range(60):
            await writer.write()
            await asyncio.sleep(0.02)
            if turn == 15:
                async with redis.Redis.from_url(valkey.url) as client:
                    await client.flushall()
            if turn == 30:
                valkey.kill()
        await listener.until_heard(writer.told_at, seconds=10)
        await valkey.start()
        writer.feed._limits = listener.feed._limits = Limits(
            max_streams=9, buffer_bytes=1_000_000, poll_seconds=FAR
        )
        await asyncio.sleep(1.1)  # the last short poll
        late = []
        while not late or (len(late) < FAR and not set(late) <= listener.heard_at.keys()):
            late.append(await writer.write())  # the listener asks for Redis again each second
            await asyncio.sleep(0.5)
        await listener.until_heard(late, seconds=5)


async def test_a_redis_that_hangs_delays_no_commit(database_url, valkey):
    """Commits do not wait for hints, and the poll brings what no hint told."""
    async with two_nodes(database_url, valkey.url, poll_seconds=1.0) as (writer, listener):
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            began_at = asyncio.get_running_loop().time()
            for _ in range(20):
                await writer.write()
            took = asyncio.get_running_loop().time() - began_at
            await listener.until_heard(writer.told_at, seconds=10)
        finally:
            os.kill(valkey.pid, signal.SIGCONT)
        assert took < 5


async def test_hints_are_few_however_much_is_told(database_url, redis_url):
    """Told without pause: at most one hint each 50 ms; none when nothing is told."""
    async with (
        two_nodes(database_url, redis_url) as (writer, _),
        redis.Redis.from_url(redis_url) as client,
    ):
        await client.config_resetstat()
        began_at = asyncio.get_running_loop().time()
        for _ in range(1_000):
            writer.tell()
            await asyncio.sleep(0.001)
        took = asyncio.get_running_loop().time() - began_at
        await asyncio.sleep(0.2)

        async def published():
            found = await client.info("commandstats")
            return found.get("cmdstat_publish", {}).get("calls", 0)

        count = await published()
        sys.stdout.write(f"{count} hints for 1,000 tellings\n")
        assert 5 <= count <= took / PAUSE_SECONDS + 2
        await asyncio.sleep(0.3)
        assert await published() == count


async def test_only_what_changes_the_feed_is_hinted_at(database_url, redis_url):
    """A write that changed nothing tells nobody; nor does a report that brings no news."""
    async with two_nodes(database_url, redis_url) as (writer, _):
        told = []
        writer.tell = lambda: told.append(1)
        deal_id = await writer.write()
        assert told == [1]
        await writer.store.commit([write_of(deal_id)])
        assert told == [1]
        leases = PostgresLeases(writer.database, patience_seconds={}, told=lambda: told.append(2))
        await _register(writer.database)
        status = LinkStatus(
            phase=Phase.LIVE, reason="Live", message="", observed_generation=1, since=START
        )
        await leases.report(FENCE, status)
        await leases.report(FENCE, status)
        assert told == [1, 2]


async def test_our_own_word_wakes_our_feed_once(database_url, redis_url):
    """What Redis brings back of our own hints costs no look."""
    async with two_nodes(database_url, redis_url) as (writer, listener):
        await asyncio.sleep(0.2)
        writer.feed.wake.clear()
        listener.feed.wake.clear()
        heard = []
        writer.relay._wake = lambda: heard.append("writer")
        listener.relay._wake = lambda: heard.append("listener")
        writer.tell()
        await asyncio.sleep(0.3)
        assert heard == ["writer", "listener"]


async def _register(database):
    """Register the account of the fence, as a report needs it."""
    async with database.statement() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO brokerd.accounts (account_id, link_id, user_id, platform, login, server,"
            " currency, token, metaapi_account_id, region, desired, priority)"
            " OVERRIDING SYSTEM VALUE"
            " VALUES (1, 'l-1', 'u-1', 'mt5', '1', 's', 'USD', 't', 'a', 'r', 'live', 'normal')"
        )
