"""Redis as brokerd uses it: for what may be lost, never waited for, done without when it fails.

After a failure Redis is left alone for a moment, so that a Redis that hangs costs one short wait
now and then and not one per request. Failures are counted, and logged when they begin and end.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TypeVar

import psycopg
import redis.asyncio as redis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from brokerd.clock import Clock
from brokerd.config.settings import RedisSettings, Secret
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_T = TypeVar("_T")
_CONNECTIONS = 16
_PAUSE_SECONDS = 1.0
"""How long Redis is left alone after a failure, and between attempts to listen again."""

_LISTEN_SECONDS = 5.0
"""How long a listener waits for a word before it asks whether Redis is still there."""

_IO_ERRORS = (RedisError, OSError, TimeoutError)


def namespace_of(database: Secret) -> str:
    """Name what belongs to one database, so that two fleets may share a Redis.

    Nodes that reach the same database by different addresses merely share nothing.
    """
    parts = psycopg.conninfo.conninfo_to_dict(database.reveal())
    place = "\n".join(str(parts.get(name, "")) for name in ("host", "port", "dbname"))
    return sha256(place.encode()).hexdigest()[:16]


class BestEffort:
    """One Redis, every call bounded and none of them able to fail; made by `open_redis`."""

    def __init__(
        self, client: "redis.Redis", *, timeout_seconds: float, clock: Clock, metrics: Metrics
    ) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._metrics = metrics
        self._is_lost = False
        self._resume_at = float("-inf")

    async def call(self, command: Callable[["redis.Redis"], Awaitable[_T]]) -> _T | None:
        """Run one command; None when Redis failed, or is left alone."""
        if self._clock.monotonic() < self._resume_at:
            return None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = await command(self._client)
        except _IO_ERRORS as error:
            self.note_failure(error)
            return None
        self._note_success()
        return answer

    async def listen(self, channel: str, heard: Callable[[bytes], None]) -> None:
        """Call `heard` with every word on a channel, and with none when some may have been missed.

        Returns only when cancelled; comes back by itself when Redis does.
        """
        while True:
            try:
                await self._listen(channel, heard)
            except _IO_ERRORS as error:
                self.note_failure(error)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _listen(self, channel: str, heard: Callable[[bytes], None]) -> None:
        async with self._client.pubsub() as pubsub:
            async with asyncio.timeout(self._timeout_seconds):
                await pubsub.subscribe(channel)
            is_asked = False
            while True:
                word = await pubsub.get_message(timeout=_LISTEN_SECONDS)
                if word is None and is_asked:
                    raise TimeoutError("the subscription is silent")
                is_asked = word is None
                if is_asked:
                    async with asyncio.timeout(self._timeout_seconds):
                        await pubsub.ping()
                elif word is not None and word["type"] in {"subscribe", "message"}:
                    self._note_success()
                    heard(word["data"] if word["type"] == "message" else b"")

    def note_failure(self, error: Exception) -> None:
        """Count a failure, leave Redis alone for a moment, and say so the first time."""
        self._metrics.redis_failures.inc()
        self._resume_at = self._clock.monotonic() + _PAUSE_SECONDS
        if not self._is_lost:
            # the error's text may quote the URL, which may hold a password
            log.warning("redis.lost", problem=type(error).__name__)
        self._is_lost = True

    def _note_success(self) -> None:
        if self._is_lost:
            log.info("redis.recovered")
        self._is_lost = False


@asynccontextmanager
async def open_redis(
    url: Secret, *, settings: RedisSettings, clock: Clock, metrics: Metrics
) -> AsyncIterator[BestEffort]:
    """Open the client and close it at the end; does not wait for Redis to be there."""
    pool = redis.BlockingConnectionPool.from_url(
        url.reveal(),
        max_connections=_CONNECTIONS,
        timeout=settings.timeout_seconds,
        socket_connect_timeout=settings.timeout_seconds,
        # every call of ours is bounded; the client's own bound is a wait_for, which on Python 3.11
        # drops a cancellation that meets the end of its wait
        socket_timeout=None,
        retry=Retry(NoBackoff(), 0),
    )
    client = redis.Redis(connection_pool=pool)
    try:
        yield BestEffort(
            client, timeout_seconds=settings.timeout_seconds, clock=clock, metrics=metrics
        )
    finally:
        await client.aclose()
        await pool.aclose()
