"""After the freeze: every account is proven anew and equals the truth, in however many turns.

Accounts that never had a slot get one now: links that are settled are paused to make room.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from brokerd.api.bodies import LinkBody
from brokerd.clock import Clock
from brokerd.demo.fleet import Fleet
from brokerd.demo.ledger import LedgerReader
from brokerd.demo.report import Straggler
from brokerd.demo.tally import DealKey, LedgerRow, TruthRow
from brokerd.demo.truth import AccountTruth
from brokerd.domain import Phase, Proof
from brokerd.health.conditions import Truth

PATIENCE_SECONDS = 60.0
"""How long the settling goes on without another link settled."""
_POLL_SECONDS = 0.5


@dataclass(slots=True, kw_only=True)
class Settlement:
    """Which links are proven after `quiet_at`, which of them equal the truth, which were paused."""

    quiet_at: datetime
    truth: Mapping[str, AccountTruth]
    proven: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    paused: set[str] = field(default_factory=set)

    @property
    def is_over(self) -> bool:
        """Say whether nothing is left to wait for."""
        return self.settled == self.truth.keys()

    def note_proofs(self, links: Collection[LinkBody]) -> set[str]:
        """Take in what the links say; return the proven ones that must still be compared."""
        proven = {link.id for link in links if is_proven(link, since=self.quiet_at)}
        self.proven |= proven
        return proven - self.settled

    def note_rows(self, link_ids: Collection[str], rows: Mapping[DealKey, LedgerRow]) -> None:
        """Take in the ledgers of these links."""
        by_link: dict[str, dict[DealKey, LedgerRow]] = {link_id: {} for link_id in link_ids}
        for key, row in rows.items():
            by_link[key[0]][key] = row
        self.settled |= {
            link_id
            for link_id, ledger in by_link.items()
            if is_equal(self.truth[link_id].rows, ledger)
        }

    def to_pause(self, links: Collection[LinkBody]) -> list[str]:
        """Choose settled links to give way to those that still wait for a slot."""
        waiting = [
            link
            for link in links
            if link.status.phase is Phase.QUEUED and link.id not in self.settled
        ]
        able = sorted(
            link.id
            for link in links
            if link.status.phase is Phase.LIVE and link.id in self.settled - self.paused
        )
        return able[: len(waiting)]


async def settle(
    settlement: Settlement,
    *,
    fleet: Fleet,
    ledger: LedgerReader,
    clock: Clock,
    look: Callable[[Collection[LinkBody]], Awaitable[None]],
) -> list[Straggler]:
    """Wait until all are settled, or none was for too long; return those that are not."""
    progressed_at = clock.monotonic()
    while True:
        links = await fleet.links()
        await look(links)
        before = len(settlement.settled)
        candidates = settlement.note_proofs(links)
        if candidates:
            settlement.note_rows(candidates, await ledger.deals(candidates))
        if settlement.is_over:
            return []
        if len(settlement.settled) > before:
            progressed_at = clock.monotonic()
        if clock.monotonic() - progressed_at > PATIENCE_SECONDS:
            return [
                straggler_of(link, settlement)
                for link in links
                if link.id not in settlement.settled
            ]
        chosen = settlement.to_pause(links)
        settlement.paused |= set(chosen)
        await fleet.pause(chosen)
        await asyncio.sleep(_POLL_SECONDS)


def is_proven(link: LinkBody, *, since: datetime) -> bool:
    """Say whether the balance was proven after a moment."""
    sync = link.status.sync
    return (
        sync.balance_proof is Proof.PROVEN
        and sync.last_audit_at is not None
        and sync.last_audit_at > since
    )


def is_equal(truth: Mapping[DealKey, TruthRow], ledger: Mapping[DealKey, LedgerRow]) -> bool:
    """Say whether an account's ledger holds the truth and nothing else."""
    return truth.keys() == ledger.keys() and all(
        row.facts == ledger[key].facts for key, row in truth.items()
    )


def straggler_of(link: LinkBody, settlement: Settlement) -> Straggler:
    """Say how a link stands that did not settle."""
    unmet = [each for each in link.status.conditions if each.status is not Truth.TRUE]
    return Straggler(
        link=link.id,
        phase=link.status.phase,
        proof=link.status.sync.balance_proof,
        reason="; ".join(f"{each.type}: {each.reason} {each.message}".strip() for each in unmet),
        is_proven=link.id in settlement.proven,
    )
