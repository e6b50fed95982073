"""What a link says of itself: the one writer of its phase, and of its proof beside it."""

import asyncio
from dataclasses import replace
from datetime import datetime

import structlog

from brokerd.clock import Clock
from brokerd.connector.ports import LeaseHandle
from brokerd.connector.proof import Finding
from brokerd.connector.states import LinkEvent, step
from brokerd.domain import Claim, LinkStatus, Phase, UserAction
from brokerd.errors import StoreUnavailable
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Board:
    """Holds a link's status and stores it at every change.

    A store that is away, or takes longer than `report_seconds`, does not stop the link: the newest
    status is kept and stored with `flush`. `Fenced` always gets through.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        lease: LeaseHandle,
        report_seconds: float,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._claim = claim
        self._lease = lease
        self._report_seconds = report_seconds
        self._clock = clock
        self._metrics = metrics
        self._is_stored = True
        self._storing = asyncio.Lock()
        self.status = LinkStatus(
            phase=Phase.QUEUED,
            reason="Queued",
            message="",
            observed_generation=claim.generation,
            since=clock.now(),
        )

    def open(self) -> None:
        """Count the link; `close` must follow."""
        self._metrics.links.labels(phase=self.status.phase).inc()

    @property
    def phase(self) -> Phase:
        """Return the phase the link is in."""
        return self.status.phase

    async def enter(
        self,
        event: LinkEvent,
        reason: str,
        *,
        message: str = "",
        user_action: UserAction = UserAction.NONE,
        next_attempt_at: datetime | None = None,
    ) -> None:
        """Take the transition that `event` means and store it."""
        before = self.status.phase
        after = step(before, event)
        self.status = replace(
            self.status,
            phase=after,
            reason=reason,
            message=message,
            since=self._clock.now() if after is not before else self.status.since,
            user_action=user_action,
            next_attempt_at=next_attempt_at,
        )
        if after is not before:
            self._metrics.links.labels(phase=before).dec()
            self._metrics.links.labels(phase=after).inc()
            self._metrics.link_transitions.labels(to=after).inc()
            log.info(
                "link.transitioned",
                link_id=self._claim.link_id,
                phase=after,
                was=before,
                reason=reason,
            )
        await self._store()

    def note_attempt(self, attempt: int) -> None:
        """Show how many attempts failed in a row; stored with the next change."""
        self.status = replace(self.status, attempt=attempt)

    async def note_generation(self, generation: int) -> None:
        """Store that a newer spec was taken over."""
        self.status = replace(self.status, observed_generation=generation)
        await self._store()

    async def note_proof(self, finding: Finding) -> None:
        """Store what the balance proof says now."""
        if finding.proof is not self.status.proof:
            log.info(
                "ledger.judged",
                link_id=self._claim.link_id,
                proof=finding.proof,
                detail=finding.detail,
            )
        self.status = replace(
            self.status,
            proof=finding.proof,
            proof_detail=finding.detail,
            proven_at=self._clock.now(),
        )
        await self._store()

    async def flush(self) -> bool:
        """Store the newest status if the store was away when it changed; say whether it is."""
        if not self._is_stored:
            await self._store()
        return self._is_stored

    def close(self) -> None:
        """Take the link out of the gauge; it is no longer ours to count."""
        self._metrics.links.labels(phase=self.status.phase).dec()

    async def _store(self) -> None:
        """Store what is newest when our turn comes: an older report must never land last."""
        async with self._storing:
            await self._report()

    async def _report(self) -> None:
        try:
            async with asyncio.timeout(self._report_seconds):
                await self._lease.report(self._claim.fence, self.status)
        except TimeoutError:
            self._put_off(f"no answer of the store within {self._report_seconds:g} s")
        except StoreUnavailable as failure:
            self._put_off(str(failure))
        else:
            self._is_stored = True

    def _put_off(self, problem: str) -> None:
        if self._is_stored:
            log.warning("link.report_delayed", link_id=self._claim.link_id, problem=problem)
        self._is_stored = False
