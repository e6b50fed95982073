"""Whatever happens to a link, in any order: only legal moves, no endless wait, nothing lost."""

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import Phase as Step
from hypothesis import strategies as st
from link_world import running_link

from brokerd.connector.ports import Gap
from brokerd.connector.states import TRANSITIONS, Since, deadlines
from brokerd.domain import Desired, Phase
from brokerd.errors import (
    AuthFailed,
    AuthSuspected,
    Held,
    MalformedAnswer,
    NotConnected,
    NotFound,
    RemoteUnavailable,
    Synchronizing,
    Throttled,
    Unauthorized,
)
from brokerd.sandbox.facts import ConnectionStatus
from brokerd.sandbox.faults import FaultKind

pytestmark = [
    pytest.mark.looptime(noop_cycles=0),
    pytest.mark.timeout(180),
]

HINT_SECONDS = 4_000.0
REFUSALS = st.sampled_from(
    [
        NotConnected("no"),
        RemoteUnavailable("reset"),
        RemoteUnavailable("503", retry_after_seconds=20.0),
        Throttled("429", retry_after_seconds=5.0),
        Throttled("429", retry_after_seconds=HINT_SECONDS),
        Held("held", retry_after_seconds=2.0, scope="user:main", cause="credits"),
        Synchronizing("not yet"),
        MalformedAnswer("not JSON"),
        NotFound("404"),
        Unauthorized("401"),
        AuthSuspected("E_AUTH", retry_after_seconds=900.0),
        AuthFailed("E_AUTH"),
    ]
)
KINDS = st.sampled_from([FaultKind.MUTE, FaultKind.STOP_STATUS, FaultKind.LOSE_PACKETS])


def tell_gap(world):
    """Let the stream admit a loss."""
    for session in world.service._sessions.get(world.account.metaapi_id, ()):
        session._tell(Gap(reason="sequence"))


def lose_broker_unheard(world):
    """Let the broker go while the stream says nothing: only a look over REST tells."""
    world.switch_on(FaultKind.MUTE)
    world.account.set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)


def connection(status):
    """Return what gives the account's terminal that connection."""
    return lambda world: world.account.set_connection(status)


ACTS = {
    "drop": lambda world: world.service.drop(world.account.metaapi_id),
    "kill": lambda world: world.service.kill(world.account.metaapi_id),
    "gap": tell_gap,
    "down": lambda world: setattr(world.service, "is_down", True),
    "up": lambda world: setattr(world.service, "is_down", False),
    "broker_away": connection(ConnectionStatus.DISCONNECTED_FROM_BROKER),
    "broker_back": connection(ConnectionStatus.CONNECTED),
    "slow": lambda world: world.switch_delay(8.0),
    "pause": lambda world: world.change(desired=Desired.PAUSED),
    "resume": lambda world: world.change(desired=Desired.LIVE),
    "drain": lambda world: world.link is not None and world.link.drain(),
    "store_cut": lambda world: setattr(world.wire, "is_cut", True),
    "store_back": lambda world: setattr(world.wire, "is_cut", False),
    "die": lambda world: world.die(),
}
HAPPENINGS = st.one_of(
    st.tuples(st.just("trade"), st.integers(1, 6)),
    st.tuples(st.just("refuse"), REFUSALS),
    st.tuples(st.sampled_from(["on", "off"]), KINDS),
    st.tuples(st.just("act"), st.sampled_from(sorted(ACTS))),
    st.just(("unheard", None)),  # often, because suspicion needs it and half a minute of peace
)
WAITS = st.sampled_from([0.0, 0.01, 0.5, 3.0, 12.0, 26.0, 70.0, 310.0])


def happen(world, verb, what):
    """Let one thing happen."""
    match verb:
        case "trade":
            world.trade(what)
        case "refuse":
            world.service.refuse_once(what)
        case "on":
            world.switch_on(what)
        case "off":
            world.switch_off(what)
        case "act":
            ACTS[what](world)
        case "unheard":
            lose_broker_unheard(world)


def heal(world):
    """End all that is wrong."""
    world.service.is_down = False
    world.faults.switch_off_all()
    world.service.forgive()
    world.account.set_connection(ConnectionStatus.CONNECTED)
    world.wire.is_cut = False
    world.change(desired=Desired.LIVE)
    world.requeue()


def check_moves(world):
    """Every stored move is one of the table's, or by way of the queue that nobody writes."""
    for one, two in pairwise(row.phase for row in world.state.transitions):
        is_listed = two in TRANSITIONS[one].values()
        # the store may have been away while the link moved on
        assert is_listed or two is Phase.CLAIMED or world.wire.refused, f"{one} to {two}"


def check_waits(world, *, slack=timedelta(seconds=10)):
    """No phase with a deadline outlasts it: by more than one slow request and one slow report."""
    provision_seconds = world.ports.provisioning.timeout_seconds
    limits = deadlines(world.settings, provision_seconds=provision_seconds)
    for one, two in pairwise(world.state.transitions):
        limit = limits.get(one.phase)
        if limit is not None and limit.since is Since.ENTRY and not world.wire.refused:
            assert two.at - one.at <= timedelta(seconds=limit.seconds) + slack, one
    status = world.status
    if limits.get(status.phase) and limits[status.phase].since is Since.TOLD:
        assert status.next_attempt_at is not None


@settings(
    max_examples=60,
    phases=[Step.explicit, Step.reuse, Step.generate, Step.shrink],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    program=st.lists(st.tuples(HAPPENINGS, WAITS), min_size=1, max_size=25),
    seed=st.integers(0, 2**16),
)
async def test_any_life_of_a_link(program, seed):
    """A random life, then peace: every move legal, every wait bounded, live and exact in the end.

    An illegal move ends the link's task with `IllegalTransition`, and with it this test.
    """
    async with running_link(seed=seed) as world:
        await world.until_live()
        for (verb, what), wait_seconds in program:
            happen(world, verb, what)
            await asyncio.sleep(wait_seconds)
        heal(world)
        await world.until(lambda: world.phase is Phase.LIVE, within=1_300)
        await asyncio.sleep(HINT_SECONDS + 700)  # a rolling pull may have been told to wait
        assert world.phase is Phase.LIVE
        check_moves(world)
        check_waits(world)
        world.assert_exact()
