"""Two nodes over a real Valkey: what they share while it is there, and what they do without."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

from governing import LIMITLESS, fleet_of, new_governor
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokerd.clock import SystemClock
from brokerd.config.settings import RedisSettings, Secret
from brokerd.connector.governor.ports import Call, Service
from brokerd.connector.governor.redis import RedisPot
from brokerd.errors import Held
from brokerd.store.memory import MemoryState
from brokerd.store.redis import open_redis
from brokerd.telemetry import Metrics

LIMIT = 400
SETTINGS = replace(
    LIMITLESS, user_credits_per_second=LIMIT, call_credits=20, longest_wait_seconds=3.0
)
CALL = Call(service=Service.CLIENT, method="account_information", token="main", region="london")
SPAN = 0.8
"""Shorter than the limit's second by what a busy machine may take from the draw to the call."""


async def governors(url, stack, *, nodes=2):
    """Build nodes that believe in each other."""
    made = []
    for _ in range(nodes):
        clock, metrics = SystemClock(), Metrics(CollectorRegistry())
        effort = await stack.enter_async_context(
            open_redis(Secret(url), settings=RedisSettings(), clock=clock, metrics=metrics)
        )
        fleet = fleet_of(MemoryState(clock=clock))
        fleet.live_nodes = nodes
        pot = RedisPot(effort, namespace="test", clock=clock)
        made.append(
            new_governor(clock=clock, metrics=metrics, settings=SETTINGS, fleet=fleet, pot=pot)
        )
    return made


async def ask(governor, sent, *, seconds, who):
    """Ask without a pause for some seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        try:
            async with governor.passing(CALL):
                sent.append((loop.time(), who))
        except Held:
            await asyncio.sleep(0.05)


def most_in_a_span(sent):
    """Return the most credits that were spent in any span."""
    return max(sum(20 for at, _ in sent if begin <= at < begin + SPAN) for begin, _ in sent)


async def test_f55_losing_valkey_never_spends_more_and_only_makes_slower(valkey):
    """There, killed, back empty: never above the budget; with it, the busy node gets the pot too.

    Without it each has its even share, which nobody has to ask for.
    """
    sent = []
    async with AsyncExitStack() as stack:
        busy, idle = await governors(valkey.url, stack)
        with capture_logs() as logs:
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(ask(busy, sent, seconds=11, who="busy"))
                group.create_task(ask(idle, sent, seconds=2, who="idle"))
                loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
                await asyncio.sleep(6)
                valkey.kill()
                killed_at = loop.time()
                await asyncio.sleep(2.8)
                await valkey.start()
                started_at = loop.time()
    assert most_in_a_span(sent) <= LIMIT

    def calls(begin, end):
        return sum(who == "busy" and begin <= at < end for at, who in sent)

    # with the pot: its quarter and the pot's half, 15 calls a second and a slice; without: 5 calls
    assert calls(began + 2.5, killed_at) > 30
    assert 5 <= calls(killed_at + 0.5, started_at) <= 20
    events = [entry["event"] for entry in logs if entry["event"].startswith("governor.")]
    assert events == ["governor.pot_lost", "governor.pot_recovered"] * (len(events) // 2)
    assert len(events) in {2, 4}
    assert loop.time() - began < 20


async def test_without_anybody_at_the_address_the_share_is_served(tmp_path):
    """A Redis that never was: an even share, no failure."""
    sent = []
    async with AsyncExitStack() as stack:
        governor, _ = await governors(f"unix://{tmp_path}/nobody.sock", stack)
        await ask(governor, sent, seconds=1.5, who="busy")
    assert 4 <= len(sent) <= 11
