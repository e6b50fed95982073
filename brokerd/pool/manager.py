"""Keeps this node's slots filled from the queue, and lets its links go in order.

Theory. One loop, level-triggered: each round reads what is (slots, specs, queue), asks `plan` what
to do, and does it; a hint only makes the next round come earlier. What the loop knows of its
leases is exact while every answer of Postgres arrives. A claim whose answer was lost, and a freeze,
leave doubt; then the first thing of the next good round is to read which leases are ours, to run
those that nobody runs and to cut those that are somebody else's.
"""

import asyncio
from contextlib import suppress

import structlog

from brokerd.config.settings import PoolSettings
from brokerd.domain import Incarnation
from brokerd.errors import StoreUnavailable
from brokerd.pool.heartbeat import Heartbeat
from brokerd.pool.plan import Situation, plan
from brokerd.pool.slots import SlotPorts, Slots
from brokerd.queue.ports import Queue, QueueDepth

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

COUNT_SECONDS = 1.0
"""The queue is counted no more often; a count costs more the longer the queue is."""
HINT_PAUSE_SECONDS = 0.05
"""Hints that arrive together are served by one round."""
MAX_ERRANDS = 4
"""Errands that a node carries out at once, also beyond `pool.max_links`: they hold no session."""
CUT_SECONDS = 5.0
"""What links that are cut may take to close their sessions."""


