"""What keeps a live ledger honest: when to pull and prove again, and which deals count as gone."""

from collections.abc import Mapping
from datetime import datetime

import structlog

from brokerd.connector import proof
from brokerd.connector.backoff import after_failure, hint_of
from brokerd.connector.board import Board
from brokerd.connector.ports import AccountInformation, LinkPorts
from brokerd.connector.pull import Pulled, Puller
from brokerd.connector.removal import (
    TICKETS_ASKED,
    Suspicion,
    fold,
    is_proven_without,
    ripe,
)
from brokerd.domain import Backoff, Claim, Deal, DealId, Phase, Proof, Source
from brokerd.errors import Incomplete, NotFound, Synchronizing, Transient

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

PROOF_ATTEMPTS = 3
"""Readings of a busy account before the proof is put off."""


class Auditor:
    """Owns a session's suspects, its balance verdict, and the times both fall due."""

    def __init__(self, claim: Claim, *, board: Board, puller: Puller, ports: LinkPorts) -> None:
        self._claim = claim
        self._board = board
        self._puller = puller
        self._ports = ports
        self._settings = ports.settings
        self._suspects: Mapping[DealId, Suspicion] = {}
        self._verdict = proof.Verdict(
            finding=proof.Finding(proof=Proof.UNKNOWN, detail="not proven yet")
        )
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
        return bool(self._suspects or self._verdict.mismatches)

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

    def pull_done(self, pulled: Pulled, *, is_rolling: bool) -> None:
        """Schedule the next rolling pull: sooner while deals are suspected to be gone."""
        self._pull_backoff = Backoff()
        if is_rolling:  # a suspect too old to be looked for can never be decided
            self._suspects = {d: s for d, s in self._suspects.items() if d in pulled.held}
        interval = self._settings.rolling_interval_seconds
        if self._suspects:
            interval = min(interval, self._settings.removal_recheck_seconds)
        if is_rolling or self._suspects:
            self._pull_due = self._ports.clock.monotonic() + interval
        if pulled.missing:
            log.warning(
                "ledger.deals_missed_by_broker",
                link_id=self._claim.link_id,
                deals=len(pulled.missing),
            )

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
        if self._board.phase is Phase.LIVE:
            self._ports.metrics.deals_missed.inc(found)

    async def settle(self, pulled: Pulled) -> None:
        """Judge what the pull lacked; raises `Incomplete` when it is the answer that is short.

        Deals absent often enough are removed once the balance proves the ledger without them.
        """
        fresh = [deal for deal in pulled.missing if deal not in self._suspects]
        found = await self._ask_tickets(fresh[:TICKETS_ASKED], pulled)
        if len(fresh) > TICKETS_ASKED and not await self._is_shorter_proven(pulled, fresh):
            raise Incomplete(
                f"{len(fresh)} deals of {self._claim.link_id} are missing from the answer and "
                "the balance does not vouch for it"
            )
        missing = pulled.missing.keys() - found
        self._suspects = fold(
            self._suspects,
            looked_for=pulled.held.keys(),
            missing=missing,
            now=self._ports.clock.now(),
            recheck_seconds=self._settings.removal_recheck_seconds,
        )
        await self._remove(sorted(ripe(self._suspects) & missing), pulled)

    async def _remove(self, gone: list[DealId], pulled: Pulled) -> None:
        """Remove what no ticket finds once more and the balance proves gone."""
        # Sums that cancel out, or deals of no amount, the balance cannot vouch for alone.
        if not gone or await self._ask_tickets(gone[:TICKETS_ASKED], pulled):
            return
        proven_at = self._ports.clock.now()  # later than the pages of this pull, which write too
        if await self._is_shorter_proven(pulled, gone):
            await self._puller.commit((), fetched_at=proven_at, removals=tuple(gone))
            self._suspects = {d: s for d, s in self._suspects.items() if d not in gone}

    async def _ask_tickets(self, missing: list[DealId], pulled: Pulled) -> frozenset[DealId]:
        """Ask for missing deals by ticket: write a re-dated one, fail over one still in place.

        Return those that were found.
        """
        found: set[DealId] = set()
        for deal_id in missing:
            fetched_at = self._ports.clock.now()
            deals = await self._by_ticket(deal_id)
            if any(pulled.start <= deal.time for deal in deals):
                raise Incomplete(f"deal {deal_id} exists, yet the history answer lacked it")
            await self._puller.commit(deals, fetched_at=fetched_at)
            found.update(deal.deal_id for deal in deals)
        return frozenset(found)

    async def _by_ticket(self, deal_id: DealId) -> tuple[Deal, ...]:
        try:
            answer = await self._ports.rest.deals_by_ticket(
                self._claim.spec.metaapi, deal_id=deal_id
            )
        except NotFound:
            return ()  # of the deal or of the account: the latter every other call will tell
        if answer.is_synchronizing:
            raise Synchronizing(f"MetaApi still synchronizes {self._claim.link_id}")
        return tuple(deal for deal in answer.deals if deal.deal_id == deal_id)

    async def _is_shorter_proven(self, pulled: Pulled, gone: list[DealId]) -> bool:
        information = await self._ports.rest.account_information(self._claim.spec.metaapi)
        totals = await self._ports.ledger.totals(self._claim.fence.account_id)
        return is_proven_without(information, totals, [pulled.missing[deal] for deal in gone])

    async def prove(self, since: datetime, *, before: AccountInformation | None = None) -> None:
        """Prove the balance; `before` is a reading taken before the last pull, if there is one."""
        try:
            finding = await self._find(since, before)
        except Transient as failure:
            log.debug("ledger.proof_delayed", link_id=self._claim.link_id, code=failure.code)
            self._put_proof_off(hint_of(failure) or 0.0)
            return
        if finding is None:
            self._put_proof_off(0.0)
            return
        now = self._ports.clock.monotonic()
        counted = self._verdict.mismatches
        self._verdict = proof.judge(
            self._verdict,
            finding,
            now=self._ports.clock.now(),
            retry_seconds=self._settings.proof_retry_seconds,
        )
        self._ports.metrics.proofs.labels(verdict=self._verdict.finding.proof).inc()
        if finding.proof is Proof.MISMATCH:
            self._put_proof_off(0.0)
        else:
            self._proof_due = now + self._settings.proof_interval_seconds
        if counted < self._verdict.mismatches <= proof.MISMATCHES_NEEDED:
            self._pull_due = min(self._pull_due, now)  # a late deal would explain it: look far back
        await self._board.note_proof(self._verdict.finding)

    def _put_proof_off(self, hint_seconds: float) -> None:
        wait_seconds = max(self._settings.proof_retry_seconds, hint_seconds)
        self._proof_due = self._ports.clock.monotonic() + wait_seconds

    async def _find(
        self, since: datetime, before: AccountInformation | None
    ) -> proof.Finding | None:
        remote = self._claim.spec.metaapi
        for _ in range(PROOF_ATTEMPTS):
            if before is None:
                before = await self._ports.rest.account_information(remote)
                pulled = await self._puller.pull(since)
                self.count(pulled)
                if pulled.missing:
                    return None
            totals = await self._ports.ledger.totals(self._claim.fence.account_id)
            after = await self._ports.rest.account_information(remote)
            finding = proof.compare(
                before, after, totals, is_partial=self._claim.spec.sync_from is not None
            )
            if finding is not None:
                return finding
            before = None
        return None
