"""What a node does with its slots: how many links to take, and which to give up.

Theory. A slot is taken from the claim until the link's last act, so links that are already leaving
still count against the limit: the limit bounds sessions, memory and money, not intentions. Only an
operator who lowers the limit makes a node shrink. Then the links that came last leave first: they
have synced least and so lose least, and those that came before keep what they were granted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from brokerd.domain import Fence


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a node knows before it decides.

    `staying` and `leaving` together fill the slots; `staying` is in the order of claiming.
    `waiting` is how many links may be claimed now, by the fleet's queue.
    """

    max_links: int
    staying: Sequence[Fence]
    leaving: int
    waiting: int
    is_frozen: bool
    is_draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many links to claim, and which of ours to send back to the queue."""

    claims: int = 0
    evictions: tuple[Fence, ...] = ()


def plan(situation: Situation) -> Plan:
    """Fill free slots while somebody waits; shrink when there are more links than slots.

    A frozen node does not know whether its links are still its own, and a draining one sends
    them all away already: both decide nothing.
    """
    if situation.is_frozen or situation.is_draining:
        return Plan()
    staying = len(situation.staying)
    free = situation.max_links - staying - situation.leaving
    surplus = max(0, staying - situation.max_links)
    return Plan(
        claims=max(0, min(free, situation.waiting)),
        evictions=tuple(reversed(situation.staying[staying - surplus :])),
    )
