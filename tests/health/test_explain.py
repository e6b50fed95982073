"""Every phase has a story that says what comes next."""

from datetime import UTC, datetime

import pytest

from brokerd.domain import Desired, Phase, UserAction
from brokerd.health.conditions import Shown
from brokerd.health.explain import Situation, tell

NOW = datetime(2026, 11, 25, 3, tzinfo=UTC)


def situation(phase, **changes):
    """Build the situation of a link that was just reported."""
    values = {
        "desired": Desired.LIVE,
        "generation": 3,
        "observed_generation": 3,
        "shown": Shown(phase=phase, reason="Told", message="", since=NOW),
        "user_action": UserAction.NONE,
        "next_attempt_at": None,
        "queue_position": None,
        "conditions": (),
        "opens_at": None,
    }
    return Situation(**{**values, **changes})


@pytest.mark.parametrize("phase", Phase)
def test_every_phase_has_a_story(phase):
    """It names the phase, and what happens next."""
    story = tell(situation(phase))
    assert story.now.startswith(f"{phase} since 2026-11-25T03:00:00+00:00, ")
    assert story.next_step
    assert story.blocked_by == ()


@pytest.mark.parametrize("action", [each for each in UserAction if each is not UserAction.NONE])
def test_every_action_says_who_must_act(action):
    """A human who must act is the first thing that blocks."""
    (block,) = tell(situation(Phase.BLOCKED, user_action=action)).blocked_by
    assert " must " in block


def test_a_spec_that_was_not_taken_over_yet_is_said_so():
    """What is wanted and what its owner knows may differ for a moment."""
    story = tell(situation(Phase.LIVE, generation=4, desired=Desired.PAUSED))
    assert story.wanted == "paused (generation 4; its owner has seen generation 3 only)"
