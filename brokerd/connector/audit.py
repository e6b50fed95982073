"""What keeps a live ledger honest: when to pull and prove again, and which deals count as gone."""

from datetime import datetime, timedelta

import structlog

from brokerd.connector import proof
from brokerd.connector.backoff import after_failure, hint_of
from brokerd.connector.board import Board
from brokerd.connector.hearing import Hearing
from brokerd.connector.identity import remote_of
from brokerd.connector.ports import AccountInformation, LinkPorts
from brokerd.connector.pull import Pulled, Puller
from brokerd.connector.settle import Settler
from brokerd.connector.verify import Verifier
from brokerd.domain import Anchor, Backoff, Claim, DealId, Phase, Proof, Source
from brokerd.errors import Transient

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

PROOF_ATTEMPTS = 3
"""Readings of a busy account before the proof is put off."""


class Auditor:
    """Owns a session's suspects, its balance verdict, and the times both fall due.

    `hearing` is what pulls brought that the stream should have brought.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        board: Board,
        puller: Puller,
        verifier: Verifier,
        ports: LinkPorts,
    ) -> None:
        self._claim = claim
        self.hearing = Hearing()
        self._verifier = verifier
        self._board = board
        self._puller = puller
        self._ports = ports
        self._settings = ports.settings
        self._settler = Settler(claim, puller=puller, ports=ports)
        self._looked_for: frozenset[DealId] = frozenset()
        self._verdict = proof.Verdict(
            finding=proof.Finding(proof=Proof.UNKNOWN, detail="not proven yet")
        )
        self._anchor_seen: tuple[Anchor | None, datetime] | None = None
        now = ports.clock.monotonic()
        # Spread over the interval: links that came up together must not pull together for ever.
        self._pull_due = (
            now + ports.random.uniform(0.1, 1.0) * self._settings.rolling_interval_seconds
        )
        self._pull_backoff = Backoff()
        self._proof_due = now + self._settings.proof_interval_seconds

    @property
    def is_unsettled(self) -> bool:
        """Say whether something waits for the next pull or proof to be decided."""
        return bool(self._settler.suspects or self._verdict.mismatches)

    @property
    def is_pull_put_off(self) -> bool:
        """Say whether the last pull failed and the next one has to wait."""
        return self._pull_backoff.attempt > 0 and not self.is_pull_due()

    def next_due(self) -> float:
        """Return the monotonic time of the next pull or proof."""
        return min(self._pull_due, self._proof_due)

    def is_pull_due(self) -> bool:
        """Say whether a rolling pull is due."""
        return self._ports.clock.monotonic() >= self._pull_due

    def is_proof_due(self) -> bool:
        """Say whether a balance proof is due."""
        return self._ports.clock.monotonic() >= self._proof_due

    def pull_begun(self) -> None:
        """Start anew to note which suspects a pull looks for, over all its spans."""
        self._looked_for = frozenset()

    def pull_done(self, *, is_rolling: bool) -> None:
        """Schedule the next rolling pull: sooner while deals are suspected to be gone."""
        self._pull_backoff = Backoff()
        if is_rolling:
            self._settler.keep_only(self._looked_for)
        interval = self._settings.rolling_interval_seconds
        if self._settler.suspects:
            interval = min(interval, self._settings.removal_recheck_seconds)
        if is_rolling or self._settler.suspects:
            self._pull_due = self._ports.clock.monotonic() + interval

    def pull_failed(self, failure: Transient) -> None:
        """Put the next pull off: soon at first, never before the time we were told."""
        wait = after_failure(
            self._pull_backoff,
            base_seconds=self._settings.backoff_base_seconds,
            ceiling_seconds=self._settings.rolling_interval_seconds,
            hint_seconds=hint_of(failure),
            random=self._ports.random,
        )
        level = log.warning if self._pull_backoff.attempt == 0 else log.debug
        level(
            "link.pull_failed",
            link_id=self._claim.link_id,
            code=failure.code,
            problem=str(failure),
            delay_seconds=round(wait.delay_seconds, 3),
        )
        self._pull_backoff = wait.backoff
        self._pull_due = self._ports.clock.monotonic() + wait.delay_seconds
        self._proof_due = max(self._proof_due, self._pull_due)  # it pulls too

    def count(self, pulled: Pulled) -> None:
        """Count what a pull brought; to a live link the stream should have brought it."""
        found = len(pulled.inserted)
        self._ports.metrics.deals_received.labels(path=Source.PULL).inc(found)
        if self._board.phase in {Phase.LIVE, Phase.SUSPECT}:
            self._ports.metrics.deals_missed.inc(found)
            now = self._ports.clock.monotonic()
            self.hearing.found(pulled.inserted.values(), now=now)

    async def settle(self, pulled: Pulled) -> None:
        """Judge what a pull lacked; raises `Incomplete` when it is the answer that is short."""
        before = frozenset(self._settler.suspects)
        await self._settler.settle(pulled)
        self._looked_for |= pulled.held.keys() & (before | frozenset(self._settler.suspects))
        if pulled.missing:
            log.warning(
                "ledger.deals_missed_by_broker",
                link_id=self._claim.link_id,
                deals=len(pulled.missing),
            )

    @property
    def verdict(self) -> proof.Verdict:
        """Return where the proof stands."""
        return self._verdict

    @property
    def proof_due(self) -> float:
        """Return the monotonic time of the next proof."""
        return self._proof_due

    async def prove(
        self,
        since: datetime,
        *,
        before: AccountInformation | None = None,
        is_all_read: bool = False,
    ) -> bool:
        """Prove the balance; say whether it could be compared, else it is put off.

        `before` is a reading taken before the last pull, if there is one; `is_all_read` spares a
        last doubt from reading all history again, because that was just done.
        """
        try:
            finding = await self._find(since, before)
            if not is_all_read and self._is_last_doubt(finding):
                await self._verifier.verify_all()
                finding = await self._find(since, None)
        except Transient as failure:
            log.debug("ledger.proof_delayed", link_id=self._claim.link_id, code=failure.code)
            self._put_proof_off(hint_of(failure) or 0.0)
            return False
        if finding is None:
            self._put_proof_off(0.0)
            return False
        now = self._ports.clock.monotonic()
        counted = self._verdict.mismatches
        self._verdict = proof.judge(
            self._verdict,
            finding,
            now=self._ports.clock.now(),
            retry_seconds=self._settings.proof_retry_seconds,
        )
        self._ports.metrics.proofs.labels(verdict=self._verdict.finding.proof).inc()
        if finding.proof is Proof.MISMATCH or finding.detail == proof.NOT_ANCHORED:
            self._put_proof_off(0.0)
        else:
            self._proof_due = now + self._settings.proof_interval_seconds
        if counted < self._verdict.mismatches <= proof.MISMATCHES_NEEDED:
            self._pull_due = min(self._pull_due, now)  # a late deal would explain it: look far back
        await self._board.note_proof(self._verdict.finding)
        return True

    def _is_last_doubt(self, finding: proof.Finding | None) -> bool:
        """Say whether this mismatch would be the verdict: then all history is read again first."""
        return (
            finding is not None
            and finding.proof is Proof.MISMATCH
            and proof.is_next_the_last(
                self._verdict,
                now=self._ports.clock.now(),
                retry_seconds=self._settings.proof_retry_seconds,
            )
        )

    def _put_proof_off(self, hint_seconds: float) -> None:
        wait_seconds = max(self._settings.proof_retry_seconds, hint_seconds)
        self._proof_due = self._ports.clock.monotonic() + wait_seconds

    async def _find(
        self, since: datetime, before: AccountInformation | None
    ) -> proof.Finding | None:
        remote = remote_of(self._claim)
        for _ in range(PROOF_ATTEMPTS):
            if before is None:
                before = await self._ports.rest.account_information(remote)
                if not await self._is_pull_whole(since):
                    return None
            totals = await self._ports.ledger.totals(self._claim.fence.account_id)
            after = await self._ports.rest.account_information(remote)
            is_partial = self._claim.spec.sync_from is not None
            finding = proof.compare(before, after, totals, is_partial=is_partial)
            if finding is not None and finding.detail == proof.NOT_ANCHORED:
                await self._anchor(proof.anchor_of(after, totals))
            if finding is not None:
                return finding
            before = None
        return None

    async def _anchor(self, anchor: Anchor | None) -> None:
        """Anchor a partial history once two proofs, a while apart, saw the same before it.

        One alone may have met a deal that was in the balance and not yet in the history.
        """
        now = self._ports.clock.now()
        seen, self._anchor_seen = self._anchor_seen, (anchor, now)
        if anchor is None or seen is None or seen[0] != anchor:
            return
        if now - seen[1] < timedelta(seconds=self._settings.proof_retry_seconds):
            self._anchor_seen = seen
            return
        await self._ports.windows.anchor(self._claim.fence, anchor)
        log.info(
            "ledger.anchored",
            link_id=self._claim.link_id,
            balance=str(anchor.balance),
            credit=str(anchor.credit),
        )

    async def _is_pull_whole(self, since: datetime) -> bool:
        """Pull from then to now; say whether no deal of the ledger was missing."""
        while True:
            pulled = await self._puller.pull(since)
            self.count(pulled)
            if pulled.missing:
                return False
            if pulled.is_last:
                return True
            since = pulled.end
