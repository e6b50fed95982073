"""The switchboard: whom a fault strikes, how often, and what is counted."""

from random import Random

import pytest

from brokerd.sandbox.faults import Fault, FaultKind, Faults


def new_faults() -> Faults:
    """Return a switchboard with nothing on."""
    return Faults(random=Random(1))


def test_nothing_strikes_while_nothing_is_on() -> None:
    """Every kind is off at first and counted as never injected."""
    faults = new_faults()
    assert all(faults.strike(kind, account_id="a") is None for kind in FaultKind)
    assert faults.injected == dict.fromkeys(FaultKind, 0)


def test_a_strike_returns_the_parameters_and_is_counted() -> None:
    """What strikes is the fault that was switched on, once per call."""
    faults = new_faults()
    fault = Fault(kind=FaultKind.DELAY, seconds=3.0)
    faults.switch_on(fault)
    assert faults.strike(FaultKind.DELAY, account_id="a") is fault
    assert faults.strike(FaultKind.DELAY) is fault
    assert faults.injected[FaultKind.DELAY] == 2
    assert faults.injected[FaultKind.MUTE] == 0


def test_a_scoped_fault_spares_everyone_else() -> None:
    """Neither other accounts nor requests without an account are struck or counted."""
    faults = new_faults()
    faults.switch_on(Fault(kind=FaultKind.MUTE, account_ids=frozenset({"a"})))
    assert faults.strike(FaultKind.MUTE, account_id="a") is not None
    assert faults.strike(FaultKind.MUTE, account_id="b") is None
    assert faults.strike(FaultKind.MUTE) is None
    assert faults.injected[FaultKind.MUTE] == 1


def test_a_limited_fault_is_used_up_and_renewed_by_switching_on_again() -> None:
    """The limit counts since the fault was switched on, the injections since the start."""
    faults = new_faults()
    fault = Fault(kind=FaultKind.THROTTLE, limit=2)
    faults.switch_on(fault)
    struck = [faults.strike(FaultKind.THROTTLE) is not None for _ in range(4)]
    assert struck == [True, True, False, False]
    assert faults.get(FaultKind.THROTTLE) is fault
    faults.switch_on(fault)
    assert faults.strike(FaultKind.THROTTLE) is not None
    assert faults.injected[FaultKind.THROTTLE] == 3


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.3, 230, 370)])
def test_probability_decides_each_opportunity(probability: float, low: int, high: int) -> None:
    """About the share asked for strikes, and only strikes are counted."""
    faults = new_faults()
    faults.switch_on(Fault(kind=FaultKind.LOSE_PACKETS, probability=probability))
    struck = sum(faults.strike(FaultKind.LOSE_PACKETS) is not None for _ in range(1000))
    assert low <= struck <= high
    assert faults.injected[FaultKind.LOSE_PACKETS] == struck


def test_switching_off_keeps_the_counts() -> None:
    """A fault that is off strikes nobody; what it did stays counted."""
    faults = new_faults()
    for kind in (FaultKind.DELAY, FaultKind.MUTE):
        faults.switch_on(Fault(kind=kind))
        faults.strike(kind)
    faults.switch_off(FaultKind.DELAY)
    faults.switch_off(FaultKind.DELAY)
    assert [fault.kind for fault in faults.active] == [FaultKind.MUTE]
    faults.switch_off_all()
    assert faults.active == ()
    assert faults.strike(FaultKind.MUTE) is None
    assert faults.injected[FaultKind.DELAY] == faults.injected[FaultKind.MUTE] == 1
