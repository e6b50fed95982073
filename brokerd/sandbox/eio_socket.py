"""One client's connection to the stream: what waits to be sent, and how it ends."""

import asyncio
from collections import deque
from contextlib import suppress

import structlog

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""A client that stops reading is cut off when this much waits for it."""

_log = structlog.get_logger(__name__)


class Socket:
    """One client's connection, whatever carries it; sending never waits.

    A silent one is a black hole: it stays open and carries nothing more.
    """

    def __init__(self, *, sid: str, client_id: str | None, token: str, now: float) -> None:
        self.sid = sid
        self.client_id = client_id
        self.token = token
        self.heard_at = now
        self.is_open = True
        self.transport: asyncio.Transport | None = None
        self.wake = asyncio.Event()
        self.is_silent = False
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0

    def __repr__(self) -> str:
        carrier = "polling" if self.transport is None else "websocket"
        state = carrier if self.is_open else "closed"
        return f"<Socket {self.sid} {state}, {len(self._waiting)} packets waiting>"

    def send(self, packet: bytes) -> None:
        """Queue a packet; a client that does not read is aborted."""
        if not self.is_open or self.is_silent:
            return
        self._waiting.append(packet)
        self._waiting_bytes += len(packet)
        self.wake.set()
        if self._waiting_bytes > MAX_WAITING_BYTES:
            _log.warning("socket.overflowed", sid=self.sid, waiting_bytes=self._waiting_bytes)
            self.abort()

    def take(self, limit: int) -> list[bytes]:
        """Remove and return the next packets."""
        packets = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        self._waiting_bytes -= sum(map(len, packets))
        if not self._waiting and self.is_open:
            self.wake.clear()
        return packets

    def abort(self) -> None:
        """Cut the connection the way a network does: no farewell, what waits is lost."""
        self.is_open = False
        self._waiting.clear()
        self.wake.set()
        if self.transport is not None:
            with suppress(AttributeError):  # CPython 3.11.2's of TLS, when it was closed twice
                self.transport.abort()
