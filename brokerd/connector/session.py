"""One open session of a link, from the dial to its loss: a reader of hints, a keeper of truth.

Theory. The reader takes what the stream brings and commits deals within milliseconds; it judges
nothing. The keeper owns the phase: it verifies who answered, pulls history until the ledger is
complete, and from then on pulls again at a pace, after every interruption and whenever the stream
admits a loss. Only pulls close windows, so whatever the stream does, completeness is the keeper's
word. Until the keeper knows whose account answered, and again after every interruption, the reader
holds deals back. The two share a handful of fields; neither awaits between reading and writing
them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

import structlog

from brokerd.connector import identity
from brokerd.connector.audit import Auditor
from brokerd.connector.backoff import after_failure, hint_of
from brokerd.connector.board import Board
from brokerd.connector.coverage import Coverage
from brokerd.connector.ports import (
    AccountInformation,
    BrokerStatus,
    Connected,
    DealSeen,
    Disconnected,
    Gap,
    LinkPorts,
    Session,
    StreamEvent,
    Synchronized,
)
from brokerd.connector.pull import Pulled, Puller
from brokerd.connector.states import LinkEvent
from brokerd.connector.verify import Verifier
from brokerd.domain import Backoff, Claim, Deal, DealId, LinkWrite, Source
from brokerd.errors import IdentityMismatch, LinkLost, Transient

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MAX_EARLY_DEALS = 10_000
"""Deals held back until we know whose they are; the pull that follows brings all others."""
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
        self._puller = Puller(claim, ports=ports)
        self._verifier = Verifier(
            claim,
            puller=self._puller,
            ports=ports,
            is_interrupted=lambda: self._was_interrupted,
        )
        self._audit = Auditor(
            claim, board=board, puller=self._puller, verifier=self._verifier, ports=ports
        )
        self._coverage = Coverage(claim, ports=ports)
        self._news = asyncio.Event()
        self._is_up = False
        self._is_broker_up = True
        self._is_stream_synchronized = False
        self._is_identified = False
        self._is_committing = False
        self._early: dict[DealId, Deal] = {}
        self._was_interrupted = False
        self._gap_reason: str | None = None
        self._heard_at = ports.clock.monotonic()
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
        await self._coverage.read()
        session = await self._ports.stream.open(
            self._remote,
            reliability=remote.reliability,
            synced_through=self._coverage.stream_start,
        )
        self._heard_at = self._clock.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(session), name=f"read:{self._claim.link_id}")
                group.create_task(self._keep(session), name=f"keep:{self._claim.link_id}")
        finally:
            self._end_live()
            await session.close()

    # The reader.

    async def _read(self, session: Session) -> None:
        while True:
            events = await session.receive()
            received_at = self._clock.monotonic()
            self._heard_at = received_at
            deals = self._note(events)
            if not self._is_identified:
                self._hold_back(deals)
            elif deals:
                self._is_committing = True
                await self._commit(deals.values())
                self._is_committing = False
                self._heard_at = self._clock.monotonic()
                self._ports.metrics.commit_latency.observe(self._heard_at - received_at)

    def _note(self, events: Sequence[StreamEvent]) -> Mapping[DealId, Deal]:
        """Fold events into what the keeper looks at; return the deals among them."""
        deals: dict[DealId, Deal] = {}
        for event in events:
            match event:
                case DealSeen(deal=deal):
                    deals[deal.deal_id] = deal
                case Gap(reason=reason):
                    self._gap_reason = reason
                    self._ports.metrics.stream_gaps.labels(reason=reason).inc()
                case _:
                    self._follow(event)
        if len(deals) < len(events):
            self._news.set()
        return deals

    def _follow(self, event: Connected | Synchronized | Disconnected | BrokerStatus) -> None:
        """Follow the terminal's ups and downs."""
        match event:
            case Connected():
                if self._is_up:  # without a Disconnected: the terminal began anew
                    self._interrupt()
                self._is_up = True
                self._is_stream_synchronized = False
            case Synchronized():
                self._is_stream_synchronized = True
            case Disconnected():
                self._interrupt()
                self._is_up = False
                self._is_stream_synchronized = False
            case BrokerStatus(is_connected=is_connected):
                if self._is_broker_up and not is_connected:
                    self._interrupt()
                self._is_broker_up = is_connected

    def _interrupt(self) -> None:
        """Doubt everything until the keeper has looked: also who will answer next."""
        self._was_interrupted = True
        self._is_identified = False

    def _hold_back(self, deals: Mapping[DealId, Deal]) -> None:
        if len(self._early) + len(deals) <= MAX_EARLY_DEALS:
            self._early.update(deals)

    async def _commit(self, deals: Collection[Deal]) -> None:
        self._ports.metrics.deals_received.labels(path=Source.STREAM).inc(len(deals))
        await self._ports.ledger.write(
            LinkWrite(
                fence=self._claim.fence,
                link_id=self._claim.link_id,
                user_id=self._claim.spec.user_id,
                source=Source.STREAM,
                deals=tuple(deals),
            )
        )

    # The keeper.

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
        if not (self._was_interrupted or self._gap_reason):
            await self._wait_news(min(self._audit.next_due(), self._verifier.due))
        await self._board.flush()
        if self._was_interrupted:
            await self._recover(session)
        elif self._gap_reason is not None:
            reason, self._gap_reason = self._gap_reason, None
            if not self._audit.is_pull_put_off:  # else the one that waits will read further back
                await self._try_pull(session, self._settings.reconnect_overlap_seconds, kind=reason)
        elif self._audit.is_pull_due():
            await self._try_pull(session, self._settings.rolling_overlap_seconds, kind="rolling")
        elif self._audit.is_proof_due():
            await self._audit.prove(self._coverage.since(self._settings.reconnect_overlap_seconds))
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
            self._coverage.since(self._settings.reconnect_overlap_seconds), before=before
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
        if not self._is_broker_up:
            return "BrokerDisconnected"
        return "Resynchronizing" if self._is_up else "Reconnecting"

    async def _identify(self, limit_seconds: float) -> AccountInformation:
        """Verify who answered; then the stream's deals may pass, those held back first."""
        information = await self._persevere(self._verify, limit_seconds)
        self._is_identified = not self._was_interrupted
        if self._is_identified and self._early:
            early, self._early = self._early, {}
            await self._commit(early.values())
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
        self._gap_reason = None
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
            lambda: self._is_stream_synchronized or self._was_interrupted,
            self._settings.sync_stall_seconds,
            "the stream never finished its synchronization",
        )
        return not self._was_interrupted

    async def _try_pull(self, session: Session, overlap_seconds: float, *, kind: str) -> None:
        """Pull; a transient failure is left to the next turn, the stream stays open meanwhile."""
        try:
            found = await self._pull(session, overlap_seconds, kind=kind)
        except Transient as failure:
            self._ports.metrics.pulls.labels(kind=kind, outcome=failure.code).inc()
            self._audit.pull_failed(failure)
            return
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
            if self._was_interrupted:
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
            lambda: self._is_up and self._is_broker_up,
            self._settings.connect_timeout_seconds,
            "no terminal of the account answered",
        )
        self._was_interrupted = False

    async def _wait_until(
        self, is_met: Callable[[], bool], limit_seconds: float, problem: str
    ) -> None:
        began_at = self._clock.monotonic()
        while not is_met():
            if self._is_up and not self._is_broker_up:
                began_at = self._clock.monotonic()  # the terminal beats: it is the broker we await
            self._check_silence()
            remaining = began_at + limit_seconds - self._clock.monotonic()
            if remaining <= 0:
                raise LinkLost(f"{problem} within {limit_seconds:g} s")
            await self._wait_news(self._clock.monotonic() + min(remaining, 1.0))

    async def _wait_news(self, due: float) -> None:
        """Sleep until the reader noticed something or the clock says so."""
        silent_seconds = self._settings.silence_seconds - self._silence()
        seconds = min(due - self._clock.monotonic(), silent_seconds + TIMER_SECONDS)
        try:
            async with asyncio.timeout(max(TIMER_SECONDS, seconds)):
                await self._news.wait()
        except TimeoutError:
            self._check_silence()
        self._news.clear()

    def _check_silence(self) -> None:
        silence = self._silence()
        if silence > self._settings.silence_seconds:
            raise LinkLost(f"nothing heard for {silence:.0f} s, not even a heartbeat")

    def _silence(self) -> float:
        """Return for how long nothing came; while a commit is under way, we do not listen."""
        return 0.0 if self._is_committing else self._clock.monotonic() - self._heard_at
