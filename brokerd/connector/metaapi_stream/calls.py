"""The one owner of tasks that run inside the SDK: they are waited for, given up, never cancelled.

Cancelling an SDK await leaves dead sockets behind and futures that nobody resolves (sdk.md A8, A12,
A13). So each such await runs in a task of its own; who waits for it waits with a limit; a task that
was given up is counted, kept until it ends by itself, and there may be only so many of them.
"""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

import structlog

from brokerd.errors import RemoteUnavailable, TimedOut
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MAX_ABANDONED = 100
"""With so many awaits hanging, the SDK is not worth another one."""

T = TypeVar("T")


class Calls:
    """Runs awaits of the SDK to their own end, whatever becomes of those who wait for them."""

    def __init__(self, *, metrics: Metrics, max_abandoned: int = MAX_ABANDONED) -> None:
        self._metrics = metrics
        self._max_abandoned = max_abandoned
        self._running: set[asyncio.Task[object]] = set()
        self._abandoned: set[asyncio.Task[object]] = set()
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Calls {len(self._running)} running, {len(self._abandoned)} abandoned>"

    @property
    def running(self) -> frozenset[asyncio.Task[object]]:
        """Return all that has not ended, abandoned or not."""
        return frozenset(self._running)

    @property
    def abandoned(self) -> int:
        """Return how many awaits were given up and have not ended."""
        return len(self._abandoned)

    def check_room(self) -> None:
        """Raise `RemoteUnavailable` when too many awaits were given up and still hang."""
        if len(self._abandoned) >= self._max_abandoned:
            raise RemoteUnavailable(f"{len(self._abandoned)} calls into the MetaApi SDK hang")

    def start(self, call: Coroutine[object, object, T], *, name: str) -> asyncio.Task[T]:
        """Run an await without waiting for it; its failure is logged, not raised."""
        task = asyncio.create_task(call, name=name)  # noqa: TID251  # what this module is for
        self._running.add(task)
        task.add_done_callback(self._end)
        if self._is_over:
            task.cancel()  # before its first step: nothing of it runs
        return task

    def end(self) -> None:
        """Run nothing that is started from now on: a client that is thrown away opens no socket."""
        self._is_over = True

    async def wait(self, task: asyncio.Task[T], *, limit_seconds: float) -> T:
        """Wait for a started await; raises `TimedOut` when it was given up, else what it raised.

        Cancelling the wait gives the task up too, and lets it run on.
        """
        try:
            await asyncio.wait({task}, timeout=limit_seconds)
        finally:
            if not task.done():
                self._abandon(task)
        if not task.done():
            raise TimedOut(f"{task.get_name()} did not end within {limit_seconds:g} s")
        return task.result()

    def _abandon(self, task: asyncio.Task[T]) -> None:
        if task not in self._abandoned:
            self._abandoned.add(task)
            self._metrics.abandoned_calls.inc()
            log.debug("sdk.call_abandoned", call=task.get_name(), abandoned=len(self._abandoned))

    def _end(self, task: asyncio.Task[T]) -> None:
        self._running.discard(task)
        self._abandoned.discard(task)
        if not task.cancelled() and task.exception() is not None:
            problem = type(task.exception()).__name__  # its text may hold a URL with a token
            log.debug("sdk.call_failed", call=task.get_name(), problem=problem)
