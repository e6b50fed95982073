"""The table of a link's life."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.connector.states import TRANSITIONS, IllegalTransition, LinkEvent, step
from brokerd.domain import Phase


def test_every_phase_has_a_row_and_a_way_out():
    """No phase is a dead end, and none is missing from the table."""
    assert set(TRANSITIONS) == set(Phase)
    assert all(TRANSITIONS[phase] for phase in Phase)


def test_every_phase_can_be_reached_from_queued():
    """No phase stands in the table for nothing."""
    reached = {Phase.QUEUED}
    while True:
        further = reached | {after for phase in reached for after in TRANSITIONS[phase].values()}
        if further == reached:
            break
        reached = further
    assert reached == set(Phase)


@pytest.mark.parametrize("phase", [p for p in Phase if LinkEvent.LEAVING in TRANSITIONS[p]])
def test_a_link_in_a_slot_can_always_be_told_to_leave(phase):
    """Draining works from wherever a link stands."""
    assert step(phase, LinkEvent.LEAVING) is Phase.DRAINING


def test_phases_that_hold_a_slot_can_all_leave():
    """Nothing that occupies a slot ignores a drain."""
    outside = {Phase.QUEUED, Phase.PAUSED, Phase.STOPPED, Phase.DELETING, Phase.DRAINING}
    assert {p for p in Phase if LinkEvent.LEAVING in TRANSITIONS[p]} == set(Phase) - outside


def test_an_unknown_pair_is_our_bug():
    """A transition that is not in the table says so instead of guessing."""
    with pytest.raises(IllegalTransition, match="no transition from queued on caught_up"):
        step(Phase.QUEUED, LinkEvent.CAUGHT_UP)


@given(st.lists(st.sampled_from(LinkEvent), max_size=40))
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
            assert LinkEvent.IDENTIFIED in seen
            assert LinkEvent.CAUGHT_UP in seen
            assert seen[-1] in {LinkEvent.CAUGHT_UP, LinkEvent.SILENT, LinkEvent.HEARD}
