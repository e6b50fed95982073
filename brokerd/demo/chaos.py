"""Which fault strikes whom and when: a seeded plan of rounds, each of which has every kind in it.

Some kinds have an opportunity only when something else happens: an upgrade can stall, and a burst
can follow a synchronization, only after sockets were cut; second sockets can be cut only where an
account has two terminals. The plan makes those opportunities itself. Faults of one account strike
some of the targets, so that most of the fleet keeps streaming.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random

import msgspec

from brokerd.sandbox.control_requests import SwitchOn
from brokerd.sandbox.faults import FaultKind as K

ROUND_SECONDS = 24.0
_JITTER_SECONDS = 0.4
_FEW_PART = 5  # one target in so many


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Switch a fault on, or off where `fault` is None, so long after the round began."""

    at_seconds: float
    kind: K
    fault: SwitchOn | None


@dataclass(frozen=True, slots=True)
class Recipe:
    """When in a round a fault is switched on and off, and how strong it is."""

    on_seconds: float
    off_seconds: float
    fault: SwitchOn
    is_for_few: bool = False


RECIPES = {
    # longer than link.silence_seconds, so that links notice and dial again
    K.MUTE: Recipe(1.0, 13.0, SwitchOn(), is_for_few=True),
    K.DUPLICATE_PACKETS: Recipe(1.5, 22.0, SwitchOn(probability=0.2)),
    K.REORDER_PACKETS: Recipe(1.5, 22.0, SwitchOn(probability=0.1)),
    K.LOSE_PACKETS: Recipe(2.0, 20.0, SwitchOn(probability=0.02, limit=20)),
    K.DELAY: Recipe(2.0, 22.0, SwitchOn(probability=0.2, limit=30, seconds=0.7)),
    K.THROTTLE: Recipe(3.0, 20.0, SwitchOn(probability=0.1, limit=6, seconds=1.0)),
    K.THROTTLE_BARE: Recipe(3.5, 20.0, SwitchOn(probability=0.1, limit=4)),
    K.SERVER_ERROR: Recipe(4.0, 20.0, SwitchOn(probability=0.1, limit=8, status=502, is_html=True)),
    K.SYNCHRONIZING: Recipe(4.0, 20.0, SwitchOn(probability=0.2, limit=8)),
    K.LATE_DEALS: Recipe(2.5, 22.0, SwitchOn(per_minute=30, limit=8)),
    K.EDITED_DEALS: Recipe(2.5, 22.0, SwitchOn(per_minute=30, limit=8)),
    K.DELETED_DEALS: Recipe(2.5, 20.0, SwitchOn(per_minute=20, limit=5)),
    K.BROKER_DISCONNECT: Recipe(5.0, 8.0, SwitchOn(), is_for_few=True),
    K.STALL_UPGRADE: Recipe(8.0, 20.0, SwitchOn(limit=1)),
    K.BURST_AFTER_SYNC: Recipe(8.0, 22.0, SwitchOn(limit=4, count=12)),
    K.DROP_SOCKETS: Recipe(9.5, 15.0, SwitchOn(limit=1)),
    K.STOP_STATUS: Recipe(14.0, 21.0, SwitchOn(limit=40)),
    K.DROP_IDLE_SOCKETS: Recipe(16.0, 22.0, SwitchOn(limit=1)),
    K.DELAY_IDLE_SOCKET: Recipe(19.0, 23.5, SwitchOn(limit=1, seconds=1.5)),
}
_NEEDS_CUT = frozenset({K.STALL_UPGRADE, K.BURST_AFTER_SYNC})


def plan_round(
    *, kinds: Collection[K], targets: Sequence[str], random: Random, is_certain: bool = False
) -> tuple[Step, ...]:
    """Plan one round of these kinds, in the order of time.

    `targets` are the accounts that stream now; what cuts sockets is added where a kind needs it.
    A certain round strikes at every opportunity: in a small fleet there may be few.
    """
    chosen = set(kinds)
    if chosen & _NEEDS_CUT:
        chosen.add(K.DROP_SOCKETS)
    steps: list[Step] = []
    for kind in sorted(chosen):
        recipe = RECIPES[kind]
        fault = recipe.fault
        if recipe.is_for_few:
            fault = _only_few(fault, targets, random)
        if is_certain:
            fault = msgspec.structs.replace(fault, probability=1.0, limit=fault.limit and 1)
        delay = random.uniform(0.0, _JITTER_SECONDS)
        steps.append(Step(at_seconds=recipe.on_seconds + delay, kind=kind, fault=fault))
        steps.append(Step(at_seconds=recipe.off_seconds, kind=kind, fault=None))
    return tuple(sorted(steps, key=lambda step: step.at_seconds))


def _only_few(fault: SwitchOn, targets: Sequence[str], random: Random) -> SwitchOn:
    few = random.sample(sorted(targets), k=-(-len(targets) // _FEW_PART))
    return SwitchOn(
        account_ids=few,
        probability=fault.probability,
        limit=fault.limit,
        seconds=fault.seconds,
    )
