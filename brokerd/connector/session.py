"""One open session of a link, from the dial to its loss: the keeper of truth beside its reader.

Theory. The reader (reader.py) takes what the stream brings, as hints. The keeper owns the phase: it
verifies who answered, pulls history until the ledger is complete, and from then on pulls again at
a pace, after every interruption and whenever the stream admits a loss. Only pulls close windows,
so whatever the stream does, completeness is the keeper's word.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

import structlog

from brokerd.connector import identity
from brokerd.connector.audit import Auditor
from brokerd.connector.backoff import after_failure, hint_of
from brokerd.connector.board import Board
from brokerd.connector.ports import AccountInformation, LinkPorts, Session
from brokerd.connector.pull import Pulled, Puller
from brokerd.connector.reader import Reader
from brokerd.connector.states import LinkEvent
from brokerd.connector.verify import Verifier
from brokerd.domain import Backoff, Claim
from brokerd.errors import IdentityMismatch, LinkLost, Transient

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

BEGINNING = datetime(1971, 1, 1, tzinfo=UTC)
"""Where a whole history starts; no MetaTrader record is older."""
TIMER_SECONDS = 0.001
"""The shortest wait: a timer may fire a rounding early, and what is due then would not be yet."""

T = TypeVar("T")
CarryOut = Callable[[Callable[[], Awaitable[Pulled]]], Awaitable[Pulled]]
"""How the pull of a span is tried: once, or through failures."""


async def at_once(span: Callable[[], Awaitable[Pulled]]) -> Pulled:
    """Try once."""
    return await span()


class LinkSession:
    """One attempt of a link: it ends by raising, or by being cancelled."""

    def __init__(self, claim: Claim, *, board: Board, ports: LinkPorts) -> None:
        self._claim = claim
        self._board = board
        self._ports = ports
        self._settings = ports.settings
        self._clock = ports.clock
        self._remote = claim.spec.metaapi
        self._reader = Reader(claim, ports=ports)
        self._puller = Puller(claim, ports=ports)
        self._verifier = Verifier(
            claim,
            puller=self._puller,
            ports=ports,
            is_interrupted=lambda: self._reader.was_interrupted,
        )
        self._audit = Auditor(
            claim, board=board, puller=self._puller, verifier=self._verifier, ports=ports
        )
        self._watermark: datetime | None = None
        self._away_since: float | None = None
        self._was_live = False
        self._live_since: float | None = None
        self._stood_seconds = 0.0

    async def run(self) -> None:
        """Dial and stay; raises `Transient` when lost, `Rejected` when refused, `Fenced`."""
        await self._board.enter(LinkEvent.DIALLED, "Dialling")
        remote = await self._ports.rest.account(self._remote)
        identity.check_registered(self._claim.spec.identity, remote)
        identity.check_deployed(remote)
        self._watermark = await self._ports.ledger.watermark(self._claim.fence.account_id)
        session = await self._ports.stream.open(
            self._remote,
            account=remote,
            synced_through=self._stream_start(),
        )
        self._reader.listen_anew()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._reader.read(session), name=f"read:{self._claim.link_id}")
                group.create_task(self._keep(session), name=f"keep:{self._claim.link_id}")
        finally:
            self._end_live()
            await session.close()

    def _stream_start(self) -> datetime:
        """Return from when on the stream shall replay: what is older, the pulls bring alone."""
        now = self._clock.now()
        oldest = now - timedelta(seconds=self._settings.rolling_overlap_seconds)
        return now if self._watermark is None else max(self._watermark, oldest)

    async def _keep(self, session: Session) -> None:
        self._away_since = self._clock.monotonic()
        await self._wait_up()
        await self._board.enter(LinkEvent.ANSWERED, "Answered")
        information = await self._identify(self._settings.verify_timeout_seconds)
        await self._board.enter(LinkEvent.IDENTIFIED, "Identified")
        await self._become_live(session, before=information)
        while True:
            await self._tend(session)

    async def _tend(self, session: Session) -> None:
        """Wait for the next thing to do, and do it."""
        if not (self._reader.was_interrupted or self._reader.gap_reason):
            await self._wait_news(min(self._audit.next_due(), self._verifier.due))
        await self._board.flush()
        if self._reader.was_interrupted:
            await self._recover(session)
        elif self._reader.gap_reason is not None:
            reason, self._reader.gap_reason = self._reader.gap_reason, None
            if not self._audit.is_pull_put_off:  # else the one that waits will read further back
                await self._try_pull(session, self._settings.reconnect_overlap_seconds, kind=reason)
        elif self._audit.is_pull_due():
            await self._try_pull(session, self._settings.rolling_overlap_seconds, kind="rolling")
        elif self._audit.is_proof_due():
            await self._audit.prove(self._since(self._settings.reconnect_overlap_seconds))
        elif self._clock.monotonic() >= self._verifier.due:
            await self._look_back()

    async def _recover(self, session: Session) -> None:
        """Come back after an interruption on the same session."""
        self._away_since = self._away_since or self._clock.monotonic()
        self._end_live()
        await self._board.enter(LinkEvent.INTERRUPTED, self._why_down())
        await self._wait_up()
        information = await self._identify(self._settings.sync_stall_seconds)
        await self._become_live(session, before=information)

    async def _become_live(self, session: Session, *, before: AccountInformation) -> None:
        """Sync, be live, prove it; what interrupts the sync is left to the next turn."""
        if not await self._sync(session):
            return
        now = self._clock.monotonic()
        self._live_since = now
        await self._board.enter(LinkEvent.CAUGHT_UP, "Live")
        if self._was_live:
            self._ports.metrics.reconnects.inc()
        if self._away_since is not None:
            cause = "reconnect" if self._was_live else "first"
            self._ports.metrics.time_to_live.labels(cause=cause).observe(now - self._away_since)
        self._was_live = True
        self._away_since = None
        await self._audit.prove(
            self._since(self._settings.reconnect_overlap_seconds), before=before
        )

    def _end_live(self) -> None:
        if self._live_since is not None:
            stood = self._clock.monotonic() - self._live_since
            self._stood_seconds = max(self._stood_seconds, stood)
        self._live_since = None

    @property
    def stood_seconds(self) -> float:
        """Return the longest time an ended session was live without a break."""
        return self._stood_seconds

    def _why_down(self) -> str:
        if not self._reader.is_broker_up:
            return "BrokerDisconnected"
        return "Resynchronizing" if self._reader.is_terminal_up else "Reconnecting"

    async def _identify(self, limit_seconds: float) -> AccountInformation:
        """Verify who answered; then the stream's deals may pass, those held back first."""
        information = await self._persevere(self._verify, limit_seconds)
        await self._reader.let_pass()
        return information

    async def _verify(self) -> AccountInformation:
        information = await self._ports.rest.account_information(self._remote)
        identity.check_connected(self._claim.spec.identity, information)
        is_same = await self._ports.lease.record_modes(
            self._claim.fence,
            margin_mode=information.margin_mode or "",
            trade_mode=information.trade_mode or "",
        )
        if not is_same:
            raise IdentityMismatch(
                f"the account's modes changed: now {information.margin_mode}, "
                f"{information.trade_mode}; nothing is written until an operator agrees"
            )
        return information

    async def _sync(self, session: Session) -> bool:
        """Pull until the ledger is complete and the stream caught up; False when interrupted."""
        self._reader.gap_reason = None
        stall_seconds = self._settings.sync_stall_seconds

        async def persevere(span: Callable[[], Awaitable[Pulled]]) -> Pulled:
            async def attempt() -> Pulled:
                self._check_silence()
                return await span()

            return await self._persevere(attempt, stall_seconds)

        await self._pull(
            session, self._settings.reconnect_overlap_seconds, kind="sync", carry_out=persevere
        )
        await self._wait_until(
            lambda: self._reader.is_synchronized or self._reader.was_interrupted,
            self._settings.sync_stall_seconds,
            "the stream never finished its synchronization",
        )
        return not self._reader.was_interrupted

    async def _try_pull(self, session: Session, overlap_seconds: float, *, kind: str) -> None:
        """Pull; a transient failure is left to the next turn, the stream stays open meanwhile."""
        try:
            found = await self._pull(session, overlap_seconds, kind=kind)
        except Transient as failure:
            self._ports.metrics.pulls.labels(kind=kind, outcome=failure.code).inc()
            self._audit.pull_failed(failure)
            return
        if found or self._audit.is_unsettled:
            await self._audit.prove(self._since(self._settings.reconnect_overlap_seconds))

    async def _look_back(self) -> None:
        """Look at old windows again; what is found there must show in the proof."""
        try:
            findings = await self._verifier.step(self._watermark or self._clock.now())
        except Transient as failure:
            log.debug("ledger.verify_delayed", link_id=self._claim.link_id, code=failure.code)
            hint_seconds = hint_of(failure) or 0.0
            self._verifier.put_off(max(self._settings.rolling_interval_seconds, hint_seconds))
            return
        if not findings.is_clean:
            await self._audit.prove(self._since(self._settings.reconnect_overlap_seconds))

    async def _pull(
        self, session: Session, overlap_seconds: float, *, kind: str, carry_out: CarryOut = at_once
    ) -> int:
        """Pull span by span, close each one's window; return how many deals were new.

        A history of more than one span is read in turns with the others' of this node, and what
        is closed of it stays closed: after a failure the next pull begins there.
        """
        start, found = self._since(overlap_seconds), 0
        self._audit.pull_begun()
        pulled = await carry_out(partial(self._pull_span, start))
        found += len(pulled.inserted)
        while not pulled.is_last:
            if self._reader.was_interrupted:
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
        if self._watermark is None or self._watermark < pulled.through:
            await self._ports.ledger.close_window(
                self._claim.fence, start=self._watermark or start, end=pulled.through
            )
            self._watermark = pulled.through
            self._ports.metrics.windows.labels(outcome="closed").inc()
        return pulled

    def _since(self, overlap_seconds: float) -> datetime:
        """Return where a pull starts: the watermark less an overlap, or the history's beginning."""
        beginning = self._claim.spec.sync_from or BEGINNING
        if self._watermark is None:
            return beginning
        return max(beginning, self._watermark - timedelta(seconds=overlap_seconds))

    # Waiting.

    async def _persevere(self, attempt: Callable[[], Awaitable[T]], limit_seconds: float) -> T:
        """Repeat an attempt through transient failures until the limit, with backoff between."""
        deadline = self._clock.monotonic() + limit_seconds
        backoff = Backoff()
        while True:
            try:
                return await attempt()
            except Transient as failure:
                wait = after_failure(
                    backoff,
                    base_seconds=self._settings.backoff_base_seconds,
                    ceiling_seconds=limit_seconds / 4,
                    hint_seconds=hint_of(failure),
                    random=self._ports.random,
                )
                if self._clock.monotonic() + wait.delay_seconds > deadline:
                    raise
                backoff = wait.backoff
                await asyncio.sleep(wait.delay_seconds)

    async def _wait_up(self) -> None:
        """Wait until terminal and broker answer; a broker that is away may stay away."""
        await self._wait_until(
            lambda: self._reader.is_up,
            self._settings.connect_timeout_seconds,
            "no terminal of the account answered",
        )
        self._reader.was_interrupted = False

    async def _wait_until(
        self, is_met: Callable[[], bool], limit_seconds: float, problem: str
    ) -> None:
        began_at = self._clock.monotonic()
        while not is_met():
            if self._reader.is_terminal_up and not self._reader.is_broker_up:
                began_at = self._clock.monotonic()  # the terminal beats: it is the broker we await
            self._check_silence()
            remaining = began_at + limit_seconds - self._clock.monotonic()
            if remaining <= 0:
                raise LinkLost(f"{problem} within {limit_seconds:g} s")
            await self._wait_news(self._clock.monotonic() + min(remaining, 1.0))

    async def _wait_news(self, due: float) -> None:
        """Sleep until the reader noticed something or the clock says so."""
        silent_seconds = self._settings.silence_seconds - self._reader.silence_seconds()
        seconds = min(due - self._clock.monotonic(), silent_seconds + TIMER_SECONDS)
        try:
            async with asyncio.timeout(max(TIMER_SECONDS, seconds)):
                await self._reader.news.wait()
        except TimeoutError:
            self._check_silence()
        self._reader.news.clear()

    def _check_silence(self) -> None:
        silence = self._reader.silence_seconds()
        if silence > self._settings.silence_seconds:
            raise LinkLost(f"nothing heard for {silence:.0f} s, not even a heartbeat")
