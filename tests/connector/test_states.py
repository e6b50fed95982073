"""The tables of a link's life."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.config.settings import LinkSettings, ProvisioningSettings
from brokerd.connector.states import TRANSITIONS, IllegalTransition, LinkEvent, deadlines, step
from brokerd.domain import Phase

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
OUTSIDE = {Phase.QUEUED, Phase.PAUSED, Phase.STOPPED, Phase.DELETING}
"""Phases of links that nobody runs."""
HUMAN = {Phase.PAUSED, Phase.STOPPED, Phase.DELETING, Phase.AUTH_FAILED}
"""Phases that only a client or a user ends."""
LIMITS = deadlines(LinkSettings(), provision_seconds=ProvisioningSettings().timeout_seconds)


def reachable(start, pairs):
    """Return what can be reached from a phase over (phase, event, phase) triples."""
    reached = {start}
    while True:
        further = reached | {after for before, _, after in pairs if before in reached}
        if further == reached:
            return reached
        reached = further


ALL = [(phase, event, after) for phase, row in TRANSITIONS.items() for event, after in row.items()]


def test_every_phase_has_a_row_and_a_way_to_live():
    """No phase is a dead end or missing from the table: each of them may end live."""
    assert set(TRANSITIONS) == set(Phase)
    for phase in Phase:
        assert Phase.LIVE in reachable(phase, ALL)


def test_every_phase_can_be_reached_from_queued():
    """No phase stands in the table for nothing."""
    assert reachable(Phase.QUEUED, ALL) == set(Phase)


@pytest.mark.parametrize("phase", [p for p in Phase if LinkEvent.LEAVING in TRANSITIONS[p]])
def test_a_link_in_a_slot_can_always_be_told_to_leave(phase):
    """Draining works from wherever a link stands."""
    assert step(phase, LinkEvent.LEAVING) is Phase.DRAINING


def test_phases_that_hold_a_slot_can_all_leave():
    """Nothing that occupies a slot ignores a drain."""
    deaf = {*OUTSIDE, Phase.DRAINING}
    assert {p for p in Phase if LinkEvent.LEAVING in TRANSITIONS[p]} == set(Phase) - deaf


def test_whoever_dies_leaves_a_link_that_queues():
    """From every phase in which a node may own a link it can be released to the queue."""
    for phase in set(Phase) - {Phase.QUEUED}:
        assert step(phase, LinkEvent.RELEASED) is Phase.QUEUED


def test_every_wait_has_a_deadline_with_a_target():
    """What has none waits for a human or its turn; what has one leads somewhere."""
    assert set(Phase) - set(LIMITS) == {*HUMAN, Phase.QUEUED}
    for phase, deadline in LIMITS.items():
        assert deadline.event in TRANSITIONS[phase]
        assert TRANSITIONS[phase][deadline.event] is not phase


def test_deadlines_alone_lead_every_failing_link_back_to_the_queue():
    """Time by itself never ends in a phase that nobody looks at any more."""
    pairs = [(phase, each.event, step(phase, each.event)) for phase, each in LIMITS.items()]
    for phase in LIMITS:
        assert Phase.QUEUED in reachable(phase, pairs)


def test_an_unknown_pair_is_our_bug():
    """A transition that is not in the table says so instead of guessing."""
    with pytest.raises(IllegalTransition, match="no transition from queued on caught_up"):
        step(Phase.QUEUED, LinkEvent.CAUGHT_UP)


@given(st.lists(st.sampled_from(LinkEvent), max_size=60))
def test_live_is_only_reached_through_verification_and_a_sync(events):
    """Whatever happens, a live link was identified and caught up since its last dial."""
    phase, seen = Phase.QUEUED, []
    for event in events:
        try:
            phase = step(phase, event)
        except IllegalTransition:
            continue
        seen = [] if event is LinkEvent.DIALLED else [*seen, event]
        if phase is Phase.LIVE:
            since = seen[::-1].index(LinkEvent.IDENTIFIED)
            assert LinkEvent.CAUGHT_UP in seen[-since:]
            assert seen[-1] in {LinkEvent.CAUGHT_UP, LinkEvent.HEARD}


@given(st.lists(st.sampled_from(LinkEvent), max_size=60))
def test_refused_credentials_are_never_used_again_without_a_new_beginning(events):
    """From auth_failed no event of a session leads on: only a claim, a dial or an order."""
    phase = Phase.QUEUED
    for event in events:
        before = phase
        try:
            phase = step(phase, event)
        except IllegalTransition:
            continue
        if before is Phase.AUTH_FAILED and phase is not Phase.AUTH_FAILED:
            assert event in {
                *(LinkEvent.CLAIMED, LinkEvent.PREPARING, LinkEvent.DIALLED, LinkEvent.LOST),
                *(LinkEvent.LEAVING, LinkEvent.RELEASED, LinkEvent.UNWANTED),
                *(LinkEvent.STOPPED, LinkEvent.DELETED),
            }


# The page that shows the tables.


def rows(*, of):
    """Return the cells of the rows whose first cell looks so."""
    section = PAGE.read_text().split("\n## The way of a link\n", 1)[1].split("\n## ", 1)[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return {name.strip(" `*"): cells for name, *cells in lines if name.strip().startswith(of)}


def targets(cell):
    """Return the events of a cell with their phases."""
    return {
        LinkEvent(event): Phase(after) for event, after in re.findall(r"`(\w+)` → `(\w+)`", cell)
    }


def test_the_page_shows_the_transitions():
    """Each row of the page, its groups spelt out, is the row of the table."""
    groups = {name: targets(cell) for name, (cell,) in rows(of="*").items()}
    shown = {}
    for name, (_, cell) in rows(of="`").items():
        row = targets(cell)
        for group in re.findall(r"\*(\w+)\*", cell):
            others = {event: after for event, after in groups[group].items() if after != name}
            row |= others if group == "rests" else groups[group]
        shown[Phase(name)] = row
    assert shown == TRANSITIONS


def test_the_page_shows_the_deadlines():
    """Each wait on the page is the deadline of the table, with the defaults."""
    shown = {}
    for name, (wait, _) in rows(of="`").items():
        if found := re.fullmatch(r" (\d+) s since (\w+), then `(\w+)` ", wait):
            shown[Phase(name)] = (float(found[1]), found[2], found[3])
        elif found := re.fullmatch(r" as told, then `(\w+)` ", wait):
            shown[Phase(name)] = (0.0, "told", found[1])
    assert shown == {phase: (d.seconds, d.since, d.event) for phase, d in LIMITS.items()}
