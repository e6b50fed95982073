"""The faults that cut sockets or swallow them, and the ends that conditions put to streams.

They are cut once at switching on and then `per_minute` times a minute, until `limit`. A strike
counts only when it cut something. Which socket is the second one shows in what was subscribed on
it: nothing but instance 1. Streams of a revoked token end without a word, as do those of a region
that is down; a socket all of whose streams are in such a region is cut.
"""

from collections.abc import Callable, Collection, Mapping

from brokerd.sandbox.eio_socket import Socket
from brokerd.sandbox.faults import AnyFault, Fault, FaultKind, StagedFault
from brokerd.sandbox.registry import Registry
from brokerd.sandbox.state import MetaApiState
from brokerd.sandbox.terminal import Stream

_MINUTE_SECONDS = 60.0

_Streams = tuple[Stream, ...]


def is_second(streams: _Streams) -> bool:
    """Say whether a socket serves second instances only."""
    return all(stream.instance_index == 1 for stream in streams)


class SocketOutages:
    """Cuts sockets as the faults ask."""

    def __init__(
        self, registry: Registry, *, state: MetaApiState, drop: Callable[[Socket], None]
    ) -> None:
        self._registry = registry
        self._state = state
        self._faults = state.faults
        self._drop = drop
        self._next: dict[AnyFault, tuple[Fault, float]] = {}
        self._later: list[tuple[float, Socket]] = []

    def tick(self, now: float) -> None:
        """Cut what is due at the monotonic time `now`."""
        self._end_severed()
        for due, socket in list(self._later):
            if due <= now:
                self._later.remove((due, socket))
                self._drop(socket)
        for fault in self._faults.active:
            if self._is_due(fault, now):
                self._act(fault, now)

    def cut(
        self, *, account_ids: Collection[str] | None = None, instance_index: int | None = None
    ) -> int:
        """Cut the sockets subscribed for these accounts and this instance alone; say how many."""
        chosen = [
            socket
            for socket, streams in self._registry.sockets()
            if (account_ids is None or any(s.account_id in account_ids for s in streams))
            and (instance_index is None or all(s.instance_index == instance_index for s in streams))
        ]
        for socket in chosen:
            self._drop(socket)
        return len(chosen)

    def _act(self, fault: Fault, now: float) -> None:
        match fault.kind:
            case FaultKind.DROP_SOCKETS:
                self._cut(fault, self._targets(fault), now)
            case FaultKind.DROP_IDLE_SOCKETS:
                self._cut(fault, _second(self._targets(fault)), now)
            case FaultKind.DELAY_IDLE_SOCKET:
                self._cut_second_later(fault, now)
            case StagedFault.BLACK_HOLE:
                self._swallow(fault)
            case _:
                pass  # strikes elsewhere

    def _swallow(self, fault: Fault) -> None:
        for socket, streams in self._targets(fault).items():
            if not socket.is_silent:
                covered = next(s.account_id for s in streams if fault.covers(s.account_id))
                socket.is_silent = self._faults.strike(fault.kind, account_id=covered) is not None

    def _end_severed(self) -> None:
        down = self._state.conditions.down_regions
        revoked = {user.name for user in self._state.users.all if user.is_revoked}
        if not down and not revoked:
            return
        for socket, streams in self._registry.sockets():
            lost = [s for s in streams if s.owner in revoked or self._region(s) in down]
            for stream in lost:
                self._registry.remove(stream)
            if all(self._region(stream) in down for stream in streams):
                self._drop(socket)

    def _region(self, stream: Stream) -> str:
        return self._state.broker.account(stream.account_id).spec.region

    def _is_due(self, fault: Fault, now: float) -> bool:
        known, due = self._next.get(fault.kind, (None, 0.0))
        return known is not fault or due <= now

    def _targets(self, fault: Fault) -> dict[Socket, _Streams]:
        return {
            socket: streams
            for socket, streams in self._registry.sockets()
            if any(fault.covers(stream.account_id) for stream in streams)
        }

    def _strike(self, fault: Fault, targets: Mapping[Socket, _Streams], now: float) -> bool:
        covered = [s for streams in targets.values() for s in streams if fault.covers(s.account_id)]
        if not covered:
            return False
        self._next[fault.kind] = (fault, now + _MINUTE_SECONDS / fault.per_minute)
        return self._faults.strike(fault.kind, account_id=covered[0].account_id) is not None

    def _cut(self, fault: Fault, targets: Mapping[Socket, _Streams], now: float) -> None:
        if self._strike(fault, targets, now):
            for socket in targets:
                self._drop(socket)

    def _cut_second_later(self, fault: Fault, now: float) -> None:
        targets = self._targets(fault)
        second = _second(targets)
        if self._strike(fault, second, now):
            self._later += [(now + fault.seconds, socket) for socket in second]
            for socket in targets.keys() - second.keys():
                self._drop(socket)


def _second(targets: Mapping[Socket, _Streams]) -> dict[Socket, _Streams]:
    return {socket: streams for socket, streams in targets.items() if is_second(streams)}
