"""The plan of faults: every kind, in bounds, the same for the same seed."""

from random import Random

import pytest

from brokerd.demo.chaos import ROUND_SECONDS, plan_round
from brokerd.sandbox.faults import FaultKind as K

TARGETS = tuple(f"a-{number}" for number in range(10))


def planned(*, kinds=frozenset(K), targets=TARGETS, seed=1):
    """Plan one round."""
    return plan_round(kinds=kinds, targets=targets, random=Random(seed))


def times(steps, kind):
    """Return when a kind goes on and off."""
    on = [s.at_seconds for s in steps if s.kind is kind and s.fault is not None]
    off = [s.at_seconds for s in steps if s.kind is kind and s.fault is None]
    assert (len(on), len(off)) == (1, 1)
    return on[0], off[0]


@pytest.mark.parametrize("kind", K)
def test_every_kind_goes_on_and_off_within_the_round(kind):
    """No kind is forgotten, none outlives its round."""
    on, off = times(planned(), kind)
    assert 0 <= on < off <= ROUND_SECONDS


def test_the_steps_are_in_the_order_of_time():
    """Whoever carries them out takes the first one."""
    moments = [step.at_seconds for step in planned()]
    assert moments == sorted(moments)


def test_the_same_seed_gives_the_same_round():
    """A failure can be played again; another seed is another round."""
    assert planned(seed=7) == planned(seed=7)
    assert planned(seed=7) != planned(seed=8)


@pytest.mark.parametrize("kind", [K.STALL_UPGRADE, K.BURST_AFTER_SYNC])
def test_what_needs_a_new_socket_gets_one(kind):
    """Alone they would never strike: sockets are cut while they are on."""
    steps = planned(kinds={kind})
    on, off = times(steps, kind)
    cut, _ = times(steps, K.DROP_SOCKETS)
    assert on < cut < off
    assert {step.kind for step in steps} == {kind, K.DROP_SOCKETS}


def test_a_round_of_one_kind_holds_nothing_else():
    """The last missing kind is not served with another storm."""
    assert {step.kind for step in planned(kinds={K.MUTE})} == {K.MUTE}


@pytest.mark.parametrize("kind", [K.MUTE, K.BROKER_DISCONNECT])
@pytest.mark.parametrize(("targets", "struck"), [(TARGETS, 2), (TARGETS[:1], 1), (TARGETS[:6], 2)])
def test_what_silences_accounts_silences_some(kind, targets, struck):
    """A fifth of those that stream, and at least one."""
    (fault,) = (s.fault for s in planned(targets=targets) if s.kind is kind and s.fault)
    assert len(fault.account_ids) == struck
    assert set(fault.account_ids) <= set(targets)


def test_a_certain_round_leaves_nothing_to_chance():
    """What was missing after a round strikes at its first opportunity in the next."""
    steps = plan_round(kinds=frozenset(K), targets=["a"], random=Random(1), is_certain=True)
    faults = [step.fault for step in steps if step.fault is not None]
    assert faults
    assert {fault.probability for fault in faults} == {1.0}
    assert {fault.limit for fault in faults} == {1, None}
