"""Runs a node until it is told to stop, and drains it in order: the one way in."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress

import structlog
import uvloop

from brokerd.api.readiness import READY
from brokerd.app.node import open_node
from brokerd.app.parts import Node
from brokerd.config.settings import Settings
from brokerd.errors import BrokerdError, StoreUnavailable, leaves
from brokerd.health.notify import Notifier
from brokerd.logs import logging_aside
from brokerd.pool.drain import Orders, Service, serve

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FLUSH_SECONDS = 10.0
"""What the last deals may take to become durable once the links have drained."""
STREAM_CLOSE_SECONDS = 3.0
EXIT_FAILED = 1
EXIT_RECYCLE = 75
"""EX_TEMPFAIL: drained, with nothing wrong, to be started afresh; the unit knows it."""


def run(settings: Settings) -> int:
    """Run a node until SIGTERM; return the process's exit code. Raises `ConfigInvalid`."""
    with logging_aside(level=settings.log.level):
        return _run_to_the_end(settings)


def _run_to_the_end(settings: Settings) -> int:
    orders = Orders()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_run(settings, orders))
        except ExceptionGroup as group:
            failures = list(leaves(group))
            if not all(isinstance(failure, BrokerdError) for failure in failures):
                raise
            log.error("app.failed", problems=[str(failure) for failure in failures])  # noqa: TRY400
            return EXIT_FAILED
    return EXIT_RECYCLE if orders.is_recycling else 0


async def _run(settings: Settings, orders: Orders) -> None:
    orders.listen()
    notifier = Notifier(environ=os.environ, pid=os.getpid())
    async with open_node(settings, notifier=notifier, recycle=orders.recycle) as node:
        try:
            await serve(
                _services(node),
                orders=orders,
                announce=lambda: _announce(node),
                drain=lambda: _drain(node),
            )
        finally:
            # also after a failure: Engine.IO's tasks outlive their cancelling, and the process them
            with suppress(TimeoutError):
                async with asyncio.timeout(STREAM_CLOSE_SECONDS):
                    await node.stream.close()


def _services(node: Node) -> Sequence[Service]:
    return (
        node.writer,
        node.membership.heartbeat,
        node.manager,
        node.operations,
        node.api,
        node.watchdog,
        node.feed,
        *node.hints,
        *node.upkeep,
    )


async def _announce(node: Node) -> None:
    """Tell the world once the first plan was made."""
    await node.manager.first_plan.wait()
    node.readiness.enter(READY)
    node.notifier.ready()
    log.info("app.ready", incarnation=node.membership.incarnation, url=node.api.url)


async def _drain(node: Node) -> None:
    """Stop intake, flush, release, say farewell; the API answers to the last."""
    node.readiness.enter("draining")
    node.notifier.stopping()
    log.info("app.draining", incarnation=node.membership.incarnation)
    await node.manager.drain()
    try:
        async with asyncio.timeout(FLUSH_SECONDS):
            await node.writer.drain()
    except TimeoutError:
        log.warning("app.flush_timed_out", limit_seconds=FLUSH_SECONDS)
    with suppress(StoreUnavailable):  # then others bury us after a lease of silence
        await node.membership.nodes.retire(node.membership.incarnation)
    node.feed.stop()  # an open stream would keep the API from stopping
    node.api.stop()
