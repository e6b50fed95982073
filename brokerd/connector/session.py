"""One open session of a link, from the dial to its loss: the keeper of truth beside its reader.

Theory. The reader (reader.py) takes what the stream brings, as hints. The keeper owns the phase: it
verifies who answered, pulls history until the ledger is complete, and from then on pulls again at
a pace, after every interruption and whenever the stream admits a loss. Only pulls close windows,
so whatever the stream does, completeness is the keeper's word.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from functools import partial

import structlog

from brokerd.connector import identity
from brokerd.connector.audit import Auditor
from brokerd.connector.backoff import hint_of
from brokerd.connector.board import Board
from brokerd.connector.coverage import Coverage
from brokerd.connector.operations import AskedAudit
from brokerd.connector.ports import AccountInformation, LinkPorts, Provisioned, Session
from brokerd.connector.pull import CarryOut, Pulled, Puller, at_once
from brokerd.connector.reader import Reader
from brokerd.connector.silence import Rhythm
from brokerd.connector.standing import Standing
from brokerd.connector.states import LinkEvent, deadlines
from brokerd.connector.verify import Verifier
from brokerd.connector.waiting import TIMER_SECONDS, await_turn, persevere
from brokerd.connector.watch import Watch
from brokerd.domain import Phase, Source
from brokerd.errors import (
    BrokerAway,
    ConnectTimeout,
    IdentityMismatch,
    StreamDeaf,
    SyncStalled,
    TimedOut,
    Transient,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

UNHEARD_SECONDS = 1.0
"""A stream that comes back sooner brings everything itself."""


class LinkSession:
    """One attempt of a link: it ends by raising, or by being cancelled; then it is to be closed.

    Its account is deployed. `rhythm` is what earlier sessions learnt of the heartbeats; `standing`
    tells how long it lived.
    """

    def __init__(
        self,
        provisioned: Provisioned,
        *,
        rhythm: Rhythm,
        standing: Standing,
        board: Board,
        ports: LinkPorts,
    ) -> None:
        self._standing = standing
        self._claim = claim = provisioned.claim
        self._account = provisioned.account
        self._board = board
        self._ports = ports
        self._settings = ports.settings
        limits = deadlines(ports.settings, provision_seconds=ports.provisioning.timeout_seconds)
        self._limits = {phase: each.seconds for phase, each in limits.items()}
        self._clock = ports.clock
        self._remote = identity.remote_of(claim)
        self._puller = Puller(claim, ports=ports)
        self._verifier = Verifier(
            claim,
            puller=Puller(claim, ports=ports, source=Source.AUDIT),
            ports=ports,
            is_interrupted=lambda: self._reader.was_interrupted,
        )
        self._audit = Auditor(
            claim,
            board=board,
            puller=self._puller,
            verifier=self._verifier,
            ports=ports,
        )
        self._asked = AskedAudit(claim, auditor=self._audit, verifier=self._verifier, ports=ports)
        self._hearing = self._audit.hearing
        self._reader = Reader(claim, rhythm=rhythm, hearing=self._hearing, ports=ports)
        self._watch = Watch(claim, board=board, reader=self._reader, ports=ports)
        self._session: Session | None = None
        self._coverage = Coverage(claim, ports=ports)
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        """Dial and stay; raises `Transient` when lost, `Rejected` when refused, `Fenced`."""
        await self._coverage.read()
        session = await self._ports.stream.open(
            self._remote,
            account=self._account,
            synced_through=self._coverage.stream_start,
        )
        self._session = session
        self._reader.listen_anew()
        try:
            async with self._group as group:
                group.create_task(self._reader.read(session), name=f"read:{self._claim.link_id}")
                group.create_task(self._watch.run(), name=f"watch:{self._claim.link_id}")
                group.create_task(self._keep(session), name=f"keep:{self._claim.link_id}")
        finally:
            self._standing.leave()

    async def close(self) -> None:
        """Close what `run` opened, in bounded time. Its loss need not wait to be told for this."""
        if self._session is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits[Phase.DRAINING]):
                    await self._session.close()

    async def _keep(self, session: Session) -> None:
        self._standing.leave()
        await self._wait_up(session)
        await self._board.enter(LinkEvent.ANSWERED, "Answered")
        information = await self._identify(self._limits[Phase.VERIFYING])
        await self._board.enter(LinkEvent.IDENTIFIED, "Identified")
        await self._become_live(session, before=information)
        with self._ports.operations.followed(self._claim.fence.account_id, self._reader.news.set):
            while True:
                await self._tend(session)

    async def _tend(self, session: Session) -> None:
        """Wait for the next thing to do, and do it."""
        if not (self._reader.was_interrupted or self._reader.gap_reason):
            await self._wait_news(self._next_due())
        await self._board.flush()
        if self._reader.was_interrupted:
            await self._recover(session)
            return
        await self._standing.look()
        job = self._next_job(session)
        if job is not None:
            await self._do(job)

    def _next_due(self) -> float:
        return min(
            self._audit.next_due(),
            self._asked.due,
            self._verifier.due,
            self._hearing.due,
            self._standing.due,
        )

    def _next_job(self, session: Session) -> Coroutine[object, object, object] | None:
        """Return what is to be done now, if anything is."""
        settings, now = self._settings, self._clock.monotonic()
        if now >= self._hearing.due:
            self._detected("deaf", since=now - self._hearing.missed_seconds(self._clock.now()))
            raise StreamDeaf("the stream beats, but only pulls bring deals")
        if self._reader.gap_reason is not None:
            reason, self._reader.gap_reason = self._reader.gap_reason, None
            if self._audit.is_pull_put_off:  # the one that waits will read further back
                return None
            return self._fill_gap(session, reason)
        if self._audit.is_pull_due():
            return self._roll(session)
        if self._asked.is_due():
            return self._asked.step(self._coverage.since(settings.reconnect_overlap_seconds))
        if self._audit.is_proof_due():
            return self._audit.prove(self._coverage.since(settings.reconnect_overlap_seconds))
        return self._look_back() if now >= self._verifier.due else None

    async def _do(self, job: Coroutine[object, object, object]) -> None:
        """Do what an interruption ends at once: from then on we do not know who answers."""
        if self._reader.was_interrupted:
            job.close()
            return
        task = self._group.create_task(job, name=f"job:{self._claim.link_id}")
        self._reader.on_interrupt = task.cancel
        try:
            await asyncio.wait({task})
        finally:
            self._reader.on_interrupt = None

    async def _recover(self, session: Session) -> None:
        """Come back after an interruption on the same session."""
        self._standing.leave()
        self._detected("interruption", since=self._reader.interrupted_at)
        self._ports.incidents.lost(self._claim.link_id)
        await self._board.enter(LinkEvent.INTERRUPTED, self._why_down())
        await self._wait_up(session)
        await await_turn(
            self._claim.link_id,
            ports=self._ports,
            is_up=True,
            is_called_off=lambda: self._reader.was_interrupted,
        )
        information = await self._identify(self._limits[Phase.SYNCING])
        await self._become_live(session, before=information)

    async def _become_live(self, session: Session, *, before: AccountInformation) -> None:
        """Sync, be live, prove it; what interrupts the sync is left to the next turn."""
        if not await self._sync(session):
            return
        self._standing.arrive()
        self._ports.incidents.live(self._claim.link_id)
        self._hearing.begin(self._clock.now())
        await self._board.enter(LinkEvent.CAUGHT_UP, "Live")
        since = self._coverage.since(self._settings.reconnect_overlap_seconds)
        await self._do(self._audit.prove(since, before=before))

    def _why_down(self) -> str:
        if not self._reader.is_broker_up:
            return "BrokerDisconnected"
        return "Resynchronizing" if self._reader.is_terminal_up else "Reconnecting"

    async def _identify(self, limit_seconds: float) -> AccountInformation:
        """Verify who answered; then the stream's deals may pass, those held back first."""
        information = await persevere(self._verify, limit_seconds=limit_seconds, ports=self._ports)
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
        stall_seconds = self._limits[Phase.SYNCING]

        async def through_failures(span: Callable[[], Awaitable[Pulled]]) -> Pulled:
            return await persevere(span, limit_seconds=stall_seconds, ports=self._ports)

        await self._pull(
            session,
            self._settings.reconnect_overlap_seconds,
            kind="sync",
            carry_out=through_failures,
        )
        await self._wait_until(
            lambda: self._reader.is_synchronized or self._reader.was_interrupted,
            SyncStalled("the stream did not finish its synchronization"),
            limit_seconds=stall_seconds,
        )
        return not self._reader.was_interrupted

    async def _fill_gap(self, session: Session, reason: str) -> None:
        """Pull what the stream admitted to have lost."""
        told_at = self._reader.gap_at
        found = await self._try_pull(session, self._settings.reconnect_overlap_seconds, kind=reason)
        if found is not None:
            self._detected("gap", since=told_at)
            await self._prove_found(found)

    async def _roll(self, session: Session) -> None:
        """Pull as far back as late and edited deals are looked for."""
        found = await self._try_pull(
            session, self._settings.rolling_overlap_seconds, kind="rolling"
        )
        if found is not None:
            await self._prove_found(found)

    async def _try_pull(self, session: Session, overlap_seconds: float, *, kind: str) -> int | None:
        """Pull; a transient failure is left to the next turn, the stream stays open meanwhile."""
        try:
            return await self._pull(session, overlap_seconds, kind=kind)
        except Transient as failure:
            self._ports.metrics.pulls.labels(kind=kind, outcome=failure.code).inc()
            self._audit.pull_failed(failure)
            return None

    async def _prove_found(self, found: int) -> None:
        if found or self._audit.is_unsettled:
            await self._audit.prove(self._coverage.since(self._settings.reconnect_overlap_seconds))

    async def _look_back(self) -> None:
        """Look at old windows again; what is found there must show in the proof."""
        try:
            findings = await self._verifier.step(self._coverage.watermark or self._clock.now())
        except Transient as failure:
            log.debug("ledger.verify_delayed", link_id=self._claim.link_id, code=failure.code)
            hint_seconds = hint_of(failure) or 0.0
            self._verifier.put_off(max(self._settings.rolling_interval_seconds, hint_seconds))
            return
        if not findings.is_clean:
            await self._audit.prove(self._coverage.since(self._settings.reconnect_overlap_seconds))

    async def _pull(
        self, session: Session, overlap_seconds: float, *, kind: str, carry_out: CarryOut = at_once
    ) -> int:
        """Pull span by span, close each one's window; return how many deals were new.

        A history of more than one span is read in turns with the others' of this node, and what
        is closed of it stays closed: after a failure the next pull begins there.
        """
        start, found = self._coverage.since(overlap_seconds), 0
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
        """Pull one span, settle what is missing, close the part that was open.

        It begins earlier when the ledger went back since the pull was planned.
        """
        pulled = await self._puller.pull(min(start, self._coverage.since(0.0)))
        self._audit.count(pulled)
        await self._audit.settle(pulled)
        if await self._coverage.close(pulled):
            self._ports.metrics.windows.labels(outcome="closed").inc()
        return pulled

    async def _wait_up(self, session: Session) -> None:
        """Wait until terminal and broker answer; a broker that is away may stay away."""
        name = f"unheard:{self._claim.link_id}"
        pulling = self._group.create_task(self._pull_unheard(session), name=name)
        try:
            await self._wait_until(
                lambda: self._reader.is_up,
                ConnectTimeout("no terminal of the account answered"),
                limit_seconds=self._limits[Phase.CONNECTING],
            )
        finally:
            pulling.cancel()
            await asyncio.wait({pulling})
        self._reader.was_interrupted = False

    async def _pull_unheard(self, session: Session) -> None:
        """Carry the ledger on while the stream is away: REST may work all the while.

        Once soon, links that were lost together apart, and then at the pace of rolling pulls.
        """
        interval_seconds = self._settings.rolling_interval_seconds
        spread_seconds = max(UNHEARD_SECONDS, interval_seconds / 10)
        await asyncio.sleep(self._ports.random.uniform(UNHEARD_SECONDS, spread_seconds))
        while True:
            if self._coverage.watermark is not None and not self._reader.is_terminal_up:
                try:
                    await self._verify()
                    overlap_seconds = self._settings.reconnect_overlap_seconds
                    await self._pull(session, overlap_seconds, kind="unheard")
                except Transient as failure:
                    outcome = failure.code
                    self._ports.metrics.pulls.labels(kind="unheard", outcome=outcome).inc()
            await asyncio.sleep(interval_seconds)

    async def _wait_until(
        self, is_met: Callable[[], bool], failure: TimedOut, *, limit_seconds: float
    ) -> None:
        began_at = alone_since = self._clock.monotonic()
        while not is_met():
            now = self._clock.monotonic()
            is_broker_awaited = self._reader.is_terminal_up and not self._reader.is_broker_up
            if is_broker_awaited:
                began_at = now
            if not is_broker_awaited or self._ports.incidents.is_expected(self._claim):
                alone_since = now
            if now >= began_at + limit_seconds:
                raise failure
            if now >= alone_since + self._settings.broker_away_seconds:
                raise BrokerAway(f"no login at the broker for {now - alone_since:.0f} s")
            await self._wait_news(began_at + limit_seconds)

    async def _wait_news(self, due: float) -> None:
        """Sleep until the reader noticed something or the clock says so."""
        seconds = due - self._clock.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(TIMER_SECONDS, seconds)):
                await self._reader.news.wait()
        self._reader.news.clear()

    def _detected(self, signal: str, *, since: float) -> None:
        seconds = self._clock.monotonic() - since
        self._ports.metrics.link_detection.labels(signal=signal).observe(seconds)
