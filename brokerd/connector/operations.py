"""Carries out an audit that somebody asked for, one step at a time between a link's other work.

A step reads one window again, or compares the balance once, and notes how far the audit came. The
keeper does what cannot wait first; so an audit of a million deals delays no pull, and a link that
is lost, or a node that dies, goes on behind the last step. The audit ends with a verdict: a
mismatch is looked at as often as the balance proof's rule asks, a minute apart.
"""

import math
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import structlog

from brokerd.connector.audit import Auditor
from brokerd.connector.backoff import after_failure, hint_of
from brokerd.connector.poison import shown
from brokerd.connector.ports import LinkPorts
from brokerd.connector.proof import Verdict
from brokerd.connector.verify import Verifier
from brokerd.connector.windows import unread
from brokerd.domain import Backoff, Claim
from brokerd.errors import StoreUnavailable, Transient
from brokerd.operations import AuditResult, Operation, OperationId, Progress

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

TURN_SECONDS = 1.0
"""About how often an audit asks whether a turn among the long pulls is free."""


class AskedAudit:
    """Owns the audit that is open for a session's link, if there is one."""

    def __init__(
        self, claim: Claim, *, auditor: Auditor, verifier: Verifier, ports: LinkPorts
    ) -> None:
        self._claim = claim
        self._auditor = auditor
        self._verifier = verifier
        self._ports = ports
        self._account_id = claim.fence.account_id
        self._operation: Operation | None = None  # with what we know of its progress
        self._closed: OperationId | None = None
        self._backoff = Backoff()
        self._not_before = -math.inf

    @property
    def due(self) -> float:
        """Return the monotonic time of the next step; never without an audit."""
        return math.inf if self._open() is None else self._not_before

    def is_due(self) -> bool:
        """Say whether a step is due."""
        return self._ports.clock.monotonic() >= self.due

    async def step(self, since: datetime) -> None:
        """Take one step; the proof pulls from `since` on. Failures of time put it off."""
        operation = self._open()
        if operation is None:
            return
        try:
            await self._step(operation, since)
            self._backoff = Backoff()
        except Transient as failure:
            await self._put_off(failure)

    def _open(self) -> Operation | None:
        """Return what is open; of our own one what we noted last, the node's look may be older."""
        asked = self._ports.operations.asked(self._account_id)
        if asked is None or asked.operation_id == self._closed:
            return None
        if self._operation is None or self._operation.operation_id != asked.operation_id:
            self._operation, self._not_before = asked, -math.inf
        return self._operation

    async def _step(self, operation: Operation, since: datetime) -> None:
        windows, progress = await self._ports.windows.closed(self._account_id), operation.progress
        if progress.until is None and windows:
            until = windows[-1].end  # what is closed later was read just then
            await self._note(replace(progress, until=until, windows_left=len(windows)))
            return
        left = unread(windows, progress)
        if not left:
            await self._prove(operation, since)
        elif self._ports.long_pulls.locked():
            pause_seconds = self._ports.random.uniform(0.5, 1.5) * TURN_SECONDS
            self._not_before = self._ports.clock.monotonic() + pause_seconds
        else:
            async with self._ports.long_pulls:  # free, so this waits for nobody
                found = await self._verifier.verify(left[0])
            await self._note(progress.having_read(left[0].end, found, windows_left=len(left) - 1))

    async def _prove(self, operation: Operation, since: datetime) -> None:
        is_compared = await self._auditor.prove(since, is_all_read=True)
        verdict = self._auditor.verdict
        if is_compared and verdict.is_final:
            await self._finish(operation, verdict)
            return
        self._not_before = self._auditor.proof_due
        note = verdict.finding.detail if is_compared else "the balance could not be compared yet"
        await self._note(replace(operation.progress, note=note))

    async def _note(self, progress: Progress) -> None:
        if self._operation is None:
            return
        self._operation = replace(self._operation, progress=progress)
        operation_id = self._operation.operation_id
        if not await self._ports.operations.advance(self._claim.fence, operation_id, progress):
            self._closed = operation_id

    async def _finish(self, operation: Operation, verdict: Verdict) -> None:
        finding, found = verdict.finding, operation.progress.findings
        result = AuditResult(
            proof=finding.proof,
            detail=finding.detail,
            findings=found,
            difference=finding.difference,
        )
        operation_id = operation.operation_id
        if await self._ports.operations.finish(self._claim.fence, operation_id, result):
            self._ports.metrics.operations.labels(kind=operation.kind, outcome=finding.proof).inc()
            log.info(
                "operation.done",
                link_id=self._claim.link_id,
                operation_id=operation_id,
                proof=finding.proof,
                detail=finding.detail,
                windows=found.windows,
                inserted=found.inserted,
                revised=found.revised,
                missing=found.missing,
                false_receipts=found.false_receipts,
            )
        self._closed = operation_id

    async def _put_off(self, failure: Transient) -> None:
        """Try the step again: soon at first, never before the time we were told."""
        wait = after_failure(
            self._backoff,
            base_seconds=self._ports.settings.backoff_base_seconds,
            ceiling_seconds=self._ports.settings.rolling_interval_seconds,
            hint_seconds=hint_of(failure),
            random=self._ports.random,
        )
        self._backoff = wait.backoff
        self._not_before = self._ports.clock.monotonic() + wait.delay_seconds
        log.debug(
            "operation.delayed",
            link_id=self._claim.link_id,
            code=failure.code,
            delay_seconds=round(wait.delay_seconds, 3),
        )
        if self._operation is not None:  # what the step came to know stays known
            progress = replace(self._operation.progress, note=shown(f"{failure.code}: {failure}"))
            with suppress(StoreUnavailable):
                await self._note(progress)
