"""How a session goes on through failures that pass."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from brokerd.connector.backoff import after_failure, hint_of
from brokerd.connector.ports import LinkPorts
from brokerd.domain import Backoff, LinkId
from brokerd.errors import Transient

T = TypeVar("T")

TIMER_SECONDS = 0.001
"""The shortest wait: a timer may fire a rounding early, and what is due then would not be yet."""


_TURN_LOOK_SECONDS = 1.0
"""How soon a link notices that others of its incident are back."""


async def await_turn(
    link_id: LinkId, *, ports: LinkPorts, is_up: bool, is_called_off: Callable[[], bool]
) -> None:
    """Wait until the incident a link is part of, if there is one, lets it come back."""
    while (  # noqa: ASYNC110  # a turn comes with time; there is no event to wait for
        not is_called_off() and (seconds := ports.incidents.turn(link_id, is_up=is_up)) > 0
    ):
        await asyncio.sleep(min(seconds, _TURN_LOOK_SECONDS))


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
