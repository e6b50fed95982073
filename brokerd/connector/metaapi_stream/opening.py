"""When a stream's socket may be opened: at the node's pace, slower after each failure."""

import asyncio
from random import Random

from brokerd.connector.governor.pace import Pace
from brokerd.connector.metaapi_stream.sdk import SocketRecord
from brokerd.telemetry import Metrics

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0


class SocketOpening:
    """Decides how long an attempt to open a socket waits.

    A socket that was open before is reopened by the SDK with a pause of its own, up to 30 s; the
    first connect has none (A6), so it gets ours.
    """

    def __init__(self, *, pace: Pace, random: Random, metrics: Metrics) -> None:
        self._pace = pace
        self._random = random
        self._metrics = metrics
        self._is_ended = False

    def is_first(self, instance: SocketRecord) -> bool:
        """Say whether the socket was never tried before."""
        return "brokerd_failures" not in instance

    async def turn(self, instance: SocketRecord) -> None:
        """Wait until the next attempt may be made; each call counts as one.

        After `end` no attempt is made: the SDK's loop around it stops for a cancellation alone.
        """
        failures = instance.get("brokerd_failures", 0)
        instance["brokerd_failures"] = failures + 1
        if failures and not instance["isReconnecting"]:
            await asyncio.sleep(pause_seconds(failures) * self._random.uniform(0.5, 1.0))
        await self._pace.turn()
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
