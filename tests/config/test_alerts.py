"""The alerts speak of metrics there are, under labels they have, and say what to do."""

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from brokerd.telemetry import Metrics

RULES = Path(__file__).parents[2] / "config" / "prometheus.rules.yml"
_METRIC = re.compile(r"(brokerd_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)(?:=|=~|!=|!~)"([^"]*)"')


def alerts():
    """Return every alert."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [alert for group in groups for alert in group["rules"]]


def samples():
    """Return the labels of every sample that a fresh process shows, by name.

    A family that shows none yet has no closed labels.
    """
    found = {}
    for family in Metrics(CollectorRegistry()).registry.collect():
        found[family.name] = []
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_can_fire(alert):
    """Its metrics and labels exist, so that it is not silent for ever."""
    known = samples()
    used = _METRIC.findall(alert["expr"])
    assert used
    for name, matchers in used:
        assert name in known
        wanted = dict(_MATCHER.findall(matchers))
        assert not wanted or any(wanted.items() <= labels.items() for labels in known[name])


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_what_to_do(alert):
    """One who is woken reads what is wrong, and where to go on."""
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert set(alert["annotations"]) == {"summary", "action"}


def test_days_of_the_feed_are_watched():
    """Fewer than two ahead is an alert, as docs/metrics.md says."""
    assert "min(brokerd_events_days_ahead) < 2" in [alert["expr"] for alert in alerts()]
