"""A node past its budget calls for its own end; on virtual time."""

import asyncio
from random import Random
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokerd.clock import SystemClock
from brokerd.config.settings import HealthSettings
from brokerd.health.recycle import Recycler, RecyclerPorts, Usage, why_spent
from brokerd.pool.drain import Orders
from brokerd.telemetry import RECYCLE_REASONS, Metrics

SETTINGS = HealthSettings(max_connections_made=10, max_tasks=100, max_resident_mb=4096)
WITHIN = {"connections_made": 10, "tasks": 100, "resident_bytes": 4096 * 1024 * 1024}


@pytest.mark.parametrize(
    ("field", "reason"),
    [("connections_made", "connections"), ("tasks", "tasks"), ("resident_bytes", "memory")],
)
def test_one_spent_budget_is_enough(field: str, reason: str) -> None:
    """At its limit it is not spent yet."""
    assert why_spent(Usage(**WITHIN), settings=SETTINGS) is None
    assert why_spent(Usage(**{**WITHIN, field: WITHIN[field] + 1}), settings=SETTINGS) == reason
    assert reason in RECYCLE_REASONS


class Node:
    """A node that makes connections as it is told."""

    def __init__(self) -> None:
        self.connections = 0
        self.tended = 0
        self.orders = Orders()
        self.metrics = Metrics(CollectorRegistry())
        self.recycler = Recycler(
            tend=self._tend,
            connections_made=lambda: self.connections,
            recycle=self.orders.recycle,
            ports=RecyclerPorts(clock=SystemClock(), random=Random(1), metrics=self.metrics),
            settings=SETTINGS,
        )

    async def _tend(self) -> None:
        self.tended += 1

    def value(self, name: str, **labels: str) -> float | None:
        """Return what a metric shows."""
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.mark.looptime
async def test_a_spent_node_drains_within_the_spread() -> None:
    """It says so, goes on for a random time, and calls once; the stream is tended to the end."""
    node = Node()
    running = asyncio.ensure_future(node.recycler.run())
    await asyncio.sleep(60)
    assert node.tended >= 12
    assert not node.orders.stop.is_set()
    node.connections = 11
    began = asyncio.get_running_loop().time()
    with capture_logs() as logs:
        await running
    took = asyncio.get_running_loop().time() - began
    assert took <= SETTINGS.recycle_spread_seconds + 10
    (entry,) = logs
    assert (entry["event"], entry["reason"]) == ("app.recycle_wanted", "connections")
    assert entry["delay_seconds"] - 5 <= took <= entry["delay_seconds"] + 10
    assert node.orders.is_recycling
    assert node.value("brokerd_node_recycle_wanted", reason="connections") == 1
    assert node.value("brokerd_node_recycle_wanted", reason="memory") == 0
    assert node.value("brokerd_node_tasks") is not None
    assert node.tended > took / 6


@pytest.mark.looptime
async def test_a_peak_that_passes_is_forgotten() -> None:
    """What has come down again by then was no leak."""
    node = Node()
    running = asyncio.ensure_future(node.recycler.run())
    node.connections = 11
    await asyncio.sleep(20)
    assert node.value("brokerd_node_recycle_wanted", reason="connections") == 1
    node.connections = 5
    await asyncio.sleep(3_600)
    assert node.value("brokerd_node_recycle_wanted", reason="connections") == 0
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})


async def test_a_node_that_was_told_to_stop_does_not_start_afresh() -> None:
    """SIGTERM came first: the process ends as it was told."""
    orders: Any = Orders()
    orders.stop.set()
    orders.recycle()
    assert not orders.is_recycling
