"""One suite for every `Pot`: what is drawn by all is never more than what is in it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import redis.asyncio as redis
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import RedisSettings, Secret
from brokerd.connector.governor.buckets import Limit
from brokerd.connector.governor.memory import MemoryPot
from brokerd.connector.governor.ports import Pot
from brokerd.connector.governor.redis import KEPT_SLICES, RedisPot
from brokerd.store.redis import open_redis
from brokerd.telemetry import Metrics

SECOND = Limit(period_seconds=1.0, units=100.0)
SLOW = Limit(period_seconds=1.5, units=150.0)
LONG = Limit(period_seconds=4.0, units=100.0)
NAME = "user:main"


async def redis_pot(url: str, stack: AsyncExitStack, *, namespace: str = "test") -> RedisPot:
    """Open a node's own way to the pot."""
    effort = await stack.enter_async_context(
        open_redis(
            Secret(url),
            settings=RedisSettings(timeout_seconds=2.0),
            clock=SystemClock(),
            metrics=Metrics(CollectorRegistry()),
        )
    )
    return RedisPot(effort, namespace=namespace, clock=SystemClock())


@pytest.fixture(params=["memory", "redis"])
async def pots(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[tuple[Pot, Pot]]:
    """Give two nodes' ways to one pot."""
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            pot = MemoryPot(SystemClock())
            yield pot, pot
        else:
            yield await redis_pot(redis_url, stack), await redis_pot(redis_url, stack)


async def begin(pot: Pot, *limits: Limit) -> None:
    """Let the pot have counted for its longest period."""
    drawn = await pot.draw(NAME, limits=limits, cost=1)
    assert drawn is not None
    assert drawn.wait_seconds == pytest.approx(max(lim.period_seconds for lim in limits), abs=0.2)
    await asyncio.sleep(drawn.wait_seconds + 0.02)


async def test_a_new_pot_opens_after_a_period(pots: tuple[Pot, Pot]) -> None:
    """What was drawn before it began to count is not known, so it waits."""
    await begin(pots[0], SECOND)
    drawn = await pots[1].draw(NAME, limits=[SECOND], cost=100)
    assert drawn is not None
    assert drawn.wait_seconds == 0


async def test_all_together_draw_what_is_in_it(pots: tuple[Pot, Pot]) -> None:
    """Fifty draws of ten at once by two nodes: ten are served, the others are told when."""
    await begin(pots[0], LONG)
    draws = await asyncio.gather(
        *(pots[n % 2].draw(NAME, limits=[LONG], cost=10) for n in range(50))
    )
    served = [drawn for drawn in draws if drawn is not None and drawn.wait_seconds == 0]
    assert 1 <= len(served) <= 10
    again = [await pots[n % 2].draw(NAME, limits=[LONG], cost=10) for n in range(12)]
    served += [drawn for drawn in again if drawn is not None and drawn.wait_seconds == 0]
    assert len(served) == 10
    waits = [drawn.wait_seconds for drawn in again if drawn is not None and drawn.wait_seconds > 0]
    assert all(0 < wait <= 4.4 for wait in waits)


async def test_a_draw_is_whole_or_not_at_all(pots: tuple[Pot, Pot]) -> None:
    """What one window refuses is not taken from the other."""
    pot = pots[0]
    await begin(pot, SECOND, SLOW)
    assert (await pot.draw(NAME, limits=[SECOND, SLOW], cost=100)).wait_seconds == 0
    await asyncio.sleep(1.15)
    assert (await pot.draw(NAME, limits=[SECOND, SLOW], cost=60)).wait_seconds > 0
    assert (await pot.draw(NAME, limits=[SECOND], cost=100)).wait_seconds == 0


async def test_what_is_given_back_can_be_drawn_again(pots: tuple[Pot, Pot]) -> None:
    """By whomever."""
    await begin(pots[0], SECOND)
    drawn = await pots[0].draw(NAME, limits=[SECOND], cost=100)
    assert (await pots[1].draw(NAME, limits=[SECOND], cost=1)).wait_seconds > 0
    await pots[0].give_back(drawn, units=40)
    assert (await pots[1].draw(NAME, limits=[SECOND], cost=40)).wait_seconds == 0
    assert (await pots[1].draw(NAME, limits=[SECOND], cost=1)).wait_seconds > 0


async def test_scopes_have_pots_of_their_own(pots: tuple[Pot, Pot]) -> None:
    """One token's draws leave the other's alone."""
    await begin(pots[0], SECOND)
    await pots[0].draw(NAME, limits=[SECOND], cost=100)
    other = await pots[0].draw("user:other", limits=[SECOND], cost=1)
    assert other.wait_seconds == pytest.approx(1.0, abs=0.1)  # only because it is new


async def test_a_probe_is_one_nodes_for_its_interval(pots: tuple[Pot, Pot]) -> None:
    """The other is told when; forgotten, it is free at once."""
    one, two = pots
    assert await one.take_probe("unauthorized:user:main", every_seconds=0.4) == 0
    wait = await two.take_probe("unauthorized:user:main", every_seconds=0.4)
    assert 0 < wait <= 0.4
    await asyncio.sleep(wait + 0.05)
    assert await two.take_probe("unauthorized:user:main", every_seconds=60.0) == 0
    await two.forget_probe("unauthorized:user:main")
    assert await one.take_probe("unauthorized:user:main", every_seconds=60.0) == 0


async def test_fleets_that_share_a_redis_share_no_pot(redis_url: str) -> None:
    """The namespace keeps them apart."""
    async with AsyncExitStack() as stack:
        ours = await redis_pot(redis_url, stack)
        theirs = await redis_pot(redis_url, stack, namespace="other")
        await begin(ours, SECOND)
        assert await ours.take_probe("p", every_seconds=60.0) == 0
        assert (await theirs.draw(NAME, limits=[SECOND], cost=1)).wait_seconds > 0.8
        assert await theirs.take_probe("p", every_seconds=60.0) == 0


async def test_a_flushed_pot_is_closed_again(redis_url: str) -> None:
    """And what is given back to it then is not spent twice."""
    async with AsyncExitStack() as stack:
        pot = await redis_pot(redis_url, stack)
        await begin(pot, SECOND)
        drawn = await pot.draw(NAME, limits=[SECOND], cost=100)
        async with redis.Redis.from_url(redis_url) as client:
            await client.flushall()
        await pot.give_back(drawn, units=100)
        await begin(pot, SECOND)
        assert (await pot.draw(NAME, limits=[SECOND], cost=100)).wait_seconds == 0
        assert (await pot.draw(NAME, limits=[SECOND], cost=1)).wait_seconds > 0


@pytest.mark.parametrize("rubbish", [{"since": "x"}, {"7.5": "1"}, {"since": "1", "a": "b"}])
async def test_rubbish_is_no_pot(redis_url: str, rubbish: dict[str, str]) -> None:
    """What cannot be read is as good as away, and what is drawn nowhere."""
    async with AsyncExitStack() as stack:
        pot = await redis_pot(redis_url, stack)
        async with redis.Redis.from_url(redis_url) as client:
            await client.hset(f"brokerd:test:pot:{NAME}:1", mapping=rubbish)
        assert await pot.draw(NAME, limits=[SECOND], cost=1) is None


async def test_old_slices_are_swept(redis_url: str) -> None:
    """A hash holds no more than two sweeps' worth of slices, and goes when nobody draws."""
    fast = Limit(period_seconds=0.01, units=1_000.0)
    async with AsyncExitStack() as stack:
        pot = await redis_pot(redis_url, stack)
        for _ in range(400):
            await pot.draw(NAME, limits=[fast], cost=1)
            await asyncio.sleep(0.001)
        async with redis.Redis.from_url(redis_url) as client:
            assert await client.hlen(f"brokerd:test:pot:{NAME}:0.01") <= 3 * KEPT_SLICES
            assert await client.ttl(f"brokerd:test:pot:{NAME}:0.01") > 86_400
