"""Whether this node may believe that its leases are still its own.

Theory. Others may take our links after `lease_seconds` of silence, counted by the database. We
count too, from the moment a confirmed heartbeat was *sent* (when it arrived we cannot know) and
on a clock that runs through suspend, and stop trusting our leases earlier, after `freeze_seconds`.
A frozen node keeps its sessions, because Postgres usually comes back before anybody else takes
over. After `hold_seconds` it gives them up. The same doubt applies to others: a node that was
cut off itself sees silence everywhere, so it declares nobody dead before it has heartbeats of its
own confirmed, without a gap, for a whole lease time.
"""

import asyncio

import structlog

from brokerd.clock import Clock
from brokerd.config.settings import PoolSettings
from brokerd.domain import Incarnation
from brokerd.errors import StoreUnavailable
from brokerd.pool.ports import Nodes
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Heartbeat:
    """Says that we live, and buries who does not.

    `registered_at` is the boottime at which the registration was sent: it was our first heartbeat.
    """

    name = "heartbeat"

    def __init__(
        self,
        incarnation: Incarnation,
        *,
        nodes: Nodes,
        settings: PoolSettings,
        clock: Clock,
        registered_at: float,
    ) -> None:
        self._incarnation = incarnation
        self._nodes = nodes
        self._settings = settings
        self._clock = clock
        self._confirmed_at = registered_at
        self._unbroken_since = registered_at
        self._is_failing = False

    @property
    def age_seconds(self) -> float:
        """Return how long ago the last confirmed heartbeat was sent."""
        return self._clock.boottime() - self._confirmed_at

    @property
    def is_frozen(self) -> bool:
        """Say whether nothing new may be written, spent or opened."""
        return self.age_seconds > self._settings.freeze_seconds

    @property
    def is_given_up(self) -> bool:
        """Say whether even the open sessions have to go."""
        return self.age_seconds > self._settings.freeze_seconds + self._settings.hold_seconds

    def show(self, metrics: Metrics) -> None:
        """Let every scrape read the age as it is then."""
        metrics.heartbeat_age.set_function(lambda: self.age_seconds)

    async def run(self) -> None:
        """Beat until cancelled; raises `Fenced` when our incarnation was closed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_beating(), name="heartbeat.beat")
            group.create_task(self._keep_burying(), name="heartbeat.bury")

    async def _keep_beating(self) -> None:
        while True:
            next_at = self._clock.monotonic() + self._settings.heartbeat_seconds
            await self._beat()
            await asyncio.sleep(max(0.0, next_at - self._clock.monotonic()))

    async def _beat(self) -> None:
        sent_at = self._clock.boottime()
        was_frozen = self.is_frozen
        try:
            # An answer that takes longer confirms nothing: we would be frozen by then.
            async with asyncio.timeout(self._settings.freeze_seconds):
                await self._nodes.heartbeat(self._incarnation)
        except (StoreUnavailable, TimeoutError) as failure:
            if not self._is_failing:
                log.warning("heartbeat.missed", problem=str(failure), code=_code(failure))
            self._is_failing = True
            return
        if was_frozen or self.is_frozen:
            self._unbroken_since = sent_at
        self._confirmed_at = sent_at
        if self._is_failing:
            log.info("heartbeat.recovered")
        self._is_failing = False

    async def _keep_burying(self) -> None:
        """Apart from beating: a burial may wait behind claims, a heartbeat must not."""
        while True:
            await asyncio.sleep(self._settings.heartbeat_seconds)
            if not self._may_bury():
                continue
            try:
                buried = await self._nodes.bury(
                    self._incarnation, silent_seconds=self._settings.lease_seconds
                )
            except StoreUnavailable as failure:
                log.debug("heartbeat.burial_delayed", problem=str(failure))
                continue
            if buried:
                log.warning("heartbeat.buried_nodes", nodes=buried)

    def _may_bury(self) -> bool:
        proven_seconds = self._confirmed_at - self._unbroken_since
        return not self.is_frozen and proven_seconds >= self._settings.lease_seconds


def _code(failure: StoreUnavailable | TimeoutError) -> str:
    return failure.code if isinstance(failure, StoreUnavailable) else "timed_out"
