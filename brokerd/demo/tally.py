"""The demo's verdict: the ledger held against the broker's truth, deal by deal."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

LinkName = str
DealKey = tuple[LinkName, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What must be equal: the broker's own words about a deal."""

    type: str
    entry: str | None
    symbol: str | None
    volume: Decimal | None
    price: Decimal | None
    time: datetime
    profit: Decimal
    commission: Decimal
    swap: Decimal
    order_id: str | None
    position_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthRow:
    """A deal at the broker, and when the broker made the record."""

    facts: Facts
    booked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """A deal in the ledger: who saw it first, and when it was committed."""

    facts: Facts
    source: str
    committed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSpan:
    """A stretch of time in which a link was live."""

    start: datetime
    end: datetime


EventKey = tuple[LinkName, str, int]
"""Link, deal, revision: a fact that must have been told at most once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What the comparison found. All keys are sorted, so that a report repeats itself."""

    deals_truth: int
    deals_ledger: int
    missing: tuple[DealKey, ...]  # at the broker, not in the ledger
    invented: tuple[DealKey, ...]  # in the ledger, not at the broker
    different: tuple[DealKey, ...]  # in both, not equal
    duplicated: int  # events beyond one for a deal's revision

    @property
    def is_clean(self) -> bool:
        """Say whether ledger and truth are the same."""
        return not (self.missing or self.invented or self.different or self.duplicated)


def tally(
    truth: Mapping[DealKey, TruthRow],
    ledger: Mapping[DealKey, LedgerRow],
    events: Sequence[EventKey],
) -> Tally:
    """Compare the ledger with the truth and count what was told twice."""
    both = truth.keys() & ledger.keys()
    told = Counter(events)
    return Tally(
        deals_truth=len(truth),
        deals_ledger=len(ledger),
        missing=tuple(sorted(truth.keys() - ledger.keys())),
        invented=tuple(sorted(ledger.keys() - truth.keys())),
        different=tuple(sorted(key for key in both if truth[key].facts != ledger[key].facts)),
        duplicated=sum(times - 1 for times in told.values()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSeen:
    """How deals that were made while their link was live reached the ledger first."""

    stream: int
    pull: int  # the rolling one, or one that read an old window again
    latencies_ms: tuple[float, ...]  # broker's record to commit, of those the stream brought


def first_seen(
    truth: Mapping[DealKey, TruthRow],
    ledger: Mapping[DealKey, LedgerRow],
    live: Mapping[LinkName, Sequence[LiveSpan]],
    *,
    until: datetime,
) -> FirstSeen:
    """Count, for deals made before `until` while their link was live, what brought them first."""
    counts: Counter[str] = Counter()
    latencies: list[float] = []
    for key, made in truth.items():
        stored = ledger.get(key)
        if stored is None or made.booked_at >= until:
            continue
        if not any(span.start <= made.booked_at < span.end for span in live.get(key[0], ())):
            continue
        counts[stored.source] += 1
        if stored.source == "stream":
            latencies.append((stored.committed_at - made.booked_at).total_seconds() * 1000)
    return FirstSeen(
        stream=counts["stream"],
        pull=counts.total() - counts["stream"],
        latencies_ms=tuple(sorted(latencies)),
    )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least `share` of the ordered values do not exceed."""
    if not ordered:
        return None
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]
