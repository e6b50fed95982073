"""Packets and polling payloads, held to python-engineio's own."""

import msgspec
import pytest
from engineio.packet import Packet
from engineio.payload import Payload
from hypothesis import given
from hypothesis import strategies as st

from brokerd.sandbox import eio_frames as frames

ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=120)


@given(st.lists(ASCII, min_size=1, max_size=16), st.booleans())
def test_the_client_reads_what_we_encode(texts: list[str], is_text: bool) -> None:  # noqa: FBT001
    """python-engineio splits our polling bodies back into the same packets."""
    packets = [b"4" + text.encode() for text in texts]
    decoded = Payload(encoded_payload=frames.encode_payload(packets, is_text=is_text)).packets
    assert [packet.packet_type for packet in decoded] == [4] * len(texts)
    assert len(decoded) == len(texts)
    assert frames.decode_payload(frames.encode_payload(packets, is_text=is_text)) == packets


@given(st.lists(ASCII, min_size=1, max_size=16), st.booleans())
def test_we_read_what_the_client_encodes(texts: list[str], is_base64: bool) -> None:  # noqa: FBT001
    """Both framings of python-engineio's POST bodies are understood."""
    body = Payload(packets=[Packet(4, data=text) for text in texts]).encode(b64=is_base64)
    assert frames.decode_payload(body) == [b"4" + text.encode() for text in texts]


def test_a_text_payload_counts_characters_and_a_binary_one_bytes() -> None:
    """Lengths follow the protocol where the two differ."""
    packet = "4ä€".encode()
    assert frames.encode_payload([packet], is_text=True) == "3:4ä€".encode()
    assert frames.encode_payload([packet], is_text=False) == b"\0\x06\xff" + packet


def test_a_base64_packet_is_decoded() -> None:
    """A binary packet in a text body arrives as its bytes behind the type digit."""
    body = Payload(packets=[Packet(4, data=b"\x00\xff", binary=True)]).encode(b64=True)
    assert frames.decode_payload(body) == [b"4\x00\xff"]


@pytest.mark.parametrize(
    "body", [b"5:4abc", b"x:4a", b"\0\x05\xff4abc", b"\0\x05", b"0:", b"3:b4!"], ids=repr
)
def test_a_broken_payload_is_refused(body: bytes) -> None:
    """Lengths that do not fit raise, whatever the framing."""
    with pytest.raises(frames.BadPayload):
        frames.decode_payload(body)


def test_an_event_keeps_its_body_raw_and_its_ack() -> None:
    """Name, body and acknowledgement id are taken apart; the body is not decoded yet."""
    event = frames.decode_event(b'4217["request",{"a": 1}]')
    assert event is not None
    assert (event.name, bytes(event.body), event.ack) == ("request", b'{"a": 1}', "17")
    again = frames.decode_event(frames.encode_event("response", {"b": [1, 2]}))
    assert again is not None
    assert msgspec.json.decode(again.body) == {"b": [1, 2]}


@pytest.mark.parametrize("packet", [b"40", b"41", b"43[]", b"2probe"], ids=repr)
def test_other_packets_are_no_events(packet: bytes) -> None:
    """Connects, disconnects and acknowledgements carry no event."""
    assert frames.decode_event(packet) is None


@pytest.mark.parametrize("packet", [b"42", b"42{}", b"42[]", b"42[1]", b"42/x,[]"], ids=repr)
def test_a_broken_event_is_refused(packet: bytes) -> None:
    """An event without a name, or of another namespace, raises."""
    with pytest.raises(frames.BadPayload):
        frames.decode_event(packet)
