"""A governor for tests: without limits unless given, and with its waits in the test's hands."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from brokerd.clock import Clock
from brokerd.config.settings import GovernorSettings
from brokerd.connector.governor.fleet import Fleet
from brokerd.connector.governor.governor import CallPassage, Governor, GovernorPorts
from brokerd.connector.governor.memory import MemoryCensus
from brokerd.connector.governor.offset import ClockOffset
from brokerd.connector.governor.pace import Pace
from brokerd.connector.governor.ports import Call, Pot, Service, Socket, Turns
from brokerd.store.memory import MemoryState
from brokerd.telemetry import Metrics

LIMITLESS = GovernorSettings(
    user_credits_per_second=0,
    user_credits_per_minute=0,
    user_credits_per_hour=0,
    user_credits_per_six_hours=0,
    server_credits_per_second=0,
    account_credits_per_ten_seconds=0,
    provisioning_requests_per_minute=0,
    fleet_socket_opens_per_second=0,
)


class NoPace:
    """Everybody's turn is now."""

    async def turn(self) -> None:
        """Do not wait."""


class PacedSockets:
    """A `SocketGate` that keeps a node's pace and learns nothing."""

    def __init__(self, *, per_second: float) -> None:
        self._pace = Pace(per_second=per_second)

    async def socket_turn(self, socket: Socket) -> None:
        """Wait for the next turn."""
        del socket
        await self._pace.turn()

    def note_life(self, *, token: str, region: str) -> None:
        """Forget it."""

    def note_subscriptions(self, token: str, allowed: int) -> None:
        """Remember it."""
        self.subscriptions = {token: allowed}


class OpenGate:
    """A `Gate` that lets everything through and learns nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    @asynccontextmanager
    async def passing(self, call: Call) -> AsyncIterator[CallPassage]:
        """Let the call through."""
        yield CallPassage(call, offsets=dict.fromkeys(Service, ClockOffset()))

    def server_now(self, service: Service) -> datetime:
        """Return our own time."""
        del service
        return self._clock.now()


def fleet_of(state: MemoryState) -> Fleet:
    """Build what counts the nodes and accounts of a memory store."""
    return Fleet(MemoryCensus(state), node_count_seconds=5.0)


def new_governor(
    *,
    clock: Clock,
    metrics: Metrics,
    settings: GovernorSettings = LIMITLESS,
    fleet: Fleet | None = None,
    pot: Pot | None = None,
    pace: Turns | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Governor:
    """Build a governor of one node."""
    return Governor(
        settings,
        ports=GovernorPorts(
            fleet=fleet or fleet_of(MemoryState(clock=clock)),
            pot=pot,
            pace=pace or NoPace(),
            socket_pace=pace or NoPace(),
            clock=clock,
            sleep=sleep,
            metrics=metrics,
        ),
    )
