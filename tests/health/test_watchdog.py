"""The watchdog speaks while work progresses, and measures the loop; on virtual time."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
from link_world import VirtualClock
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokerd.health.notify import Notifier
from brokerd.health.watchdog import STALL_LIMIT_SECONDS, Watchdog
from brokerd.telemetry import Metrics

pytestmark = pytest.mark.looptime(noop_cycles=0)


class LateClock(VirtualClock):
    """A clock on which everything takes a little longer."""

    def __init__(self):
        super().__init__()
        self.late_seconds = 0.0

    def monotonic(self):
        """Return the loop's time and what it is late."""
        self.late_seconds += 0.5
        return super().monotonic() + self.late_seconds


class Supervised:
    """A watchdog, the manager it reports to, and the pool it watches."""

    def __init__(self, socket_path, *, watchdog_seconds, clock):
        self.inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.inbox.bind(str(socket_path))
        self.inbox.setblocking(False)
        self.stalled_seconds = 0.0
        self.metrics = Metrics(CollectorRegistry())
        environ = {"NOTIFY_SOCKET": str(socket_path)}
        if watchdog_seconds:
            environ["WATCHDOG_USEC"] = str(int(watchdog_seconds * 1_000_000))
        self.watchdog = Watchdog(
            Notifier(environ=environ, pid=1),
            stalled_seconds=lambda: self.stalled_seconds,
            clock=clock,
            metrics=self.metrics,
        )

    def beats(self):
        """Return how many beats arrived since the last call."""
        count = 0
        while True:
            try:
                assert self.inbox.recv(100) == b"WATCHDOG=1"
            except BlockingIOError:
                return count
            count += 1


@asynccontextmanager
async def supervised(tmp_path, *, watchdog_seconds=30.0, clock=None):
    """Run a watchdog for the time of a test."""
    made = Supervised(
        tmp_path / "notify", watchdog_seconds=watchdog_seconds, clock=clock or VirtualClock()
    )
    with made.inbox:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(made.watchdog.run())
            yield made
            task.cancel()


@pytest.mark.parametrize(("watchdog_seconds", "beats"), [(30.0, 2), (0.5, 10), (None, 2)])
async def test_it_beats_in_time(tmp_path, watchdog_seconds, beats):
    """At least twice per watchdog period, and once a second when that is more."""
    async with supervised(tmp_path, watchdog_seconds=watchdog_seconds) as made:
        await asyncio.sleep(2.6)
        assert made.beats() == beats


async def test_it_falls_silent_while_the_pool_stands_still(tmp_path):
    """A pool that stalls is said once in the log, and not covered up; then it speaks again."""
    async with supervised(tmp_path) as made:
        made.stalled_seconds = STALL_LIMIT_SECONDS
        await asyncio.sleep(2.5)
        assert made.beats() == 2
        with capture_logs() as logs:
            made.stalled_seconds = STALL_LIMIT_SECONDS + 0.1
            await asyncio.sleep(60)
        assert made.beats() == 0
        assert [entry["event"] for entry in logs] == ["watchdog.stalled"]
        made.stalled_seconds = 0.0
        await asyncio.sleep(2)
        assert made.beats() == 2


async def test_it_measures_how_late_the_loop_is(tmp_path):
    """Each beat that comes late is observed with its lateness."""
    async with supervised(tmp_path, clock=LateClock()) as made:
        await asyncio.sleep(10.01)
        registry = made.metrics.registry
        count = registry.get_sample_value("brokerd_event_loop_lag_seconds_count")
        assert count == 10
        assert registry.get_sample_value("brokerd_event_loop_lag_seconds_sum") == 5.0