class Manager:
    """The one owner of this node's links.

    Set `wake` on a hint that something changed. `first_plan` is set once a round succeeded.
    `max_links` may be lowered while running: the surplus is sent back to the queue.
    """

    name = "pool"

    def __init__(
        self,
        incarnation: Incarnation,
        *,
        queue: Queue,
        heartbeat: Heartbeat,
        ports: SlotPorts,
        settings: PoolSettings,
    ) -> None:
        self.max_links = settings.max_links
        self.wake = asyncio.Event()
        self.first_plan = asyncio.Event()
        self._incarnation = incarnation
        self._queue = queue
        self._heartbeat = heartbeat
        self._ports = ports
        self._settings = settings
        self._slots: Slots | None = None
        self._ended = asyncio.Event()
        self._is_draining = False
        self._is_unsure = False  # whether our slots are exactly our leases
        self._is_store_away = False
        self._depth = QueueDepth(ready=0, in_backoff=0, oldest_seconds=0.0)
        self._counted_at = float("-inf")
        self._waits_for_store = False
        self._progressed_at = float("-inf")

    @property
    def stalled_seconds(self) -> float:
        """Return since when the loop stands still; a wait for Postgres is bounded and no stall."""
        if self._waits_for_store or self._slots is None:
            return 0.0
        return self._ports.clock.monotonic() - self._progressed_at

    async def run(self) -> None:
        """Run links until drained; raises `Fenced` (in a group) when our incarnation was closed.

        When cancelled all links are cut, and their leases stay ours until the node retires.
        """
        try:
            async with asyncio.TaskGroup() as group:
                slots = Slots(ports=self._ports, group=group, on_free=self.wake.set)
                self._slots = slots
                try:
                    await self._fill(slots)
                except asyncio.CancelledError:
                    slots.cut(slots.fences, reason="node_ended")
                    raise
                slots.send_away(slots.fences, reason="node_drained")  # claimed meanwhile
        finally:
            self._slots = None
            self._ended.set()

    async def _fill(self, slots: Slots) -> None:
        self._progressed_at = self._ports.clock.monotonic()
        is_hinted = False
        while not self._is_draining:
            await self._round(slots, is_hinted=is_hinted)
            is_hinted = await self._pause()

    async def drain(self) -> None:
        """Stop claiming, send all links away, and cut those that take longer than allowed."""
        self._is_draining = True
        self.wake.set()
        slots = self._slots
        if slots is None:
            return
        log.info("pool.draining", links=len(slots))
        slots.send_away(slots.fences, reason="node_drained")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._ended.wait()
        if not self._ended.is_set():
            slots.cut(slots.fences, reason="drain_timed_out")
            with suppress(TimeoutError):
                async with asyncio.timeout(CUT_SECONDS):
                    await self._ended.wait()
        log.info("pool.drained", links_left=len(slots))

    async def _pause(self) -> bool:
        """Wait for the next round; return whether a hint brought it forward."""
        await asyncio.sleep(HINT_PAUSE_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.poll_seconds - HINT_PAUSE_SECONDS):
                await self.wake.wait()
        is_hinted = self.wake.is_set()
        self.wake.clear()
        return is_hinted

    async def _round(self, slots: Slots, *, is_hinted: bool) -> None:
        if self._heartbeat.is_given_up:
            slots.cut(slots.fences, reason="frozen_too_long")
        if self._heartbeat.is_frozen:
            self._is_unsure = True
        else:
            await self._consult(slots, is_hinted=is_hinted)
        self._progressed_at = self._ports.clock.monotonic()

    async def _consult(self, slots: Slots, *, is_hinted: bool) -> None:
        """Do what needs Postgres; without it the links simply go on."""
        self._waits_for_store = True
        self._is_unsure |= slots.take_orphans()
        try:
            if self._is_unsure:
                await self._reconcile(slots)
            slots.pass_on(await self._queue.changed(self._incarnation))
            await self._count()
            await self._carry_out(slots, is_hinted=is_hinted)
        except StoreUnavailable as failure:
            if not self._is_store_away:
                log.warning("pool.store_lost", code=failure.code, problem=str(failure))
            self._is_store_away = True
        else:
            if self._is_store_away:
                log.info("pool.store_recovered")
            self._is_store_away = False
            self.first_plan.set()
        finally:
            self._waits_for_store = False

    async def _reconcile(self, slots: Slots) -> None:
        """Make slots and leases the same again."""
        known = slots.fences  # a link that leaves while we ask must not look like a forgotten one
        owned = await self._queue.owned(self._incarnation)
        slots.cut(known.difference(claim.fence for claim in owned), reason="not_ours")
        for claim in owned:
            if claim.fence not in known:
                slots.open(claim)
        self._is_unsure = False

    async def _count(self) -> None:
        now = self._ports.clock.monotonic()
        if now - self._counted_at < COUNT_SECONDS:
            return
        self._depth = await self._queue.depth()
        self._counted_at = now
        metrics = self._ports.metrics
        metrics.slots.set(self.max_links)
        metrics.queue_length.labels(state="ready").set(self._depth.ready)
        metrics.queue_length.labels(state="backoff").set(self._depth.in_backoff)
        metrics.queue_oldest.set(self._depth.oldest_seconds)

    async def _carry_out(self, slots: Slots, *, is_hinted: bool) -> None:
        staying = slots.staying
        decision = plan(
            Situation(
                max_links=self.max_links,
                staying=staying,
                leaving=len(slots) - len(staying),
                # a hint is newer than the count, and says that somebody waits, not how many
                waiting=self.max_links if is_hinted else self._depth.ready,
                is_frozen=self._heartbeat.is_frozen,
                is_draining=self._is_draining,
            )
        )
        slots.send_away(decision.evictions, reason="limit_lowered")
        errands = self._errands(slots, is_hinted=is_hinted)
        if not decision.claims and not errands:
            return
        self._is_unsure = True  # until the answer has arrived
        claims = await self._queue.claim(self._incarnation, limit=decision.claims, errands=errands)
        if self._heartbeat.is_frozen:
            return  # the answer came too late to act on; they are found again when we thaw
        for claim in claims:
            slots.open(claim)
        self._is_unsure = False

    def _errands(self, slots: Slots, *, is_hinted: bool) -> int:
        """Return how many errands to claim; a node without slots serves the API alone."""
        if self._heartbeat.is_frozen or self._is_draining:
            return 0
        waiting = MAX_ERRANDS if is_hinted else self._depth.errands
        return max(0, min(waiting, MAX_ERRANDS - slots.errands, self.max_links))
