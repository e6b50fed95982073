"""A client of Redis under cancellation, swept over every suspension, against a real Valkey."""

import asyncio

from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import RedisSettings, Secret
from brokerd.store.redis import open_redis
from brokerd.telemetry import Metrics

SUSPENSIONS = 60
"""More than a first call makes, which dials."""


async def test_no_cancellation_of_a_call_is_lost(redis_url):
    """On Python 3.11 asyncio.wait_for may drop one: a service that calls in a loop never ended."""
    opening = open_redis(
        Secret(redis_url),
        settings=RedisSettings(),
        clock=SystemClock(),
        metrics=Metrics(CollectorRegistry()),
    )
    async with opening as effort:

        async def publish_for_ever():
            while True:
                await effort.call(lambda client: client.publish("told", b"x"))

        for steps in range(SUSPENSIONS):
            task = asyncio.create_task(publish_for_ever())
            for _ in range(steps):
                await asyncio.sleep(0)
            cancellations = 0
            while not task.done():
                task.cancel()
                cancellations += 1
                await asyncio.wait({task}, timeout=1)
            assert cancellations == 1, f"one was lost after {steps} turns of the loop"
