"""The buffer keeps order and bounds, and admits what it dropped."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from brokerd.connector.metaapi_stream.buffer import EventBuffer
from brokerd.connector.ports import BrokerStatus, Connected, DealSeen, Disconnected, Gap
from brokerd.domain import Deal, DealId
from brokerd.errors import LinkLost


def seen(number: int) -> DealSeen:
    """Make a deal event."""
    return DealSeen(
        deal=Deal(
            deal_id=DealId(str(number)),
            type="DEAL_TYPE_BALANCE",
            entry=None,
            symbol=None,
            volume=None,
            price=None,
            time=datetime(2026, 1, 1, tzinfo=UTC),
            broker_time="",
            profit=Decimal(1),
            commission=Decimal(0),
            swap=Decimal(0),
            order_id=None,
            position_id=None,
            raw="{}",
        )
    )


async def test_events_come_in_order_and_once() -> None:
    """Everything that waits is returned; then the taker waits again."""
    buffer = EventBuffer(limit=10)
    buffer.put(Connected())
    buffer.put(seen(1))
    assert await buffer.take() == (Connected(), seen(1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await buffer.take()
    buffer.put(seen(2))
    assert await buffer.take() == (seen(2),)


async def test_deals_that_do_not_fit_become_one_gap() -> None:
    """The first deals stay, the rest is dropped, and it is said once."""
    buffer = EventBuffer(limit=2)
    for number in range(5):
        buffer.put(seen(number))
    assert len(buffer) == 2
    assert await buffer.take() == (seen(0), seen(1), Gap(reason="overflow"))


async def test_the_sessions_state_gets_into_a_full_buffer() -> None:
    """A loss is told even when deals fill the buffer; the oldest event makes room."""
    buffer = EventBuffer(limit=2)
    buffer.put(seen(1))
    buffer.put(seen(2))
    buffer.put(Disconnected())
    assert await buffer.take() == (seen(2), Disconnected(), Gap(reason="overflow"))


async def test_equal_heartbeats_are_folded() -> None:
    """A link that does not read does not fill its buffer with heartbeats."""
    buffer = EventBuffer(limit=10)
    for is_connected in (True, True, False, False, True):
        buffer.put(BrokerStatus(is_connected=is_connected))
    assert [event.is_connected for event in await buffer.take()] == [True, False, True]


async def test_an_ended_buffer_gives_what_it_has_first() -> None:
    """What came before the end is read; after it the session is lost, for every taker."""
    buffer = EventBuffer(limit=10)
    buffer.put(seen(1))
    buffer.end(LinkLost("closed"))
    assert await buffer.take() == (seen(1),)
    for _ in range(2):
        with pytest.raises(LinkLost):
            await buffer.take()


async def test_a_cancelled_taker_loses_nothing() -> None:
    """The next one gets the event."""
    buffer = EventBuffer(limit=10)
    taker = asyncio.ensure_future(buffer.take())
    await asyncio.sleep(0)
    buffer.put(Connected())
    taker.cancel()
    await asyncio.wait({taker})
    assert taker.cancelled()
    assert await buffer.take() == (Connected(),)
