"""Sends a terminal's packets to its client, or what the faults make of them."""

from brokerd.clock import Clock
from brokerd.sandbox.faults import FaultKind, Faults
from brokerd.sandbox.terminal import PacketFields, SequenceClock, Stream

REORDER_SECONDS = 1.0
"""A packet kept back for its successor is sent after this long when none comes."""


class Delivery:
    """The way out of every packet of the stream; counts each fault where it really strikes."""

    def __init__(self, *, clock: Clock, faults: Faults) -> None:
        self._clock = clock
        self._faults = faults
        self._stamps = SequenceClock()
        self._swapped: dict[Stream, float] = {}

    def send(self, stream: Stream, packet: bytes) -> None:
        """Send a packet, unless the account is muted."""
        if not self._is_muted(stream.account_id):
            stream.socket.send(packet)

    def send_status(self, stream: Stream, *, is_connected: bool) -> None:
        """Send the heartbeat, unless that is stopped."""
        if self._faults.strike(FaultKind.STOP_STATUS, account_id=stream.account_id) is None:
            health = {"restApiHealthy": True}
            fields = {"connected": is_connected, "authenticated": True, "healthStatus": health}
            self.send(stream, stream.packet("status", fields))

    def send_sequenced(self, stream: Stream, kind: str, fields: PacketFields) -> None:
        """Send the next packet of the sequence: once, twice, late, or not at all."""
        now_ms = int(self._clock.now().timestamp() * 1000)
        stamp = self._stamps.next(stream.account_id, stream.instance_index, now_ms=now_ms)
        packet = stream.sequenced(kind, fields, stamp=stamp)
        account_id = stream.account_id
        if self._faults.strike(FaultKind.LOSE_PACKETS, account_id=account_id):
            return
        if stream.swapped is not None:
            self.send(stream, packet)
            self._release(stream)
        elif self._faults.strike(FaultKind.REORDER_PACKETS, account_id=account_id):
            stream.swapped = packet
            self._swapped[stream] = self._clock.monotonic() + REORDER_SECONDS
        else:
            self.send(stream, packet)
            if self._faults.strike(FaultKind.DUPLICATE_PACKETS, account_id=account_id):
                self.send(stream, packet)

    def release_due(self) -> None:
        """Send the packets that waited long enough for a successor."""
        now = self._clock.monotonic()
        for stream in [stream for stream, due in self._swapped.items() if due <= now]:
            self._release(stream)

    def _release(self, stream: Stream) -> None:
        self._swapped.pop(stream, None)
        if stream.swapped is not None:
            self.send(stream, stream.swapped)
            stream.swapped = None

    def _is_muted(self, account_id: str) -> bool:
        return self._faults.strike(FaultKind.MUTE, account_id=account_id) is not None
