"""One terminal's packets to one client: their form, their sequence, and what a fault does to them.

A client subscribes to an account's instance; from then on it has a `Stream`. The packets that
change state carry a sequence number, which starts at 0 with each synchronization and grows by one,
and a sequence timestamp, which never goes back, not even when the client or the sandbox starts
again (metaapi.md 5.5): it is the wall clock in milliseconds, pushed forward where that stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from brokerd.sandbox import eio_frames as frames
from brokerd.sandbox.eio_socket import Socket

MAX_FRAME_BYTES = 3 * 1024 * 1024
"""Packets are cut below this; aiohttp's client drops a socket at 4 MiB (metaapi.md 5.1)."""

PacketFields = Mapping[str, object]


class SequenceClock:
    """The newest sequence timestamp of each terminal."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, int], int] = {}

    def next(self, account_id: str, instance_index: int, *, now_ms: int) -> int:
        """Return a timestamp greater than every one before it."""
        key = (account_id, instance_index)
        stamp = max(now_ms, self._newest.get(key, 0) + 1)
        self._newest[key] = stamp
        return stamp


@dataclass(slots=True, kw_only=True, eq=False)
class Stream:
    """A client's subscription to one instance of an account.

    `is_idle`: the second instance of an account that has one terminal; it is acknowledged and
    never carries a packet. `next_number` is None until the first synchronization. `swapped` is a
    packet kept back to be sent after its successor.
    """

    account_id: str
    owner: str
    instance_index: int
    host: str
    socket: Socket
    is_idle: bool
    next_number: int | None = None
    is_over: bool = False
    swapped: bytes | None = None

    def packet(self, kind: str, fields: PacketFields) -> bytes:
        """Encode a packet that has no place in the sequence."""
        body = {
            "type": kind,
            "accountId": self.account_id,
            "instanceIndex": self.instance_index,
            "host": self.host,
            **fields,
        }
        return frames.encode_event("synchronization", body)

    def sequenced(self, kind: str, fields: PacketFields, *, stamp: int) -> bytes:
        """Encode the next packet of the sequence and move on."""
        assert self.next_number is not None, "no synchronization was started"
        number, self.next_number = self.next_number, self.next_number + 1
        return self.packet(kind, {"sequenceNumber": number, "sequenceTimestamp": stamp, **fields})


def chunked(items: Sequence[bytes], *, max_bytes: int = MAX_FRAME_BYTES) -> list[list[msgspec.Raw]]:
    """Group encoded items so that no group's JSON array exceeds the size; none for no items."""
    groups: list[list[msgspec.Raw]] = []
    room = 0
    for item in items:
        if not groups or len(item) + 1 > room:
            groups.append([])
            room = max_bytes
        groups[-1].append(msgspec.Raw(item))
        room -= len(item) + 1
    return groups
