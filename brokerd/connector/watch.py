"""Notices that an open session went silent, and decides within seconds what that means.

A socket that is closed says so. One that died without a word does not, nor does a server that
forgot us, nor a terminal that hangs: all of them are silence. So silence beyond what the stream's
heartbeats lead to expect makes the link suspect, and one look over REST decides. While the look
lasts the keeper goes on; what it is doing may take longer than the decision.
"""

import asyncio
from enum import Enum

from brokerd.connector.board import Board
from brokerd.connector.identity import remote_of
from brokerd.connector.ports import LinkPorts
from brokerd.connector.reader import Reader
from brokerd.connector.silence import limit_seconds
from brokerd.connector.states import LinkEvent
from brokerd.connector.waiting import TIMER_SECONDS
from brokerd.domain import Claim, Phase
from brokerd.errors import LinkLost, NotConnected, Transient

OVERSLEPT_SECONDS = 1.0
"""A timer that comes so much later found our process standing still, not the stream."""


class _Sight(Enum):
    """What a look over REST showed."""

    TERMINAL_ANSWERS = "terminal_answers"
    BROKER_IS_AWAY = "broker_is_away"
    NOTHING = "nothing"


class Watch:
    """Owns a session's suspicion: suspect, and heard again or lost."""

    def __init__(self, claim: Claim, *, board: Board, reader: Reader, ports: LinkPorts) -> None:
        self._remote = remote_of(claim)
        self._board = board
        self._reader = reader
        self._ports = ports
        self._settings = ports.settings
        self._packets_seen = 0
        self._pause_seconds = ports.settings.suspect_seconds
        self._next_look = 0.0

    async def run(self) -> None:
        """Watch until the session is lost; raises `LinkLost`, or what the look was refused with."""
        while True:
            await self._wait_for_silence()
            await self._decide()

    async def _wait_for_silence(self) -> None:
        """Wait until a terminal that was up was silent for too long; all else has other limits."""
        while True:
            if self._reader.packets != self._packets_seen:
                self._packets_seen = self._reader.packets
                self._pause_seconds, self._next_look = self._settings.suspect_seconds, 0.0
            left = self._seconds_left()
            if left <= 0 and self._reader.is_terminal_up:
                return
            # The limit may fall while we sleep, never below this one.
            nap = min(left, self._settings.suspect_seconds)
            await self._sleep(nap if left > 0 else self._settings.suspect_seconds)

    async def _sleep(self, seconds: float) -> None:
        """Sleep; if we overslept, nobody listened meanwhile."""
        until = self._ports.clock.monotonic() + seconds + TIMER_SECONDS
        await asyncio.sleep(seconds + TIMER_SECONDS)
        if self._ports.clock.monotonic() > until + OVERSLEPT_SECONDS:
            self._reader.listen_anew()

    def _seconds_left(self) -> float:
        limit = limit_seconds(self._reader.rhythm.longest_gap_seconds, self._settings)
        now = self._ports.clock.monotonic()
        return max(limit - self._reader.silence_seconds(), self._next_look - now)

    async def _decide(self) -> None:
        packets = self._reader.packets
        self._note("silence")
        if self._board.phase is Phase.LIVE:
            await self._board.enter(LinkEvent.SILENT, "Silent")
        sight = await self._look()
        if self._reader.packets != packets:
            if self._board.phase is Phase.SUSPECT:
                await self._board.enter(LinkEvent.HEARD, "Live")
            return
        self._note("decision")
        silence = f"nothing heard for {self._reader.silence_seconds():.0f} s"
        match sight:
            case _Sight.BROKER_IS_AWAY:
                await self._bear_with_broker()
            case _Sight.TERMINAL_ANSWERS:
                raise LinkLost(f"{silence}, though the terminal answers over REST")
            case _Sight.NOTHING:
                raise LinkLost(f"{silence}, and no answer over REST either")

    async def _look(self) -> _Sight:
        try:
            async with asyncio.timeout(self._settings.probe_seconds):
                await self._ports.rest.account_information(self._remote)
        except NotConnected:
            return _Sight.BROKER_IS_AWAY
        except (Transient, TimeoutError):
            return _Sight.NOTHING
        return _Sight.TERMINAL_ANSWERS

    async def _bear_with_broker(self) -> None:
        """Let the keeper wait for the broker on this session; look again ever more rarely."""
        self._reader.lose_broker()
        self._pause_seconds = min(self._pause_seconds * 2, self._settings.blocked_recheck_seconds)
        self._next_look = self._ports.clock.monotonic() + self._pause_seconds
        if self._board.phase is Phase.SUSPECT:
            await self._board.enter(LinkEvent.INTERRUPTED, "BrokerDisconnected")

    def _note(self, signal: str) -> None:
        seconds = self._reader.silence_seconds()
        self._ports.metrics.link_detection.labels(signal=signal).observe(seconds)
