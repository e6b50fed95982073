"""The slow second look: closed windows are read again one at a time, whatever their age.

The rolling pull sees what the broker changes within days. What it changes later, or what we would
have lost without noticing, is found here: a window is read again, what differs is committed with
its revisions, and what is missing follows the rule of `settle`, which takes several looks at that
window. Old windows are merged to months on the way.
"""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timedelta

import structlog

from brokerd.connector.ports import PAGE_LIMIT, LinkPorts
from brokerd.connector.pull import Pulled, Puller
from brokerd.connector.settle import Settler
from brokerd.connector.windows import next_to_verify, to_merge
from brokerd.domain import Claim, DealId, Source, Window
from brokerd.errors import LinkLost
from brokerd.operations import Findings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Verifier:
    """Owns a session's cycle over the windows, and those in doubt."""

    def __init__(
        self,
        claim: Claim,
        *,
        puller: Puller,
        ports: LinkPorts,
        is_interrupted: Callable[[], bool],
    ) -> None:
        self._claim = claim
        self._puller = puller
        self._ports = ports
        self._is_interrupted = is_interrupted
        self._settler = Settler(claim, puller=puller, ports=ports)
        self._doubted: frozenset[datetime] = frozenset()
        interval = ports.settings.verify_interval_seconds
        self._due = ports.clock.monotonic() + ports.random.uniform(0.1, 1.0) * interval

    @property
    def due(self) -> float:
        """Return the monotonic time of the next look."""
        return self._due

    def put_off(self, seconds: float) -> None:
        """Look again after so long; a look that failed is repeated soon."""
        self._due = self._ports.clock.monotonic() + seconds

    async def step(self, watermark: datetime) -> Findings:
        """Merge what is old, then read again the windows in doubt, or the next one in turn."""
        before = watermark - timedelta(seconds=self._ports.settings.rolling_overlap_seconds)
        windows = await self._merged(before)
        chosen = [window for window in windows if self._is_doubted(window)]
        if not chosen and (turn := next_to_verify(windows, before=before)):
            chosen = [turn]
        findings = Findings()
        for window in chosen:
            findings += await self._verify(window)
        self.put_off(self._ports.settings.verify_interval_seconds)
        self._hurry()
        return findings

    async def verify_all(self) -> None:
        """Read the whole history again."""
        for window in await self._ports.windows.closed(self._claim.fence.account_id):
            await self._verify(window)
        self._hurry()

    async def verify(self, window: Window) -> Findings:
        """Read one window again, whatever is due; the caller has the turn of a long pull."""
        findings = await self._verify(window, has_turn=True)
        self._hurry()
        return findings

    def _hurry(self) -> None:
        """Come back soon to a window in which a deal may be gone."""
        if self._doubted:
            soon = self._ports.clock.monotonic() + self._ports.settings.removal_recheck_seconds
            self._due = min(self._due, soon)

    def _is_doubted(self, window: Window) -> bool:
        return any(window.start <= start < window.end for start in self._doubted)

    async def _merged(self, before: datetime) -> list[Window]:
        """Merge what is old enough, and return the windows there are."""
        fence = self._claim.fence
        windows = list(await self._ports.windows.closed(fence.account_id))
        max_deals = self._ports.settings.pull_pages * PAGE_LIMIT
        spans = to_merge(windows, before=before, max_deals=max_deals)
        for span in spans:
            if await self._ports.windows.merge(fence, start=span.start, end=span.end):
                self._ports.metrics.windows.labels(outcome="merged").inc()
        return list(await self._ports.windows.closed(fence.account_id)) if spans else windows

    async def _verify(self, window: Window, *, has_turn: bool = False) -> Findings:
        """Compare one window with the broker; it stays in doubt while a deal may be gone."""
        was_doubted = self._is_doubted(window)
        findings, missing = await self._read(window, has_turn=has_turn)
        others = frozenset(s for s in self._doubted if not window.start <= s < window.end)
        if missing & frozenset(self._settler.suspects):
            self._doubted = others | {window.start}
        else:
            self._doubted = others
            is_true = await self._ports.windows.verify(self._claim.fence, start=window.start)
            findings += Findings(false_receipts=0 if is_true else 1)
        if not findings.is_clean and not was_doubted:
            self._ports.metrics.windows.labels(outcome="mismatch").inc()
            log.warning(
                "ledger.window_differed",
                link_id=self._claim.link_id,
                start=window.start.isoformat(),
                end=window.end.isoformat(),
                inserted=findings.inserted,
                revised=findings.revised,
                missing=findings.missing,
                false_receipts=findings.false_receipts,
            )
        elif window.start not in self._doubted:
            self._ports.metrics.windows.labels(outcome="verified").inc()
        return findings

    async def _read(self, window: Window, *, has_turn: bool) -> tuple[Findings, frozenset[DealId]]:
        """Read a window again span by span; return what differed, and the deals it lacked."""
        start, findings, missing = window.start, Findings(windows=1), frozenset[DealId]()
        while True:
            if self._is_interrupted():
                raise LinkLost("interrupted while history was read again")
            # The first span is short for most; a further one takes its turn with other links'.
            must_wait = start > window.start and not has_turn
            async with self._ports.long_pulls if must_wait else nullcontext():
                pulled = await self._puller.pull(start, until=window.end)
            await self._settler.settle(pulled)
            self._ports.metrics.deals_received.labels(path=Source.AUDIT).inc(len(pulled.inserted))
            findings += _found(pulled)
            missing |= pulled.missing.keys()
            if pulled.is_last:
                return findings, missing
            start = pulled.end


def _found(pulled: Pulled) -> Findings:
    return Findings(
        inserted=len(pulled.inserted),
        revised=len(pulled.revised),
        missing=len(pulled.missing),
    )
