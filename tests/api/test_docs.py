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
_SDK_LOG = ("metaapi_stream/sdklog.py", "overrides/events.py")
"""Where what the SDK says is passed on, in its words and at DEBUG."""
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


def test_metrics_are_defined_in_one_place():
    """No other module makes a metric that the list would not know of."""
    kinds = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"}
    for path in (ROOT / "brokerd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prometheus_"):
                made = kinds & {alias.name for alias in node.names}
                assert not made or path.name == "telemetry.py", path


def test_log_events_are_written_where_they_can_be_found():
    """Each by a constant name, by `log` itself or by a `level` chosen of its methods."""
    for path in (ROOT / "brokerd").rglob("*.py"):
        if str(path).endswith(_SDK_LOG):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        logs = [call for call in calls if _is_log(call.func)]
        for call in logs:
            assert isinstance(call.args[0], ast.Constant), (path, call.lineno)
        levels = {
            id(node)
            for assigned in ast.walk(tree)
            if isinstance(assigned, ast.Assign) and _is_named(assigned.targets[0], "level")
            for node in ast.walk(assigned.value)
        }
        called = {id(call.func) for call in logs}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and _is_log(node):
                assert id(node) in called | levels, (path, node.lineno)


def _is_named(node, name):
    return isinstance(node, ast.Name) and node.id == name


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
