"""The one way into the ledger: gathers the links' writes, commits them, and answers each.

A write is answered only when it is durable. While Postgres is away nothing is answered, nothing
is lost and nothing grows: the buffer fills, then the callers wait. After a lost answer the same
numbered write is sent again, so its outcome tells what it did, whichever try did it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from random import Random
from typing import TypeVar

import structlog

from brokerd.clock import Clock
from brokerd.config.settings import LedgerSettings
from brokerd.connector.backoff import after_failure
from brokerd.connector.ports import HeldDeal
from brokerd.domain import (
    AccountId,
    Backoff,
    BadReason,
    DealId,
    Fence,
    LinkWrite,
    Totals,
    WriteOutcome,
)
from brokerd.errors import BadDeal, Fenced, StoreUnavailable
from brokerd.ledger import rows
from brokerd.ledger.buffer import Buffer, Load, Pending
from brokerd.ledger.ports import LedgerStore, NumberedWrite
from brokerd.ledger.quarantine import QuarantineDesk
from brokerd.telemetry import Metrics

_FIRST_RETRY_SECONDS = 0.05
_WRITE_ID_BITS = 63

_T = TypeVar("_T")

log = structlog.get_logger(__name__)


class Writer:
    """The connector's `Ledger`: reads pass through, writes go by batch; a service."""

    name = "ledger.writer"

    def __init__(
        self,
        store: LedgerStore,
        *,
        settings: LedgerSettings,
        clock: Clock,
        random: Random,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._buffer = Buffer(
            most=Load(rows=settings.buffer_deals, size_bytes=settings.buffer_bytes),
            batch=Load(rows=settings.batch_deals, size_bytes=settings.batch_bytes),
        )
        self._is_stopping = False
        self._is_store_away = False
        self.quarantine = QuarantineDesk(store.quarantine, insist=self._insist, metrics=metrics)

    async def run(self) -> None:
        """Commit batch after batch, until cancelled; then whoever still waits is told."""
        try:
            while True:
                batch = await self._buffer.batch(age_seconds=self._settings.batch_age_seconds)
                await self._commit(batch)
                self._buffer.forget_batch()
                self._show()
        finally:
            self._is_stopping = True
            for pending in self._buffer.abandon():
                _fail(pending, StoreUnavailable("the ledger's writer ended first"))

    async def drain(self) -> None:
        """Refuse new writes and wait until the queued ones are durable; the caller bounds it."""
        self._is_stopping = True
        self._buffer.close()
        await self._buffer.wait_empty()

    async def write(self, write: LinkWrite) -> WriteOutcome:
        """Commit deals and removals; returns when they are durable. May wait: back-pressure.

        A deal that cannot be stored goes to the quarantine, the others commit. Raises `Fenced`,
        and `StoreUnavailable` only when the writer ends. A large write is committed in parts, each
        behind what others brought meanwhile: when it fails, the first ones may be durable.
        Cancelling leaves open whether it is.
        """
        rows.check(write)
        sound, bad = rows.sift(write)
        if bad:
            records = [record for _, record in bad]
            await self.quarantine.keep(
                write.fence, records, link_id=write.link_id, source=write.source
            )
        outcome = replace(_NOTHING, refused=frozenset(deal.deal_id for deal, _ in bad))
        for piece in rows.pieces(
            rows.distinct(sound),
            max_rows=self._settings.link_batch_deals,
            max_bytes=self._settings.batch_bytes,
        ):
            outcome = _merged(outcome, await self._place(piece))
        return outcome

    async def close_window(
        self, fence: Fence, *, start: datetime, end: datetime, is_continuation: bool = False
    ) -> None:
        """Record that [start, end) was pulled whole, and move the watermark to `end`."""
        await self._insist(
            "close_window",
            lambda: self._store.close_window(
                fence, start=start, end=end, is_continuation=is_continuation
            ),
        )

    async def watermark(self, account_id: AccountId) -> datetime | None:
        """Return the time through which the ledger is complete; None before the first window."""
        return await self._insist("watermark", lambda: self._store.watermark(account_id))

    async def held(
        self, account_id: AccountId, *, start: datetime, end: datetime
    ) -> Mapping[DealId, HeldDeal]:
        """Return the deals the ledger holds (not removed) with start <= time < end."""
        return await self._insist(
            "held", lambda: self._store.held(account_id, start=start, end=end)
        )

    async def totals(self, account_id: AccountId) -> Totals:
        """Return the ledger's sums over all deals of the account that are not removed."""
        return await self._insist("totals", lambda: self._store.totals(account_id))

    async def _place(self, piece: LinkWrite) -> WriteOutcome:
        """Commit a piece; what the store refuses is halved until the bad deal stands alone."""
        if not piece.deals and not piece.removals:
            return _NOTHING
        try:
            return await self._enqueue(piece)
        except BadDeal as error:
            if not piece.deals:
                raise
            if len(piece.deals) == 1 and not piece.removals:
                return await self._refuse(piece, error)
        first, second = rows.halves(piece)
        return _merged(await self._place(first), await self._place(second))

    async def _refuse(self, piece: LinkWrite, error: BadDeal) -> WriteOutcome:
        """Send the one deal that the store does not take to the quarantine."""
        (deal,) = piece.deals
        record = rows.bad_deal(deal, BadReason.REFUSED, str(error))
        await self.quarantine.keep(
            piece.fence, [record], link_id=piece.link_id, source=piece.source
        )
        return replace(_NOTHING, refused=frozenset({deal.deal_id}))

    async def _enqueue(self, piece: LinkWrite) -> WriteOutcome:
        pending = Pending(
            numbered=NumberedWrite(write_id=self._random.getrandbits(_WRITE_ID_BITS), write=piece),
            load=Load(
                rows=len(piece.deals) + len(piece.removals),
                size_bytes=sum(map(rows.size_of, piece.deals)),
            ),
            arrived_at=self._clock.monotonic(),
            done=asyncio.get_running_loop().create_future(),
        )
        await self._buffer.put(pending)
        self._show()
        return await pending.done

    def _show(self) -> None:
        self._metrics.buffer_deals.set(self._buffer.load.rows)
        self._metrics.buffer_bytes.set(self._buffer.load.size_bytes)

    async def _commit(self, batch: Sequence[Pending]) -> None:
        """Commit and answer; refused data is halved until the bad link stands alone."""
        wanted = [each for each in batch if not each.done.cancelled()]
        if not wanted:
            return
        try:
            outcomes = await self._insist(
                "write", lambda: self._store.commit([each.numbered for each in wanted])
            )
        except BadDeal as error:
            if len(wanted) == 1:
                _fail(wanted[0], error)
            else:
                middle = len(wanted) // 2
                await self._commit(wanted[:middle])
                await self._commit(wanted[middle:])
        else:
            for pending in wanted:
                self._answer(pending, outcomes.get(pending.numbered.write.fence.account_id))

    def _answer(self, pending: Pending, outcome: WriteOutcome | None) -> None:
        """Give the caller what its write did, or that it was fenced."""
        fence = pending.numbered.write.fence
        if outcome is None:
            self._metrics.fenced.inc()
            log.warning("ledger.write_fenced", account_id=fence.account_id, epoch=fence.epoch)
            _fail(pending, Fenced(f"account {fence.account_id} is no longer ours"))
            return
        committed = self._metrics.deals_committed
        committed.labels(result="inserted").inc(len(outcome.inserted))
        committed.labels(result="revised").inc(len(outcome.revised))
        committed.labels(result="removed").inc(len(outcome.removed))
        fresh = len(outcome.inserted) + len(outcome.revised) + len(outcome.removed)
        committed.labels(result="duplicate").inc(pending.load.rows - fresh)
        if not pending.done.done():
            pending.done.set_result(outcome)

    async def _insist(self, op: str, call: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat a call until Postgres takes it."""
        backoff = Backoff()
        while True:
            started = self._clock.monotonic()
            try:
                result = await call()
            except StoreUnavailable as error:
                if self._is_stopping and op != "write":
                    raise
                self._note_away(op, error)
                wait = after_failure(
                    backoff,
                    base_seconds=_FIRST_RETRY_SECONDS,
                    ceiling_seconds=self._settings.retry_ceiling_seconds,
                    hint_seconds=None,
                    random=self._random,
                )
                backoff = wait.backoff
                await asyncio.sleep(wait.delay_seconds)
            else:
                self._metrics.batch_seconds.labels(op=op).observe(self._clock.monotonic() - started)
                self._note_back()
                return result

    def _note_away(self, op: str, error: StoreUnavailable) -> None:
        level = log.debug if self._is_store_away else log.warning
        level("ledger.store_lost", op=op, reason=str(error), buffered=self._buffer.load.rows)
        self._is_store_away = True

    def _note_back(self) -> None:
        if self._is_store_away:
            log.info("ledger.store_recovered", buffered=self._buffer.load.rows)
        self._is_store_away = False


_NOTHING = WriteOutcome(inserted=frozenset(), revised=frozenset(), removed=frozenset())


def _merged(first: WriteOutcome, second: WriteOutcome) -> WriteOutcome:
    return WriteOutcome(
        inserted=first.inserted | second.inserted,
        revised=first.revised | second.revised,
        removed=first.removed | second.removed,
        refused=first.refused | second.refused,
    )


def _fail(pending: Pending, error: Exception) -> None:
    if not pending.done.done():
        pending.done.set_exception(error)
