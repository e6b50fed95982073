"""What the SDK tells of an account becomes our events; what it asks is answered from memory."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from metaapi_cloud_sdk.metaapi.memory_history_storage import MemoryHistoryStorage

from brokerd.clock import SystemClock
from brokerd.connector.metaapi_stream.buffer import EventBuffer
from brokerd.connector.metaapi_stream.listener import StreamListener
from brokerd.connector.ports import (
    BrokerStatus,
    Connected,
    DealSeen,
    Disconnected,
    Gap,
    StreamEvent,
    Synchronized,
)

WATERMARK = datetime(2026, 11, 1, tzinfo=UTC)
FIRST, SECOND = "london:0:host-a", "london:1:host-b"
DEAL = {
    "id": "17",
    "platform": "mt5",
    "type": "DEAL_TYPE_BALANCE",
    "time": "2026-11-21T10:00:00.000Z",
    "brokerTime": "2026-11-21 12:00:00.000",
    "profit": 100.0,
}


@pytest.fixture
def buffer() -> EventBuffer:
    """Give an empty buffer."""
    return EventBuffer(limit=100)


@pytest.fixture
def listener(buffer: EventBuffer) -> StreamListener:
    """Give a listener on it."""
    return StreamListener(buffer, synced_through=WATERMARK, overlap_seconds=60, clock=SystemClock())


Step = Callable[[StreamListener], Awaitable[None] | None]
CASES: dict[str, tuple[list[Step], list[StreamEvent]]] = {
    "one terminal, lost and back": (
        [
            lambda it: it.on_connected(FIRST, 1),
            lambda it: it.on_disconnected(FIRST),
            lambda it: it.on_stream_closed(FIRST),
            lambda it: it.on_connected(FIRST, 1),
        ],
        [Connected(), Disconnected(), Connected()],
    ),
    "a second session without a loss": (
        [lambda it: it.on_connected(FIRST, 1), lambda it: it.on_connected(FIRST, 1)],
        [Connected(), Connected()],
    ),
    "the terminal moved to another host": (
        [
            lambda it: it.on_connected(FIRST, 1),
            lambda it: it.on_connected("london:0:host-c", 1),
            lambda it: it.on_stream_closed(FIRST),
        ],
        [Connected(), Connected()],
    ),
    "one of two terminals lost and back": (
        [
            lambda it: it.on_connected(FIRST, 2),
            lambda it: it.on_connected(SECOND, 2),
            lambda it: it.lose_socket(region="london", instance_number=0),
            lambda it: it.on_connected(FIRST, 2),
        ],
        [Connected()],
    ),
    "both terminals lost": (
        [
            lambda it: it.on_connected(FIRST, 2),
            lambda it: it.on_connected(SECOND, 2),
            lambda it: it.lose_socket(region="london", instance_number=0),
            lambda it: it.lose_socket(region="london", instance_number=1),
            lambda it: it.on_disconnected(SECOND),
        ],
        [Connected(), Disconnected()],
    ),
    "another region's socket": (
        [
            lambda it: it.on_connected(FIRST, 1),
            lambda it: it.lose_socket(region="new-york", instance_number=0),
        ],
        [Connected()],
    ),
    "one broker connection of two is enough": (
        [
            lambda it: it.on_connected(FIRST, 2),
            lambda it: it.on_connected(SECOND, 2),
            lambda it: it.on_broker_connection_status_changed(FIRST, connected=True),
            lambda it: it.on_broker_connection_status_changed(SECOND, connected=False),
            lambda it: it.lose_socket(region="london", instance_number=0),
            lambda it: it.on_broker_connection_status_changed(SECOND, connected=False),
        ],
        [Connected(), BrokerStatus(is_connected=True), BrokerStatus(is_connected=False)],
    ),
    "the end of a replay": ([lambda it: it.on_deals_synchronized(FIRST, "s")], [Synchronized()]),
    "a hole in the packets": ([lambda it: it.lose_packets()], [Gap(reason="sequence")]),
    "an order": (
        [lambda it: it.on_history_order_added(FIRST, {}), lambda it: it.lose_packets()],
        [Gap(reason="sequence")],
    ),
}


@pytest.mark.parametrize(("steps", "events"), CASES.values(), ids=CASES.keys())
async def test_what_the_sdk_tells(
    listener: StreamListener, buffer: EventBuffer, steps: list[Step], events: list[StreamEvent]
) -> None:
    """Each story of terminals and sockets becomes these events and no others."""
    for step in steps:
        result = step(listener)
        if result is not None:
            await result
    assert list(await buffer.take()) == events


async def test_a_deal_is_passed_on_as_ours(listener: StreamListener, buffer: EventBuffer) -> None:
    """Read by the one reader of deals."""
    await listener.on_deal_added(FIRST, DEAL)
    (event,) = await buffer.take()
    assert isinstance(event, DealSeen)
    assert (event.deal.deal_id, str(event.deal.profit)) == ("17", "100")


@pytest.mark.parametrize(
    "record", [{}, {"id": "1"}, {**DEAL, "profit": float("nan")}, {**DEAL, "time": object()}, None]
)
async def test_an_unreadable_deal_is_a_gap(
    listener: StreamListener, buffer: EventBuffer, record: Any
) -> None:
    """Nothing is raised into the SDK, which would swallow it and the rest of the packet."""
    await listener.on_deal_added(FIRST, record)
    assert await buffer.take() == (Gap(reason="unreadable_deal"),)


async def test_a5_a_live_deal_does_not_move_the_start_of_the_next_replay(
    listener: StreamListener,
) -> None:
    """Only what the ledger acknowledged does; the SDK's own storage jumps over history."""
    theirs = MemoryHistoryStorage()
    for storage in (listener, theirs):
        await storage.on_deal_added(FIRST, {**DEAL, "time": datetime(2026, 11, 21, tzinfo=UTC)})
    assert await theirs.last_deal_time(0) == datetime(2026, 11, 21, tzinfo=UTC)
    assert await listener.last_deal_time(0) == WATERMARK - timedelta(seconds=60)
    listener.acknowledge(WATERMARK + timedelta(hours=1))
    listener.acknowledge(WATERMARK)  # a late word of an earlier pull
    assert await listener.last_deal_time(0) == WATERMARK + timedelta(hours=1, seconds=-60)


async def test_the_sdk_gets_what_it_needs_of_a_storage(listener: StreamListener) -> None:
    """It is true, its times are aware, it asks for no orders of the past, it holds nothing."""
    assert bool(listener)
    times = (await listener.last_deal_time(0), await listener.last_history_order_time(0))
    assert all(time.tzinfo is not None for time in times)
    assert datetime.now(UTC) - times[1] < timedelta(seconds=5)
    await listener.initialize("account", "application")
    await listener.clear()
    assert listener.deals == listener.history_orders == listener.get_deals_by_ticket("1") == []
