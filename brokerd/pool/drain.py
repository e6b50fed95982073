"""Runs a node's services until it is told to stop, and lets it drain before they end."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Service(Protocol):
    """Something that runs as long as the node does."""

    name: str

    async def run(self) -> None:
        """Run until cancelled or told to end; raises only if the process should die."""


class Orders:
    """What the process is told: the first SIGTERM or SIGINT drains, a second one cuts.

    `is_recycling` when nobody told it and it drains to be started afresh.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.cut = asyncio.Event()
        self.is_recycling = False

    def listen(self) -> None:
        """Take the signals of the running loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told)

    def recycle(self) -> None:
        """Drain, and end so that whoever started us does it again."""
        if not self.stop.is_set():
            self.is_recycling = True
            self.stop.set()

    def _told(self) -> None:
        (self.cut if self.stop.is_set() else self.stop).set()


async def serve(
    services: Sequence[Service],
    *,
    orders: Orders,
    announce: Callable[[], Awaitable[None]],
    drain: Callable[[], Awaitable[None]],
) -> None:
    """Run services until the first order, then `drain`, which the second order cuts short.

    `announce` runs beside them, to say when the node is ready. Raises (in a group) what a service
    died of: systemd starts us again.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each.run(), name=each.name) for each in services]
        tasks.append(group.create_task(_run(announce), name="announce"))
        await orders.stop.wait()
        drainer = group.create_task(_run(drain), name="drain")
        cutter = group.create_task(_run(orders.cut.wait), name="cut")
        await asyncio.wait({drainer, cutter}, return_when=asyncio.FIRST_COMPLETED)
        if not drainer.done():
            log.warning("app.cut")
        for task in (drainer, cutter, *reversed(tasks)):
            task.cancel()
    log.info("app.stopped")


async def _run(call: Callable[[], Awaitable[object]]) -> None:
    await call()
