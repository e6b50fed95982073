"""The exit code is 0 only for a demo in which nothing at all was wrong."""

from dataclasses import replace

import msgspec
import pytest

from brokerd.demo.report import (
    MemoryFigures,
    Percentiles,
    Report,
    SourceCounts,
    StoreOutages,
    exit_code,
    problems,
    summary,
)
from brokerd.sandbox.faults import FaultKind

OUTAGES = StoreOutages(
    asked_seconds=10.0,
    stopped_seconds=10.1,
    restarts=1,
    not_ready_seen=8,
    links_watched=10,
    sessions_lost=0,
    daemon_memory_mb=MemoryFigures(before=150.0, peak=153.0, after=151.0),
)
CLEAN = Report(
    accounts=25,
    max_links=10,
    seed=1,
    seconds=30.0,
    live=10,
    queued=15,
    queue_positions=tuple(range(1, 16)),
    max_live_seen=10,
    deals_truth=1_400,
    deals_ledger=1_400,
    missing=0,
    invented=0,
    duplicated=0,
    different=0,
    balances_different=0,
    balance_proven=25,
    first_seen_by=SourceCounts(stream=95, pull=5),
    faults=dict.fromkeys(map(str, FaultKind), 1),
    store_outages=OUTAGES,
    deal_to_commit_ms=Percentiles(p50=12.5, p99=40.0),
    reconnects=3,
    settle_seconds=4.0,
    stragglers=(),
)
PROMISED = {
    "accounts", "max_links", "live", "queued", "max_live_seen", "deals_truth", "deals_ledger",
    "missing", "duplicated", "different", "balance_proven", "first_seen_by", "faults",
    "deal_to_commit_ms", "reconnects", "seconds", "store_outages",
}  # fmt: skip


def test_a_clean_demo_is_a_success():
    """With chaos or without."""
    assert exit_code(CLEAN, is_chaos=False) == 0
    assert exit_code(CLEAN, is_chaos=True) == 0
    assert problems(CLEAN, is_chaos=True) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"missing": 1},
        {"invented": 1},
        {"duplicated": 1},
        {"different": 1},
        {"balances_different": 1},
        {"balance_proven": 24},
        {"max_live_seen": 11},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_anything_wrong_is_a_failure_with_words(wrong):
    """One of one kind is enough."""
    report = replace(CLEAN, **wrong)
    assert exit_code(report, is_chaos=False) == 1
    assert len(problems(report, is_chaos=False)) == 1


@pytest.mark.parametrize("kind", FaultKind)
def test_a_fault_that_never_struck_fails_only_a_chaos_run(kind):
    """A kind that was not injected has shown nothing."""
    report = replace(CLEAN, faults=CLEAN.faults | {str(kind): 0})
    assert exit_code(report, is_chaos=True) == 1
    assert problems(report, is_chaos=True) == [f"fault never injected: {kind}"]
    assert exit_code(report, is_chaos=False) == 0


@pytest.mark.parametrize(
    ("outages", "words"),
    [
        (None, "PostgreSQL was never taken away"),
        (replace(OUTAGES, stopped_seconds=9.9), "PostgreSQL was stopped for 9.9 s only"),
        (replace(OUTAGES, restarts=0), "PostgreSQL was not restarted"),
        (replace(OUTAGES, not_ready_seen=0), "the daemon never said that PostgreSQL was away"),
        (replace(OUTAGES, links_watched=0), "no link was live when PostgreSQL went away"),
        (replace(OUTAGES, sessions_lost=2), "2 sessions lost with PostgreSQL"),
        (
            replace(OUTAGES, daemon_memory_mb=MemoryFigures(before=150.0, peak=240.0, after=150.0)),
            "memory grew by 90 MB",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_absence_of_the_store_that_shows_nothing_fails_a_chaos_run(outages, words):
    """It must have happened, been noticed, and cost neither a session nor memory."""
    report = replace(CLEAN, store_outages=outages)
    assert problems(report, is_chaos=True) == [words]
    assert exit_code(report, is_chaos=True) == 1
    assert exit_code(report, is_chaos=False) == 0


def test_the_json_has_the_fields_that_are_promised():
    """Others may be added; none of these may go."""
    fields = msgspec.json.decode(msgspec.json.encode(CLEAN))
    assert fields.keys() >= PROMISED
    assert fields["first_seen_by"] == {"stream": 95, "pull": 5}
    assert fields["deal_to_commit_ms"] == {"p50": 12.5, "p99": 40.0}
    assert fields["faults"].keys() == set(FaultKind)
    assert (fields["store_outages"]["stopped_seconds"], fields["store_outages"]["restarts"]) == (
        10.1,
        1,
    )
    assert fields["store_outages"]["daemon_memory_mb"]["peak"] == 153.0


def test_the_summary_speaks_of_what_went_wrong():
    """Whoever does not read JSON sees the same figures."""
    text = summary(replace(CLEAN, missing=7, balance_proven=24))
    assert "7 missing" in text
    assert "24 of 25" in text
    assert "stopped for 10.1 s, restarted 1 time(s); 0 of 10 sessions lost" in text
    assert "there all the time" in summary(replace(CLEAN, store_outages=None))
