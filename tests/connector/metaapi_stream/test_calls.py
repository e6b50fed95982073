"""SDK awaits are waited for with a limit, given up, never cancelled, counted and bounded."""

import asyncio

import pytest

from brokerd.connector.metaapi_stream.calls import Calls
from brokerd.errors import RemoteUnavailable, TimedOut
from brokerd.telemetry import Metrics


def abandoned(metrics: Metrics) -> float:
    """Return the metric's value."""
    return metrics.registry.get_sample_value("brokerd_stream_abandoned_calls_total") or 0.0


async def test_what_ends_in_time_is_returned(metrics: Metrics) -> None:
    """A result is a result, and nothing is kept."""
    calls = Calls(metrics=metrics)
    task = calls.start(asyncio.sleep(0, "done"), name="quick")
    assert await calls.wait(task, limit_seconds=1) == "done"
    assert repr(calls) == "<Calls 0 running, 0 abandoned>"


async def test_what_fails_raises_its_own_error(metrics: Metrics) -> None:
    """The waiter sees what the SDK raised."""
    calls = Calls(metrics=metrics)

    async def fail() -> None:
        raise KeyError("vint-hill")

    with pytest.raises(KeyError, match="vint-hill"):
        await calls.wait(calls.start(fail(), name="failing"), limit_seconds=1)


async def test_what_hangs_is_given_up_and_runs_on(metrics: Metrics) -> None:
    """The wait ends with a name and a limit; the await ends when it likes, uncancelled."""
    calls = Calls(metrics=metrics)
    release = asyncio.Event()
    task = calls.start(release.wait(), name="hanging")
    with pytest.raises(TimedOut, match=r"hanging did not end within 0\.01 s"):
        await calls.wait(task, limit_seconds=0.01)
    assert (calls.abandoned, abandoned(metrics)) == (1, 1)
    release.set()
    assert await task is True
    await asyncio.sleep(0)
    assert repr(calls) == "<Calls 0 running, 0 abandoned>"


async def test_a_cancelled_waiter_cancels_nothing(metrics: Metrics) -> None:
    """The await goes on, counted as given up."""
    calls = Calls(metrics=metrics)
    release = asyncio.Event()
    task = calls.start(release.wait(), name="hanging")
    waiter = asyncio.ensure_future(calls.wait(task, limit_seconds=10))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert not task.done()
    assert calls.abandoned == 1
    release.set()
    assert await task is True


async def test_too_many_hanging_awaits_leave_no_room(metrics: Metrics) -> None:
    """The bound holds until one of them ends."""
    calls = Calls(metrics=metrics, max_abandoned=2)
    release = asyncio.Event()
    for _ in range(2):
        calls.check_room()
        with pytest.raises(TimedOut):
            await calls.wait(calls.start(release.wait(), name="hanging"), limit_seconds=0)
    with pytest.raises(RemoteUnavailable, match="2 calls"):
        calls.check_room()
    release.set()
    await asyncio.sleep(0.01)
    calls.check_room()


async def test_after_the_end_nothing_runs(metrics: Metrics) -> None:
    """A client that is thrown away opens no socket again, whatever its sockets' ends set off."""
    calls, ran = Calls(metrics=metrics), []

    async def call() -> None:
        ran.append(1)

    calls.end()
    await asyncio.wait({calls.start(call(), name="late")})
    assert (ran, calls.running) == ([], frozenset())
