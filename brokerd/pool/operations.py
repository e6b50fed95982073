"""What was asked of this node's links, read once for all of them; and the end of what is overdue.

Theory. Level-triggered: each look reads everything that is open for the links we own, so a lost
hint costs one period, and a link that was claimed a moment ago finds what its earlier owner left.
A look that was under way while a link noted a step brings an older copy of it; the one that came
further is kept.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import structlog

from brokerd.clock import Clock
from brokerd.config.settings import OperationSettings
from brokerd.domain import AccountId, Fence, Incarnation
from brokerd.errors import StoreUnavailable
from brokerd.operations import AuditResult, Operation, OperationId, Progress
from brokerd.pool.ports import OperationStore
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

SWEEP_SECONDS = 10.0
"""How late an operation may be failed; every node of the fleet sweeps."""
HINT_PAUSE_SECONDS = 0.05
"""Hints that arrive together are served by one look."""


class OperationDesk:
    """The connector's `Operations`; a service. Set `wake` on a hint that something was asked."""

    name = "operations"

    def __init__(
        self,
        incarnation: Incarnation,
        *,
        store: OperationStore,
        settings: OperationSettings,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.wake = asyncio.Event()
        self._incarnation = incarnation
        self._store = store
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._open: dict[AccountId, Operation] = {}
        self._followers: dict[AccountId, Callable[[], None]] = {}
        self._swept_at = float("-inf")

    async def run(self) -> None:
        """Look for ever; what the last look found stands while the store is away."""
        while True:
            self.wake.clear()
            try:
                await self.look()
                await self._sweep()
            except StoreUnavailable as failure:
                log.debug("operation.look_delayed", problem=str(failure))
            await asyncio.sleep(HINT_PAUSE_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.poll_seconds - HINT_PAUSE_SECONDS):
                    await self.wake.wait()

    async def look(self) -> None:
        """Read what is open, and wake whom it concerns. Raises `StoreUnavailable`."""
        found = await self._store.open_of(self._incarnation)
        known, self._open = self._open, {each.account_id: each for each in found}
        for account_id, operation in self._open.items():
            earlier = known.get(account_id)
            if earlier is None or earlier.operation_id != operation.operation_id:
                self._followers.get(account_id, _nobody)()
            elif _read(earlier) > _read(operation):
                self._open[account_id] = earlier

    def asked(self, account_id: AccountId) -> Operation | None:
        """Return what is open for an account as of the last look."""
        return self._open.get(account_id)

    @contextmanager
    def followed(self, account_id: AccountId, wake: Callable[[], None]) -> Iterator[None]:
        """Call `wake` whenever something new is open for the account, while in this context."""
        self._followers[account_id] = wake
        try:
            yield
        finally:
            if self._followers.get(account_id) is wake:
                del self._followers[account_id]

    async def advance(self, fence: Fence, operation_id: OperationId, progress: Progress) -> bool:
        """Note how far we came; the operation is running from then on."""
        is_open = await self._store.advance(fence, operation_id, progress)
        known = self._open.get(fence.account_id)
        if is_open and known is not None and known.operation_id == operation_id:
            self._open[fence.account_id] = replace(known, progress=progress)
        if not is_open:
            self._forget(fence.account_id, operation_id)
        return is_open

    async def finish(self, fence: Fence, operation_id: OperationId, result: AuditResult) -> bool:
        """Close the operation with what it found."""
        is_open = await self._store.finish(fence, operation_id, result)
        self._forget(fence.account_id, operation_id)
        return is_open

    def _forget(self, account_id: AccountId, operation_id: OperationId) -> None:
        known = self._open.get(account_id)
        if known is not None and known.operation_id == operation_id:
            del self._open[account_id]

    async def _sweep(self) -> None:
        now = self._clock.monotonic()
        if now - self._swept_at < SWEEP_SECONDS:
            return
        for failed in await self._store.sweep(keep_days=self._settings.keep_days):
            outcome = failed.failure or ""
            self._metrics.operations.labels(kind=failed.kind, outcome=outcome).inc()
            log.warning(
                "operation.failed",
                link_id=failed.link_id,
                operation_id=failed.operation_id,
                kind=failed.kind,
                reason=outcome,
            )
        self._swept_at = now


def _nobody() -> None:
    """Stand in for the follower of a link that is not live."""


def _read(operation: Operation) -> int:
    return operation.progress.findings.windows
