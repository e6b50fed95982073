"""One session of the simulated MetaApi: what a link hears, and when.

There is no task behind it. What time brings (heartbeats, the return after an interruption) is
worked out when `receive` is called; what the broker does is queued as it happens.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache

from brokerd.clock import Clock
from brokerd.connector.ports import (
    BrokerStatus,
    Connected,
    DealSeen,
    Disconnected,
    Gap,
    StreamEvent,
    Synchronized,
)
from brokerd.domain import Deal
from brokerd.errors import LinkLost
from brokerd.sandbox import wire
from brokerd.sandbox.conditions import Conditions
from brokerd.sandbox.facts import ChangeKind, ProvisioningState, TruthDeal
from brokerd.sandbox.faults import FaultKind, Faults
from brokerd.sandbox.rules import ProvisioningRules
from brokerd.sandbox.trading import TradeServer
from brokerd.sandbox.truth import Change, TruthAccount

_UNIT = Decimal("0.00000001")
_TIMER_SLACK_SECONDS = 0.001
"""A timer may fire a rounding error early; without slack the wait would begin again for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSettings:
    """How fast the simulated service is."""

    rest_seconds: float = 0.02
    status_seconds: float = 10.0
    reconnect_seconds: float = 2.0
    stream_overlap_seconds: float = 60.0
    rules: ProvisioningRules = field(default_factory=lambda: ProvisioningRules(time_scale=1.0))


@dataclass(slots=True, kw_only=True)
class SimulatedNetwork:
    """What all sessions share with the service."""

    clock: Clock
    faults: Faults
    settings: SimulatedSettings
    conditions: Conditions
    is_down: bool = False


class SimulatedSession:
    """One open session; `left` is told when it is closed."""

    def __init__(
        self,
        network: SimulatedNetwork,
        *,
        account: TruthAccount,
        synced_through: datetime,
        left: Callable[["SimulatedSession"], None],
    ) -> None:
        self.account = account
        self._network = network
        self._synced_through = synced_through
        self._left = left
        self._events: deque[StreamEvent] = deque()
        self._woken = asyncio.Event()
        self._is_connected = False
        self._is_dead = False
        self._due = network.clock.monotonic()

    async def receive(self) -> Sequence[StreamEvent]:
        """Wait for at least one event, then return all that wait."""
        while True:
            self._woken.clear()
            self._advance()
            if self._events:
                events = tuple(self._events)
                self._events.clear()
                return events
            if self._is_dead:
                raise LinkLost("the simulated session broke")
            await self._wait(self._due - self._now())

    def acknowledge(self, through: datetime) -> None:
        """Note that the ledger is durable through that time."""
        self._synced_through = max(self._synced_through, through)

    async def close(self) -> None:
        """Leave."""
        self._is_dead = True
        self._left(self)

    def interrupt(self) -> None:
        """Lose the connection; it comes back after a while, and what happens meanwhile is lost."""
        if self._is_connected:
            self._is_connected = False
            self._tell(Disconnected())
        self._due = self._now() + self._network.settings.reconnect_seconds

    def kill(self) -> None:
        """Break for good."""
        self._is_dead = True
        self._woken.set()

    def changed(self, change: Change) -> None:
        """Take what became true of the account."""
        if change.kind is ChangeKind.CONNECTION:
            self._connection_changed()
        elif change.kind is ChangeKind.TRADED and self._is_streaming():
            for deal in change.deals:
                self._tell_deal(deal)

    def _connection_changed(self) -> None:
        if self._is_connected and not self._is_muted():
            if self.account.state is ProvisioningState.DEPLOYED:
                self._tell(BrokerStatus(is_connected=self.account.is_reachable))
            else:
                self.interrupt()
        self._woken.set()

    def _is_streaming(self) -> bool:
        is_up = self._is_connected and self.account.is_reachable
        return is_up and not self._is_muted()

    def _tell_deal(self, deal: TruthDeal) -> None:
        account_id, faults = self.account.metaapi_id, self._network.faults
        if faults.strike(FaultKind.LOSE_PACKETS, account_id=account_id) is not None:
            return
        is_doubled = faults.strike(FaultKind.DUPLICATE_PACKETS, account_id=account_id) is not None
        if deal.warp:
            self._tell(Gap(reason="unreadable_deal"))
            return
        for _ in range(1 + is_doubled):
            self._tell(DealSeen(deal=domain_deal(deal, server=self.account.server)))

    def _advance(self) -> None:
        """Do what time has brought since the last call."""
        now = self._now()
        if now < self._due - _TIMER_SLACK_SECONDS or self._is_dead:
            return
        if self._is_connected and self._is_away():
            self.interrupt()
            return
        settings = self._network.settings
        if self._is_connected:
            self._beat()
            self._due = now + settings.status_seconds
        elif self.account.is_reachable and not self._is_away():
            self._connect()
            self._due = now + settings.status_seconds
        else:
            self._due = now + settings.reconnect_seconds

    def _is_away(self) -> bool:
        network = self._network
        return network.is_down or self.account.spec.region in network.conditions.down_regions

    def _beat(self) -> None:
        account_id, faults = self.account.metaapi_id, self._network.faults
        is_stopped = faults.strike(FaultKind.STOP_STATUS, account_id=account_id) is not None
        if not is_stopped and not self._is_muted():
            self._tell(BrokerStatus(is_connected=self.account.is_reachable))

    def _connect(self) -> None:
        """Synchronize: replay from the acknowledged time less the overlap."""
        if self._is_muted():
            return
        self._is_connected = True
        overlap = timedelta(seconds=self._network.settings.stream_overlap_seconds)
        self._tell(Connected())
        self._tell(BrokerStatus(is_connected=True))
        for deal in self.account.deals(start=self._synced_through - overlap):
            self._tell_deal(deal)
        self._tell(Synchronized())

    def _is_muted(self) -> bool:
        account_id = self.account.metaapi_id
        return self._network.faults.strike(FaultKind.MUTE, account_id=account_id) is not None

    def _tell(self, event: StreamEvent) -> None:
        self._events.append(event)
        self._woken.set()

    def _now(self) -> float:
        return self._network.clock.monotonic()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._woken.wait()
        except TimeoutError:
            return


@lru_cache(maxsize=10_000)
def domain_deal(deal: TruthDeal, *, server: TradeServer) -> Deal:
    """Return the deal as a client reads it, without the detour over the wire's doubles.

    Kept, for pulls read a deal again and again: it is frozen, and no server changes its zone.
    """
    return Deal(
        deal_id=deal.deal_id,
        type=deal.type,
        entry=deal.entry,
        symbol=deal.symbol,
        volume=None if deal.volume is None else domain_amount(deal.volume),
        price=None if deal.price is None else domain_amount(deal.price),
        time=deal.time,
        broker_time=wire.broker_time(deal.time, utc_offset=server.utc_offset),
        profit=domain_amount(deal.profit),
        commission=domain_amount(deal.commission),
        swap=domain_amount(deal.swap),
        order_id=deal.order_id,
        position_id=deal.position_id,
        raw=wire.deal(deal, server=server).decode(),
    )


def domain_amount(exact: Decimal) -> Decimal:
    """Quantise to 8 decimals, in the form without trailing zeros that the wire's reader gives."""
    return Decimal(f"{exact.quantize(_UNIT):f}".rstrip("0").rstrip(".")) or Decimal(0)
