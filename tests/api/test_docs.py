"""What docs/ lists is what the code has: metrics, log events, problem types, reasons."""

import ast
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from brokerd.api import problems
from brokerd.health.conditions import ConditionType, Reason
from brokerd.telemetry import Metrics

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
_EVENT = re.compile(r"[a-z_]+\.[a-z_]+")


def rows(name, heading):
    """Return the cells of the table's rows under a heading of a page."""
    text = (DOCS / name).read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def logged_events():
    """Return every event name that the package logs."""
    found = set()
    for path in (ROOT / "brokerd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _is_log(node.func) and node.args:
                event = node.args[0]
                if isinstance(event, ast.Constant) and isinstance(event.value, str):
                    found.add(event.value)
    return found


def _is_log(function):
    """Say whether something called writes a log entry: `log.info`, `_log.error`, or `level`."""
    if isinstance(function, ast.Name):
        return function.id == "level"
    is_level = isinstance(function, ast.Attribute) and function.attr in _LEVELS
    return is_level and isinstance(function.value, ast.Name) and "log" in function.value.id


def test_metrics():
    """docs/metrics.md lists every metric with its type and labels, and no other."""
    families = Metrics(CollectorRegistry())
    defined = {
        collector._name: (collector._type, collector._labelnames)
        for collector in vars(families).values()
        if hasattr(collector, "_labelnames")
    }
    listed = {}
    for name, kind, labels, _ in rows("metrics.md", "Metrics"):
        bare = name.strip("`")
        bare = bare.removesuffix("_total") if kind == "counter" else bare
        listed[bare] = (kind, tuple(re.findall(r"`(\w+)`", labels)))
    assert listed == defined


def test_log_events():
    """docs/events.md lists every event that is logged, and no other; names have one form."""
    logged = logged_events()
    assert len(logged) > 30
    assert all(_EVENT.fullmatch(event) for event in logged)
    assert {row[0].strip("`") for row in rows("events.md", "Log events")} == logged


def test_problem_types():
    """docs/api.md lists every problem type with its status."""
    source = Path(problems.__file__).read_text(encoding="utf-8")
    kinds = set(re.findall(r'kind="([a-z-]+)"', source))
    kinds |= {kind for kind, _ in problems._OF_STATUS.values()}
    assert {row[0].strip("`") for row in rows("api.md", "Problems")} == {
        f"/problems/{kind}" for kind in kinds
    }


@pytest.mark.parametrize(("heading", "names"), [("Conditions", ConditionType), ("Reasons", Reason)])
def test_published_names(heading, names):
    """docs/api.md lists every condition and every reason."""
    listed = {row[0].strip("`") for row in rows("api.md", heading)}
    assert listed >= set(names)
