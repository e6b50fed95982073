"""How a budget of the fleet is divided: an even share for each node, the rest in one pot.

Theory. No node can know whether the others reach Redis. So what a node may spend without asking is
always counted as spent: half of the budget (`even_share_ratio`) is divided evenly among the live
nodes, each spends its own share first, and only beyond it draws from the other half, which is
counted in Redis. Whoever loses Redis, for whatever time, loses the pot and keeps its share; nothing
changes hands, so nothing can be spent twice. The price: while all nodes are without Redis, the
fleet has half of its budget. Without a pot configured, or with one live node, there is no pot.

Redis may forget what was drawn: it is flushed, restarts empty, evicts a key. Each window of the
pot therefore lies in one key together with the moment since which it counts, and is closed until
it has counted for a whole period.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from brokerd.connector.governor.buckets import Limit, wait_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """What this node may spend of its own, and what all nodes draw from; both for each limit."""

    own: Sequence[Limit]
    common: Sequence[Limit]


def divide(
    limits: Sequence[Limit], *, live_nodes: int, even_share_ratio: float, has_pot: bool
) -> Division:
    """Divide limits of the fleet."""
    if live_nodes <= 1:
        return Division(own=limits, common=())
    if not has_pot:
        return Division(own=_scaled(limits, 1.0 / live_nodes), common=())
    return Division(
        own=_scaled(limits, even_share_ratio / live_nodes),
        common=_scaled(limits, 1.0 - even_share_ratio),
    )


def pot_wait_seconds(
    spent: Mapping[int, float], *, since: float, limit: Limit, cost: float, now: float
) -> float:
    """Return how long a draw must wait; `since` is when the pot began to count."""
    opens = since + limit.period_seconds - now
    return max(0.0, opens, wait_seconds(spent, limit=limit, cost=cost, now=now))


def _scaled(limits: Sequence[Limit], factor: float) -> Sequence[Limit]:
    return tuple(replace(limit, units=limit.units * factor) for limit in limits)
