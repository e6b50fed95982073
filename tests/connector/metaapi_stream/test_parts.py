"""The small parts of the adapter: packets, routes, log, pace, pauses."""

import asyncio
import json
import logging
from collections.abc import Mapping
from random import Random

import pytest
from governing import PacedSockets

from brokerd.config.settings import MetaApiSettings
from brokerd.connector.governor.pace import Pace
from brokerd.connector.governor.ports import Socket
from brokerd.connector.metaapi_stream.opening import SocketOpening, pause_seconds
from brokerd.connector.metaapi_stream.packets import (
    read_synchronization,
    strip_specifications,
)
from brokerd.connector.metaapi_stream.routes import Routes
from brokerd.connector.metaapi_stream.sdklog import (
    DemotedLogger,
    TokenFilter,
    hold_tokens_back,
    scrub,
)
from brokerd.connector.metaapi_stream.wedge import SocketLife
from brokerd.telemetry import Metrics

PACKET = {
    "type": "update",
    "accountId": "a",
    "sequenceNumber": 3,
    "deals": [{"id": "1", "profit": -85.25999999999966, "time": "2026-11-21T10:00:00.000Z"}],
    "updatedPositions": [{"id": "2"}],
    "specifications": [{"symbol": "EURUSD"}],
    "prices": [{"symbol": "EURUSD", "time": "not a time"}],
}


def read(message: object, *canaries: str) -> Mapping[str, object] | None:
    """Read a message while these accounts are canaries."""
    return read_synchronization(message, is_canary=canaries.__contains__)


def test_a_packet_keeps_its_envelope_and_its_deals() -> None:
    """What nobody behind the SDK reads is left out; deals come exactly as they were sent."""
    packet = read("2" + json.dumps(["synchronization", PACKET], separators=(",", ":")))
    assert packet == {
        name: PACKET[name] for name in ("type", "accountId", "sequenceNumber", "deals")
    }


def test_a_canarys_specifications_are_read_and_go_no_further() -> None:
    """What the SDK gets of its packet is what it gets of any other."""
    message = "2" + json.dumps(["synchronization", PACKET], separators=(",", ":"))
    packet = read(message, "a")
    assert packet is not None
    assert packet["specifications"] == PACKET["specifications"]
    assert strip_specifications(packet) == read(message, "b")


@pytest.mark.parametrize(
    "message",
    [
        '2["response",{"requestId":"1"}]',
        '2["synchronization","{\\"type\\":\\"status\\"}"]',
        '2["synchronization",{"type":',
        '27["synchronization",{}]',
        "0",
        b"binary",
        None,
    ],
    ids=["another event", "a packet as text", "truncated", "with ack", "connect", "bytes", "none"],
)
def test_other_messages_are_left_to_the_sdk(message: object) -> None:
    """What we cannot read is not ours."""
    assert read(message) is None


@pytest.mark.parametrize(
    ("settings", "url", "target"),
    [
        ({}, "https://mt-provisioning-api-v1.x.ai/a", "https://mt-provisioning-api-v1.x.ai/a"),
        (
            {"provisioning_url": "http://127.0.0.1:1/"},
            "https://mt-provisioning-api-v1.x.ai/a?b=c",
            "http://127.0.0.1:1/a?b=c",
        ),
        (
            {"client_url": "http://{region}.local:2/base"},
            "https://mt-client-api-v1.london.x.ai/a",
            "http://london.local:2/base/a",
        ),
        (
            {"provisioning_url": "http://127.0.0.1:1"},
            "https://mt-client-api-v1.london.x.ai/a",
            "https://mt-client-api-v1.london.x.ai/a",
        ),
    ],
    ids=["the real one", "provisioning", "client by region", "one of two"],
)
def test_requests_go_where_the_configuration_says(
    settings: dict[str, str], url: str, target: str
) -> None:
    """Unset addresses stay the SDK's own."""
    assert Routes(MetaApiSettings(tokens={}, **settings)).rewrite(url) == target


