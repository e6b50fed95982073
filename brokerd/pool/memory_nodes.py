"""The register of process starts over plain values: the same promises as `postgres_nodes`."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from brokerd.domain import Incarnation
from brokerd.errors import Fenced
from brokerd.store.memory import MemoryState, NodeRow


class MemoryNodes:
    """`Nodes` over a `MemoryState`."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def register(self, name: str, *, max_links: int) -> Incarnation:
        """Open a new incarnation in the place of older ones of the same name."""
        self._close([node for node in self._open() if node.name == name])
        incarnation = Incarnation(max(self._state.nodes, default=0) + 1)
        now = self._state.clock.now()
        self._state.nodes[incarnation] = NodeRow(
            incarnation=incarnation,
            name=name,
            max_links=max_links,
            started_at=now,
            heartbeat_at=now,
        )
        return incarnation

    async def heartbeat(self, incarnation: Incarnation) -> None:
        """Note by the database's clock that we live."""
        node = self._state.nodes.get(incarnation)
        if node is None or node.closed_at is not None:
            raise Fenced("this incarnation was closed")
        self._state.nodes[incarnation] = replace(node, heartbeat_at=self._state.clock.now())

    async def bury(self, incarnation: Incarnation, *, silent_seconds: float) -> int:
        """Close silent incarnations."""
        latest = self._state.clock.now() - timedelta(seconds=silent_seconds)
        silent = [
            node
            for node in self._open()
            if node.incarnation != incarnation and node.heartbeat_at < latest
        ]
        self._close(silent)
        return len(silent)

    async def retire(self, incarnation: Incarnation) -> None:
        """Close our own incarnation and free whatever lease it still holds."""
        self._close([node for node in self._open() if node.incarnation == incarnation])

    def _open(self) -> Sequence[NodeRow]:
        return [node for node in self._state.nodes.values() if node.closed_at is None]

    def _close(self, nodes: Sequence[NodeRow]) -> None:
        now = self._state.clock.now()
        closed = {node.incarnation for node in nodes}
        for node in nodes:
            self._state.nodes[node.incarnation] = replace(node, closed_at=now)
        for lease in list(self._state.leases.values()):
            if lease.owner in closed:
                self._state.leases[lease.account_id] = replace(
                    lease, owner=None, not_before=None, queued_at=now
                )
