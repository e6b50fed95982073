"""What a session's stream says, and the deals it brings, committed within milliseconds.

The reader judges nothing: it notes what the terminal, the broker and the stream itself report, for
the keeper to act on. Deals that come before the keeper knows whose account answers, and again
after every interruption, are held back. The two share this object's fields; neither awaits between
reading and writing them.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from brokerd.connector.hearing import Hearing
from brokerd.connector.ports import (
    BrokerStatus,
    Connected,
    DealSeen,
    Disconnected,
    Gap,
    LinkPorts,
    Session,
    StreamEvent,
    Synchronized,
)
from brokerd.connector.silence import Rhythm
from brokerd.domain import Claim, Deal, DealId, LinkWrite, Source

MAX_EARLY_DEALS = 10_000
"""Deals held back until we know whose they are; the pull that follows brings all others."""


class Reader:
    """Owns what is known from the stream.

    `news` is set when something but deals came; `packets` counts whatever came. What an
    interruption must end at once waits in `on_interrupt`.
    """

    def __init__(self, claim: Claim, *, rhythm: Rhythm, hearing: Hearing, ports: LinkPorts) -> None:
        self.rhythm = rhythm
        self.packets = 0
        self.news = asyncio.Event()
        self.on_interrupt: Callable[[], object] | None = None
        self.is_terminal_up = False
        self.is_broker_up = True
        self.is_synchronized = False
        self.was_interrupted = False
        self.interrupted_at = 0.0
        self.gap_reason: str | None = None
        self.gap_at = 0.0
        self._claim = claim
        self._hearing = hearing
        self._ports = ports
        self._clock = ports.clock
        self._is_identified = False
        self._is_committing = False
        self._early: dict[DealId, Deal] = {}
        self._heard_at = ports.clock.monotonic()
        rhythm.rest()

    @property
    def is_up(self) -> bool:
        """Say whether terminal and broker answer."""
        return self.is_terminal_up and self.is_broker_up

    def silence_seconds(self) -> float:
        """Return for how long nothing came; while a commit is under way, we do not listen."""
        return 0.0 if self._is_committing else self._clock.monotonic() - self._heard_at

    def listen_anew(self) -> None:
        """Count silence from now on: nobody listened before."""
        self._heard_at = self._clock.monotonic()
        self.rhythm.rest()

    def lose_broker(self) -> None:
        """Note what the stream does not tell: that the broker is away."""
        if self.is_broker_up:
            self._interrupt()
        self.is_broker_up = False
        self.news.set()

    async def read(self, session: Session) -> None:
        """Take all that the session brings, until it breaks."""
        while True:
            events = await session.receive()
            received_at = self._clock.monotonic()
            self._heard_at = received_at
            self.packets += 1
            deals = self._note(events)
            if not self._is_identified:
                self._hold_back(deals)
            elif deals:
                self._is_committing = True
                await self._commit(deals.values())
                self._is_committing = False
                self._heard_at = self._clock.monotonic()
                self._ports.metrics.commit_latency.observe(self._heard_at - received_at)

    async def let_pass(self) -> None:
        """Let deals pass, those held back first, unless we were interrupted meanwhile."""
        self._is_identified = not self.was_interrupted
        if self._is_identified and self._early:
            early, self._early = self._early, {}
            await self._commit(early.values())

    def _note(self, events: Sequence[StreamEvent]) -> Mapping[DealId, Deal]:
        """Fold events into what the keeper looks at; return the deals among them."""
        deals: dict[DealId, Deal] = {}
        for event in events:
            match event:
                case DealSeen(deal=deal):
                    deals[deal.deal_id] = deal
                case Gap(reason=reason):
                    if self.gap_reason is None:
                        self.gap_at = self._heard_at
                    self.gap_reason = reason
                    self._ports.metrics.stream_gaps.labels(reason=reason).inc()
                case _:
                    self._follow(event)
        if len(deals) < len(events):
            self.news.set()
        if deals:
            self._hearing.heard(deal.time for deal in deals.values())
        return deals

    def _follow(self, event: Connected | Synchronized | Disconnected | BrokerStatus) -> None:
        """Follow the terminal's ups and downs."""
        match event:
            case Connected():
                self.rhythm.rest()
                if self.is_terminal_up:  # without a Disconnected: the terminal began anew
                    self._interrupt()
                self.is_terminal_up = True
                self.is_synchronized = False
            case Synchronized():
                self.is_synchronized = True
            case Disconnected():
                self._interrupt()
                self.is_terminal_up = False
                self.is_synchronized = False
            case BrokerStatus(is_connected=is_connected):
                self.rhythm.beat(self._heard_at)
                if self.is_broker_up and not is_connected:
                    self._interrupt()
                self.is_broker_up = is_connected

    def _interrupt(self) -> None:
        """Doubt everything until the keeper has looked: also who will answer next."""
        if not self.was_interrupted:
            self.interrupted_at = self._clock.monotonic()
        self.was_interrupted = True
        self._is_identified = False
        if self.on_interrupt is not None:
            self.on_interrupt()

    def _hold_back(self, deals: Mapping[DealId, Deal]) -> None:
        if len(self._early) + len(deals) <= MAX_EARLY_DEALS:
            self._early.update(deals)

    async def _commit(self, deals: Collection[Deal]) -> None:
        self._ports.metrics.deals_received.labels(path=Source.STREAM).inc(len(deals))
        await self._ports.ledger.write(
            LinkWrite(
                fence=self._claim.fence,
                link_id=self._claim.link_id,
                user_id=self._claim.spec.user_id,
                source=Source.STREAM,
                deals=tuple(deals),
            )
        )