@pytest.mark.parametrize(
    "text",
    [
        "wss://host/ws/?auth-token=se.cr.et&clientId=1",
        "{'auth-token': 'se.cr.et'}",
        '{"auth-token": "se.cr.et"}',
        "ClientError, url='http://host/?auth-token=se.cr.et'",
    ],
)
def test_tokens_are_blotted_out(text: str) -> None:
    """In URLs, headers and exceptions."""
    assert "se.cr.et" not in scrub(text)
    assert scrub("nothing here") == "nothing here"


def test_a_record_is_scrubbed_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """A library that logs an exception with a URL in it shows no token."""
    logger = logging.getLogger("test.scrubbed")
    logger.addFilter(TokenFilter())
    error = OSError("cannot reach http://host/?auth-token=se.cr.et")
    logger.error("failed at %s", "http://host/?auth-token=se.cr.et", exc_info=error)
    logger.warning("fine with %d", 1)
    assert "se.cr.et" not in caplog.text
    assert "OSError: cannot reach" in caplog.text
    assert "fine with 1" in caplog.text


def test_the_transports_errors_are_debugging(caplog: pytest.LogCaptureFixture) -> None:
    """A write loop that ends calls itself an error; nobody has to act."""
    hold_tokens_back()
    caplog.set_level(logging.INFO)
    logging.getLogger("engineio.client").error("packet queue is empty, aborting")
    assert caplog.records == []
    caplog.set_level(logging.DEBUG)
    logging.getLogger("engineio.client").error("cannot reach /?auth-token=%s", "se.cr.et")
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("DEBUG", "cannot reach /?auth-token=…")


def test_the_sdks_errors_are_ours_to_judge(caplog: pytest.LogCaptureFixture) -> None:
    """What the SDK calls an error is DEBUG here, with all it was given, scrubbed."""
    caplog.set_level(logging.DEBUG)
    logger = DemotedLogger("Socket")
    logger.debug("packets")
    logger.error("lost", "auth-token=se.cr.et", 3)  # noqa: PLE1205  # the SDK's way
    logger.warning("slow")
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("metaapi.Socket", "DEBUG", "lost auth-token=… 3"),
        ("metaapi.Socket", "DEBUG", "slow"),
    ]


async def test_turns_come_at_the_rate_in_order() -> None:
    """Ten at fifty a second take a fifth of a second, and nobody overtakes."""
    pace, order = Pace(per_second=50), []
    began = asyncio.get_running_loop().time()

    async def take(number: int) -> None:
        await pace.turn()
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(take(number))
    assert asyncio.get_running_loop().time() - began >= 0.16
    assert order == list(range(10))


async def test_a_cancelled_waiter_leaves_the_line() -> None:
    """Those behind it are served."""
    pace = Pace(per_second=20)
    await pace.turn()
    waiters = [asyncio.ensure_future(pace.turn()) for _ in range(2)]
    await asyncio.sleep(0.01)
    waiters[0].cancel()
    await asyncio.wait_for(waiters[1], 1)
    assert waiters[0].cancelled()


def test_pauses_double_up_to_their_ceiling() -> None:
    """However many failures there were."""
    assert [pause_seconds(n) for n in (1, 2, 3, 6, 7, 5000)] == [0.5, 1, 2, 15, 15, 15]


async def test_an_ended_opening_makes_no_attempt(metrics: Metrics) -> None:
    """The SDK's loop around it stops for nothing but a cancellation."""
    gate = PacedSockets(per_second=100)
    opening = SocketOpening(gate=gate, random=Random(1), metrics=metrics)
    socket = Socket(token="main", region="new-york", name="0")
    life = SocketLife(since=0.0)
    await opening.turn(life, socket, is_reconnect=False)
    opening.end()
    with pytest.raises(asyncio.CancelledError):
        await opening.turn(life, socket, is_reconnect=True)
    assert metrics.registry.get_sample_value("brokerd_stream_socket_opens_total") == 1
