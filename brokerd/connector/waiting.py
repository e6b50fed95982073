"""How a session goes on through failures that pass."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from brokerd.connector.backoff import after_failure, hint_of
from brokerd.connector.ports import LinkPorts
from brokerd.domain import Backoff
from brokerd.errors import Transient

T = TypeVar("T")

TIMER_SECONDS = 0.001
"""The shortest wait: a timer may fire a rounding early, and what is due then would not be yet."""


async def persevere(
    attempt: Callable[[], Awaitable[T]], *, limit_seconds: float, ports: LinkPorts
) -> T:
    """Repeat an attempt through transient failures until the limit, with backoff between."""
    deadline = ports.clock.monotonic() + limit_seconds
    backoff = Backoff()
    while True:
        try:
            return await attempt()
        except Transient as failure:
            wait = after_failure(
                backoff,
                base_seconds=ports.settings.backoff_base_seconds,
                ceiling_seconds=limit_seconds / 4,
                hint_seconds=hint_of(failure),
                random=ports.random,
            )
            if ports.clock.monotonic() + wait.delay_seconds > deadline:
                raise
            backoff = wait.backoff
            await asyncio.sleep(wait.delay_seconds)
