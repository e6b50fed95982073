"""Engine.IO 3 and Socket.IO 2 on the wire: packets, polling payloads, events; pure functions.

A packet is its type digit and a text. Over a websocket one packet is one text message. Over
polling several packets share a body, each behind its length: as text (`12:4hello…`, length in
characters) or as bytes (0, the length's decimal digits as raw bytes, 255, the packet), which is
what clients that can take binary use. MetaApi sends no binary messages; a base64 packet (`b4…`)
is only ever decoded.
"""

import base64
from collections.abc import Sequence
from typing import TypeVar

import msgspec

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
CONNECT = b"40"
"""The Socket.IO packet that opens the default namespace; the server sends it unasked."""
DISCONNECT = b"41"

MAX_PAYLOAD_PACKETS = 16
"""python-engineio refuses a polling body with more packets than this."""

_LENGTH_END = 255
_Text = TypeVar("_Text", str, bytes)


class BadPayload(ValueError):
    """A polling body or a Socket.IO packet that breaks the protocol."""


class Event(msgspec.Struct, frozen=True):
    """One Socket.IO event; `ack` is the id under which the sender wants it acknowledged."""

    name: str
    body: msgspec.Raw
    ack: str = ""


def encode_event(name: str, body: object) -> bytes:
    """Return the Engine.IO message packet that carries one event."""
    return b"42" + msgspec.json.encode((name, body))


def encode_open(*, sid: str, upgrades: Sequence[str], interval_ms: int, timeout_ms: int) -> bytes:
    """Return the handshake packet."""
    body = {
        "sid": sid,
        "upgrades": upgrades,
        "pingInterval": interval_ms,
        "pingTimeout": timeout_ms,
    }
    return OPEN + msgspec.json.encode(body)


def decode_event(packet: bytes) -> Event | None:
    """Read an Engine.IO message packet; None when it carries something other than an event.

    Raises `BadPayload`.
    """
    if packet[:2] != b"42":
        return None
    start = packet.find(b"[")
    ack = packet[2:start].decode("ascii", "replace")
    if start < 0 or (ack and not ack.isdigit()):
        raise BadPayload("an event of another namespace, or none")
    try:
        parts = msgspec.json.decode(packet[start:], type=list[msgspec.Raw])
        name = msgspec.json.decode(parts[0], type=str)
    except (msgspec.MsgspecError, IndexError) as error:
        raise BadPayload("an event that is not an array with a name") from error
    return Event(name=name, body=parts[1] if len(parts) > 1 else msgspec.Raw(b"null"), ack=ack)


def encode_payload(packets: Sequence[bytes], *, is_text: bool) -> bytes:
    """Return the polling body with the packets in it."""
    if is_text:
        return b"".join(b"%d:%s" % (len(packet.decode()), packet) for packet in packets)
    return b"".join(
        b"\0" + bytes(int(digit) for digit in str(len(packet))) + b"\xff" + packet
        for packet in packets
    )


def decode_payload(body: bytes) -> list[bytes]:
    """Split a polling body into its packets. Raises `BadPayload`."""
    try:
        return _split_binary(body) if body[:1] in (b"\0", b"\1") else _split_text(body.decode())
    except (ValueError, IndexError) as error:
        raise BadPayload("a polling body whose lengths do not fit") from error


def _split_binary(body: bytes) -> list[bytes]:
    packets, at = [], 0
    while at < len(body):
        end = body.index(_LENGTH_END, at)
        length = int("".join(str(digit) for digit in body[at + 1 : end]))
        packets.append(_whole(body[end + 1 : end + 1 + length], length))
        at = end + 1 + length
    return packets


def _split_text(body: str) -> list[bytes]:
    packets, at = [], 0
    while at < len(body):
        colon = body.index(":", at)
        length = int(body[at:colon])
        packets.append(_whole(body[colon + 1 : colon + 1 + length], length).encode())
        at = colon + 1 + length
    return [_from_base64(packet) if packet[:1] == b"b" else packet for packet in packets]


def _whole(piece: _Text, length: int) -> _Text:
    if len(piece) != length or not length:
        raise ValueError("truncated packet")
    return piece


def _from_base64(packet: bytes) -> bytes:
    return packet[1:2] + base64.b64decode(packet[2:], validate=True)
