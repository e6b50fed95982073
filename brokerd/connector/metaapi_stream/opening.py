"""When a stream's socket may be opened: when the governor lets it, slower after each failure."""

import asyncio
from collections.abc import Callable
from random import Random

from brokerd.clock import Clock
from brokerd.connector.governor.ports import Socket, SocketGate
from brokerd.connector.metaapi_stream.wedge import SocketLife, SocketState
from brokerd.telemetry import Metrics

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0


class SocketOpening:
    """Decides how long an attempt to open a socket waits.

    A socket that was open before is reopened by the SDK with a pause of its own, up to 30 s; the
    first connect has none (A6), so it gets ours.
    """

    def __init__(self, *, gate: SocketGate, random: Random, metrics: Metrics) -> None:
        self._gate = gate
        self._random = random
        self._metrics = metrics
        self._is_ended = False

    async def turn(self, life: SocketLife, socket: Socket, *, is_reconnect: bool) -> None:
        """Wait until the next attempt may be made; each call counts as one.

        After `end` no attempt is made: the SDK's loop around it stops for a cancellation alone.
        """
        life.attempts += 1
        if life.attempts > 1 and not is_reconnect:
            await asyncio.sleep(pause_seconds(life.attempts - 1) * self._random.uniform(0.5, 1.0))
        await self._gate.socket_turn(socket)
        if self._is_ended:
            raise asyncio.CancelledError
        self._metrics.socket_opens.inc()

    def end(self) -> None:
        """Refuse every later attempt."""
        self._is_ended = True


def pause_seconds(failures: int) -> float:
    """Return the pause after so many failures in a row: doubled, up to a ceiling."""
    doublings = min(failures - 1, 10)
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**doublings)


class AttemptNotes:
    """Notes in a socket's life what its attempts come to; `refuse` hears of a refused token."""

    def __init__(self, life: SocketLife, *, clock: Clock, refuse: Callable[[], None]) -> None:
        self._life = life
        self._clock = clock
        self._refuse = refuse

    def began(self) -> None:
        """Note that an attempt is under way."""
        self._enter(SocketState.CONNECTING)

    def opened(self) -> None:
        """Note that it succeeded."""
        self._life.broken_attempts = 0
        self._enter(SocketState.UP)

    def failed(self, *, is_broken: bool) -> None:
        """Note that it failed; only failures before the network count against the SDK."""
        self._life.broken_attempts = self._life.broken_attempts + 1 if is_broken else 0
        self._enter(SocketState.FAILED)

    def refused(self) -> None:
        """Pass on that the token is bad."""
        self._refuse()

    def _enter(self, state: SocketState) -> None:
        self._life.enter(state, now=self._clock.monotonic())
