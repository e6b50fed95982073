"""The exit code is 0 only for a demo in which nothing at all was wrong."""

from dataclasses import replace

import msgspec
import pytest

from brokerd.demo.report import Percentiles, Report, SourceCounts, exit_code, problems, summary
from brokerd.sandbox.faults import FaultKind

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
    deal_to_commit_ms=Percentiles(p50=12.5, p99=40.0),
    reconnects=3,
    settle_seconds=4.0,
    stragglers=(),
)
PROMISED = {
    "accounts", "max_links", "live", "queued", "max_live_seen", "deals_truth", "deals_ledger",
    "missing", "duplicated", "different", "balance_proven", "first_seen_by", "faults",
    "deal_to_commit_ms", "reconnects", "seconds",
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


def test_the_json_has_the_fields_that_are_promised():
    """Others may be added; none of these may go."""
    fields = msgspec.json.decode(msgspec.json.encode(CLEAN))
    assert fields.keys() >= PROMISED
    assert fields["first_seen_by"] == {"stream": 95, "pull": 5}
    assert fields["deal_to_commit_ms"] == {"p50": 12.5, "p99": 40.0}
    assert fields["faults"].keys() == set(FaultKind)


def test_the_summary_speaks_of_what_went_wrong():
    """Whoever does not read JSON sees the same figures."""
    text = summary(replace(CLEAN, missing=7, balance_proven=24))
    assert "7 missing" in text
    assert "24 of 25" in text
