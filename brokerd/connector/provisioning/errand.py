"""What is left to do at MetaApi for a link that is not wanted: undeploy its account, or remove it.

Theory. A link that is stopped or deleted gives its slot back at once; putting its account away is
an errand of its own, which needs a lease, because it changes something outside, but no session. So
errands are claimed beside the slots. One that fails is tried again with backoff, by whichever node
claims it then, until it is done or the link is wanted again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from random import Random

import structlog

from brokerd.clock import Clock
from brokerd.config.settings import LinkSettings
from brokerd.connector.backoff import Wait, after_failure, hint_of
from brokerd.connector.board import Board
from brokerd.connector.ports import LeaseHandle
from brokerd.connector.provisioning.plan import Goal
from brokerd.connector.provisioning.provisioner import Provisioner
from brokerd.connector.refusals import reason_of
from brokerd.connector.states import LinkEvent
from brokerd.domain import Claim, Desired
from brokerd.errors import BrokerdError, Fenced, Rejected, StoreUnavailable, Transient
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

STORE_RETRY_SECONDS = 1.0


def is_errand(claim: Claim) -> bool:
    """Say whether a claim is not for running its link."""
    return claim.is_deleted or claim.spec.desired is Desired.STOPPED


def goal_of(claim: Claim) -> Goal | None:
    """Return where the account of a claim is to be put; None when it is to be left alone."""
    if claim.is_deleted and claim.removes_remote:
        return Goal.REMOVED
    return Goal.UNDEPLOYED if claim.spec.desired is Desired.STOPPED else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrandPorts:
    """All that an errand is made of beside its claim."""

    provisioner: Provisioner
    lease: LeaseHandle
    settings: LinkSettings
    clock: Clock
    random: Random
    metrics: Metrics


class Errand:
    """A `RunningLink` that puts its account away and ends."""

    def __init__(self, claim: Claim, *, ports: ErrandPorts) -> None:
        self._claim = claim
        self._goal = goal_of(claim)
        self._ports = ports
        self._board = Board(
            claim,
            lease=ports.lease,
            report_seconds=ports.settings.report_seconds,
            clock=ports.clock,
            metrics=ports.metrics,
        )
        self._leaving = asyncio.Event()

    def update(self, claim: Claim) -> None:
        """Leave when something else is wanted; who claims the link next does that."""
        self._claim = claim
        if not is_errand(claim) or goal_of(claim) is not self._goal:
            self._leaving.set()

    def drain(self) -> None:
        """Ask to leave; what was begun is taken up by whoever claims the errand next."""
        self._leaving.set()

    async def run(self) -> None:
        """Put the account away; raises `Fenced` when the lease was taken."""
        self._board.open()
        try:
            await self._board.enter(LinkEvent.CLAIMED, "Claimed")
            async with asyncio.TaskGroup() as group:
                work = group.create_task(self._work(), name=f"errand:{self._claim.link_id}")
                leave = group.create_task(self._leaving.wait(), name=f"{work.get_name()}:listen")
                await asyncio.wait((work, leave), return_when=asyncio.FIRST_COMPLETED)
                work.cancel()
                leave.cancel()
            await (self._leave() if work.cancelled() else self._end(work.result()))
        finally:
            self._board.close()

    async def _work(self) -> BrokerdError | None:
        """Put the account away; return why that did not succeed."""
        try:
            await self._working("Removing" if self._goal is Goal.REMOVED else "Undeploying")
            if self._goal is not None:
                provisioner = self._ports.provisioner
                await provisioner.put_away(self._claim, self._goal, working=self._working)
        except (Transient, Rejected, Fenced) as failure:
            return failure
        return None

    async def _working(self, reason: str) -> None:
        await self._board.enter(LinkEvent.PREPARING, reason)

    async def _end(self, failure: BrokerdError | None) -> None:
        if isinstance(failure, Fenced):
            raise failure
        if failure is not None:
            await self._fail(failure)
            return
        await self._rest("Removed" if self._goal is Goal.REMOVED else "Stopped")
        fence, generation = self._claim.fence, self._claim.generation
        await self._insist(lambda: self._ports.lease.finish(fence, generation=generation))

    async def _fail(self, failure: BrokerdError) -> None:
        wait = self._wait_after(failure)
        log.warning(
            "errand.failed",
            link_id=self._claim.link_id,
            code=failure.code,
            problem=str(failure),
            delay_seconds=round(wait.delay_seconds, 3),
        )
        self._ports.metrics.link_failures.labels(code=failure.code).inc()
        self._board.note_attempt(wait.backoff.attempt)
        is_refused = isinstance(failure, Rejected)
        await self._board.enter(
            LinkEvent.REFUSED if is_refused else LinkEvent.LOST,
            reason_of(failure),
            message=str(failure),
            user_action=failure.user_action,
            next_attempt_at=self._ports.clock.now() + timedelta(seconds=wait.delay_seconds),
        )
        await self._release(wait)

    def _wait_after(self, failure: BrokerdError) -> Wait:
        settings = self._ports.settings
        hint_seconds = hint_of(failure)
        if isinstance(failure, Rejected):
            hint_seconds = failure.retry_after_seconds or settings.blocked_recheck_seconds
        return after_failure(
            self._claim.backoff,
            base_seconds=settings.backoff_base_seconds,
            ceiling_seconds=settings.backoff_ceiling_seconds,
            hint_seconds=hint_seconds,
            random=self._ports.random,
        )

    async def _leave(self) -> None:
        await self._board.enter(LinkEvent.LEAVING, "Leaving")
        if is_errand(self._claim):
            await self._rest("NodeDrained")
        else:
            await self._board.enter(LinkEvent.RELEASED, "SpecChanged")
        await self._release(Wait(backoff=self._claim.backoff, delay_seconds=0.0))

    async def _rest(self, reason: str) -> None:
        """Say where the link rests, now that nobody does anything about it."""
        is_deleted = self._claim.is_deleted
        await self._board.enter(LinkEvent.DELETED if is_deleted else LinkEvent.STOPPED, reason)
        await self._board.note_generation(self._claim.generation)

    async def _release(self, wait: Wait) -> None:
        fence, lease = self._claim.fence, self._ports.lease
        await self._insist(
            lambda: lease.release(fence, backoff=wait.backoff, delay_seconds=wait.delay_seconds)
        )

    async def _insist(self, give_back: Callable[[], Awaitable[None]]) -> None:
        """Give the lease back, however long Postgres is away; our last word goes first."""
        while True:
            try:
                if await self._board.flush():
                    await give_back()
                    return
            except StoreUnavailable:
                log.debug("errand.release_delayed", link_id=self._claim.link_id)
            await asyncio.sleep(STORE_RETRY_SECONDS)
