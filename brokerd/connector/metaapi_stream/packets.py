"""Reads the packets of a stream's socket, skipping what nobody behind the SDK looks at.

A synchronization sends hundreds of symbol specifications, and every quote is a packet. The SDK
decodes them, parses their dates and calls each listener for each of them; here nobody listens
(sdk.md A9, A14). So a packet keeps its envelope, by which the SDK orders packets, and its deals;
the named fields are left undecoded in the text they came in. Only a canary's specifications are
read too.
"""

from collections.abc import Callable, Mapping

import msgspec

_PREFIX = '2["synchronization",'
_SPECIFICATIONS = frozenset({"specifications", "removedSymbols"})
_UNREAD = _SPECIFICATIONS | {
    "positions",
    "orders",
    "historyOrders",
    "updatedPositions",
    "removedPositionIds",
    "updatedOrders",
    "completedOrderIds",
    "prices",
    "candles",
    "ticks",
    "books",
    "timestamps",
    "healthStatus",
}
_decode_fields = msgspec.json.Decoder(tuple[str, dict[str, msgspec.Raw]]).decode
_decode_value = msgspec.json.Decoder().decode


def read_synchronization(
    message: object, *, is_canary: Callable[[object], bool]
) -> dict[str, object] | None:
    """Return the packet of a Socket.IO message, or None when it is anything else.

    A message this cannot read is left to the SDK, which knows more forms of it.
    """
    if not isinstance(message, str) or not message.startswith(_PREFIX):
        return None
    try:
        _, fields = _decode_fields(message[1:])
        packet = {name: _decode_value(raw) for name, raw in fields.items() if name not in _UNREAD}
        if "specifications" in fields and is_canary(packet.get("accountId")):
            named = _SPECIFICATIONS.intersection(fields)
            packet |= {name: _decode_value(fields[name]) for name in named}
    except ValueError:  # msgspec's errors are ValueErrors
        return None
    return packet


def strip_specifications(packet: Mapping[str, object]) -> Mapping[str, object]:
    """Return what the SDK gets of a canary's packet: what it gets of any other."""
    if "specifications" not in packet:
        return packet
    return {name: value for name, value in packet.items() if name not in _SPECIFICATIONS}
