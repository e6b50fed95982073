"""How far one link's ledger is complete, and the pulls that carry it on."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from brokerd.connector.audit import Auditor
from brokerd.connector.ports import LinkPorts, Session
from brokerd.connector.pull import Pulled, Puller
from brokerd.domain import Claim

BEGINNING = datetime(1971, 1, 1, tzinfo=UTC)
"""Where a whole history starts; no MetaTrader record is older."""

CarryOut = Callable[[Callable[[], Awaitable[Pulled]]], Awaitable[Pulled]]
"""How the pull of a span is tried: once, or through failures."""


async def at_once(span: Callable[[], Awaitable[Pulled]]) -> Pulled:
    """Try once."""
    return await span()


class History:
    """Owns a session's watermark; only what it pulls closes windows."""

    def __init__(
        self,
        claim: Claim,
        *,
        puller: Puller,
        audit: Auditor,
        is_interrupted: Callable[[], bool],
        ports: LinkPorts,
    ) -> None:
        self.watermark: datetime | None = None
        self._claim = claim
        self._puller = puller
        self._audit = audit
        self._is_interrupted = is_interrupted
        self._ports = ports
        self._settings = ports.settings

    async def open(self) -> None:
        """Read how far the ledger is complete."""
        self.watermark = await self._ports.ledger.watermark(self._claim.fence.account_id)

    def stream_start(self) -> datetime:
        """Return from when on the stream shall replay: what is older, the pulls bring alone."""
        now = self._ports.clock.now()
        oldest = now - timedelta(seconds=self._settings.rolling_overlap_seconds)
        return now if self.watermark is None else max(self.watermark, oldest)

    def since(self, overlap_seconds: float) -> datetime:
        """Return where a pull starts: the watermark less an overlap, or the history's beginning."""
        beginning = self._claim.spec.sync_from or BEGINNING
        if self.watermark is None:
            return beginning
        return max(beginning, self.watermark - timedelta(seconds=overlap_seconds))

    async def pull(
        self, session: Session, overlap_seconds: float, *, kind: str, carry_out: CarryOut = at_once
    ) -> int:
        """Pull span by span, close each one's window; return how many deals were new.

        A history of more than one span is read in turns with the others' of this node, and what
        is closed of it stays closed: after a failure the next pull begins there.
        """
        start, found = self.since(overlap_seconds), 0
        self._audit.pull_begun()
        pulled = await carry_out(partial(self._pull_span, start))
        found += len(pulled.inserted)
        while not pulled.is_last:
            if self._is_interrupted():
                return found  # we no longer know who answers; the recovery's pull goes on
            self._ports.metrics.windows.labels(outcome="split").inc()
            async with self._ports.long_pulls:
                pulled = await carry_out(partial(self._pull_span, pulled.end))
            found += len(pulled.inserted)
        self._audit.pull_done(is_rolling=kind == "rolling")
        session.acknowledge(pulled.through)
        self._ports.metrics.pulls.labels(kind=kind, outcome="ok").inc()
        return found

    async def _pull_span(self, start: datetime) -> Pulled:
        """Pull one span, settle what is missing, close the part that was open."""
        pulled = await self._puller.pull(start)
        self._audit.count(pulled)
        await self._audit.settle(pulled)
        if self.watermark is None or self.watermark < pulled.through:
            await self._ports.ledger.close_window(
                self._claim.fence, start=self.watermark or start, end=pulled.through
            )
            self.watermark = pulled.through
            self._ports.metrics.windows.labels(outcome="closed").inc()
        return pulled
