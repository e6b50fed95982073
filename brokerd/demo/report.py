"""The demo's result: figures, what is wrong with them, and the exit code; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from brokerd.demo.tally import FirstSeen, Tally, percentile

EXIT_CLEAN = 0
EXIT_FAILED = 1
MEMORY_GROWTH_LIMIT_MB = 64.0
"""What the daemon may take more while PostgreSQL is away: its buffers, however long that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCounts:
    """How many deals each way brought first."""

    stream: int
    pull: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Milliseconds from the broker's record to our commit; None when there was no such deal."""

    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """A link that was not settled in time, and what it said of itself."""

    link: str
    phase: str
    proof: str
    reason: str
    is_proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """Megabytes that the daemon held."""

    before: float
    peak: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOutages:
    """What was seen of PostgreSQL's absences under the chaos.

    `not_ready_seen` is how often `/readyz` said so. A session is lost when its link was not live
    all along, or when another stream was begun for it.
    """

    asked_seconds: float
    stopped_seconds: float
    restarts: int
    not_ready_seen: int
    links_watched: int
    sessions_lost: int
    daemon_memory_mb: MemoryFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was noted at the freeze and while the links settled."""

    accounts: int
    max_links: int
    seed: int
    seconds: float
    live: int
    queued: int
    queue_positions: Sequence[int]
    max_live_seen: int
    reconnects: int
    faults: Mapping[str, int]
    store_outages: StoreOutages | None
    proven: int
    settle_seconds: float
    stragglers: Sequence[Straggler]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the demo prints as JSON; the field names are its interface."""

    accounts: int
    max_links: int
    seed: int
    seconds: float
    live: int
    queued: int
    queue_positions: Sequence[int]
    max_live_seen: int
    deals_truth: int
    deals_ledger: int
    missing: int
    invented: int
    duplicated: int
    different: int
    balances_different: int
    balance_proven: int
    first_seen_by: SourceCounts
    faults: Mapping[str, int]
    store_outages: StoreOutages | None
    deal_to_commit_ms: Percentiles
    reconnects: int
    settle_seconds: float
    stragglers: Sequence[Straggler]


def make_report(
    figures: Figures, *, found: Tally, seen: FirstSeen, balances_different: int
) -> Report:
    """Put the figures together."""
    return Report(
        accounts=figures.accounts,
        max_links=figures.max_links,
        seed=figures.seed,
        seconds=round(figures.seconds, 1),
        live=figures.live,
        queued=figures.queued,
        queue_positions=tuple(figures.queue_positions),
        max_live_seen=figures.max_live_seen,
        deals_truth=found.deals_truth,
        deals_ledger=found.deals_ledger,
        missing=len(found.missing),
        invented=len(found.invented),
        duplicated=found.duplicated,
        different=len(found.different),
        balances_different=balances_different,
        balance_proven=figures.proven,
        first_seen_by=SourceCounts(stream=seen.stream, pull=seen.pull),
        faults=dict(figures.faults),
        store_outages=figures.store_outages,
        deal_to_commit_ms=Percentiles(
            p50=_rounded(percentile(seen.latencies_ms, 0.5)),
            p99=_rounded(percentile(seen.latencies_ms, 0.99)),
        ),
        reconnects=figures.reconnects,
        settle_seconds=round(figures.settle_seconds, 1),
        stragglers=tuple(figures.stragglers),
    )


def problems(report: Report, *, is_chaos: bool) -> list[str]:
    """Say in words what keeps the demo from being clean; nothing when it is."""
    wrong = {
        "deals missing": report.missing,
        "deals invented": report.invented,
        "deals told more than once": report.duplicated,
        "deals different": report.different,
        "balances different": report.balances_different,
        "accounts not proven": report.accounts - report.balance_proven,
        "links live beyond max-links": max(0, report.max_live_seen - report.max_links),
    }
    said = [f"{count} {what}" for what, count in wrong.items() if count]
    if is_chaos:
        unseen = sorted(kind for kind, times in report.faults.items() if not times)
        said += [f"fault never injected: {kind}" for kind in unseen]
        said += _outage_problems(report.store_outages)
    return said


def _outage_problems(seen: StoreOutages | None) -> list[str]:
    if seen is None:
        return ["PostgreSQL was never taken away"]
    memory = seen.daemon_memory_mb
    growth_mb = memory.peak - memory.before
    wrong = {
        f"PostgreSQL was stopped for {seen.stopped_seconds} s only": (
            seen.stopped_seconds < seen.asked_seconds
        ),
        "PostgreSQL was not restarted": not seen.restarts,
        "the daemon never said that PostgreSQL was away": not seen.not_ready_seen,
        "no link was live when PostgreSQL went away": not seen.links_watched,
        f"{seen.sessions_lost} sessions lost with PostgreSQL": bool(seen.sessions_lost),
        f"memory grew by {growth_mb:.0f} MB": growth_mb > MEMORY_GROWTH_LIMIT_MB,
    }
    return [words for words, is_so in wrong.items() if is_so]


def summary(report: Report) -> str:
    """Put a report into a few lines for people."""
    seen, latency = report.first_seen_by, report.deal_to_commit_ms
    lines = {
        "links": f"{report.live} live, {report.queued} queued at the freeze; "
        f"at most {report.max_live_seen} of {report.max_links} live at once",
        "deals": f"{report.deals_truth} at the broker, {report.deals_ledger} in the ledger",
        "wrong": f"{report.missing} missing, {report.invented} invented, "
        f"{report.duplicated} doubled, {report.different} different",
        "proven": f"{report.balance_proven} of {report.accounts} balances",
        "live deals": f"{seen.stream} first seen by the stream, {seen.pull} by a pull",
        "latency": f"broker to commit {latency.p50} ms (p50), {latency.p99} ms (p99)",
        "faults": f"{sum(report.faults.values())} injected, {report.reconnects} reconnects",
        "PostgreSQL": _outage_words(report.store_outages),
        "time": f"{report.seconds} s of trading, {report.settle_seconds} s to settle",
    }
    return "\n".join(f"{name:<11}{words}" for name, words in lines.items())


def _outage_words(seen: StoreOutages | None) -> str:
    if seen is None:
        return "there all the time"
    memory = seen.daemon_memory_mb
    return (
        f"stopped for {seen.stopped_seconds} s, restarted {seen.restarts} time(s); "
        f"{seen.sessions_lost} of {seen.links_watched} sessions lost; "
        f"daemon {memory.before} MB before, {memory.peak} MB at most"
    )


def exit_code(report: Report, *, is_chaos: bool) -> int:
    """Return 0 only for a demo that is clean."""
    return EXIT_FAILED if problems(report, is_chaos=is_chaos) else EXIT_CLEAN


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
