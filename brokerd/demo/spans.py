"""When links were live, read out of their transitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from brokerd.demo.tally import LinkName, LiveSpan
from brokerd.domain import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A link entered a phase."""

    link: LinkName
    at: datetime
    phase: str


def live_spans(
    transitions: Sequence[Transition], *, until: datetime
) -> dict[LinkName, list[LiveSpan]]:
    """Return each link's stretches of being live; one that is open ends at `until`.

    The transitions of one link must be in their order.
    """
    open_since: dict[LinkName, datetime] = {}
    spans: dict[LinkName, list[LiveSpan]] = {}
    for step in transitions:
        if step.at >= until:
            continue
        if step.phase == Phase.LIVE:
            open_since.setdefault(step.link, step.at)
        elif (start := open_since.pop(step.link, None)) is not None:
            spans.setdefault(step.link, []).append(LiveSpan(start=start, end=step.at))
    for link, start in open_since.items():
        spans.setdefault(link, []).append(LiveSpan(start=start, end=until))
    return spans


def peak(spans: Mapping[LinkName, Sequence[LiveSpan]]) -> int:
    """Return how many links were live at once at most; an end makes room for a start."""
    edges = sorted(
        edge
        for stretches in spans.values()
        for span in stretches
        for edge in ((span.start, 1), (span.end, -1))
    )
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def comebacks(spans: Mapping[LinkName, Sequence[LiveSpan]]) -> int:
    """Return how often a link became live again."""
    return sum(len(stretches) - 1 for stretches in spans.values())
