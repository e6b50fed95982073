"""Watches one account's stream synchronize, and how often it shows a sign of life."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from brokerd.clock import Clock
from brokerd.connector.inspection.report import Finding, Verdict
from brokerd.connector.ports import (
    BrokerStatus,
    Connected,
    DealSeen,
    RemoteAccount,
    Session,
    StreamEvent,
    StreamPort,
    Synchronized,
)
from brokerd.domain import DealId, MetaApiRef
from brokerd.errors import TimedOut

SYNC_SECONDS = 300.0
"""What a long history may take."""
LISTEN_SECONDS = 20.0
"""How long heartbeats are counted once it is synchronized."""
HEARTBEAT_SECONDS = 60.0
"""The SDK takes a terminal for gone that shows no sign of life for so long."""


@dataclass(slots=True)
class Heard:
    """What the stream brought, and when, in seconds since it was opened."""

    connected_at: float | None = None
    synchronized_at: float | None = None
    deal_ids: set[DealId] = field(default_factory=set)
    heartbeats: int = 0

    def add(self, event: StreamEvent, *, at: float) -> None:
        """Note one event."""
        match event:
            case Connected():
                self.connected_at = self.connected_at or at
            case Synchronized():
                self.synchronized_at = self.synchronized_at or at
            case DealSeen():
                self.deal_ids.add(event.deal.deal_id)
            case BrokerStatus():
                self.heartbeats += 1
            case _:
                pass


async def watch(
    remote: MetaApiRef, *, stream: StreamPort, account: RemoteAccount, since: datetime, clock: Clock
) -> Heard:
    """Open a session, listen until it is synchronized and a little longer, and close it."""
    began, heard = clock.monotonic(), Heard()
    session = await stream.open(remote, account=account, synced_through=since)
    try:
        try:
            async with asyncio.timeout(SYNC_SECONDS):
                while heard.synchronized_at is None:
                    await _hear(session, heard, began=began, clock=clock)
        except TimeoutError:
            raise TimedOut(f"the stream did not synchronize in {SYNC_SECONDS:g} s") from None
        heard.heartbeats = 0
        try:
            async with asyncio.timeout(LISTEN_SECONDS):
                while True:
                    await _hear(session, heard, began=began, clock=clock)
        except TimeoutError:
            return heard
    finally:
        await session.close()


async def _hear(session: Session, heard: Heard, *, began: float, clock: Clock) -> None:
    for event in await session.receive():
        heard.add(event, at=clock.monotonic() - began)


def judged(heard: Heard, *, history: frozenset[DealId]) -> Finding:
    """Hold what the stream brought against the history that was read."""
    missing, beyond = history - heard.deal_ids, heard.deal_ids - history
    told = (
        f"terminal after {heard.connected_at or 0:.1f} s, synchronized after"
        f" {heard.synchronized_at or 0:.1f} s; {len(heard.deal_ids)} deals, {len(missing)} of"
        f" history missing, {len(beyond)} beyond it; {heard.heartbeats} heartbeats in"
        f" {LISTEN_SECONDS:g} s"
    )
    is_known = not missing and heard.heartbeats > 0
    return Finding(
        check="stream",
        verdict=Verdict.AS_KNOWN if is_known else Verdict.DIFFERS,
        seen=told,
        known=f"the whole history; a heartbeat at least every {HEARTBEAT_SECONDS:g} s",
    )
