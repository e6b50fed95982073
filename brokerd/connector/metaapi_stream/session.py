"""One open connection of a link, as the connector's `Session`."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from brokerd.connector.metaapi_stream.buffer import EventBuffer
from brokerd.connector.metaapi_stream.listener import StreamListener
from brokerd.connector.ports import StreamEvent
from brokerd.errors import LinkLost


class StreamSession:
    """Reads what the listener put aside; `leave` gives the connection back."""

    def __init__(
        self,
        buffer: EventBuffer,
        *,
        listener: StreamListener,
        leave: Callable[[], Awaitable[None]],
    ) -> None:
        self._buffer = buffer
        self._listener = listener
        self._leave = leave

    async def receive(self) -> Sequence[StreamEvent]:
        """Wait for events and return all that wait; raises `LinkLost` once closed.

        Raises `Unauthorized` when MetaApi refuses the token.
        """
        return await self._buffer.take()

    def acknowledge(self, through: datetime) -> None:
        """Let the next synchronization start there."""
        self._listener.acknowledge(through)

    def end(self) -> None:
        """Make `receive` raise; the connection itself is taken down with its client."""
        self._buffer.end(LinkLost("the session was closed"))

    async def close(self) -> None:
        """Leave in bounded time; never raises."""
        self.end()
        await self._leave()
