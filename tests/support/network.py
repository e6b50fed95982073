"""A network between a daemon and the sandbox that can be made to fail, byte by byte."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

_CHUNK = 2_048
_RETRANSMIT_SECONDS = 0.3
"""What a lost TCP segment costs: it is sent again after this."""


@dataclass(eq=False)
class _Pipe:
    """One direction of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_down: bool  # towards the client


@dataclass
class Network:
    """Carries connections to `target`; its fields may be changed at any time.

    `is_black_hole`: nothing arrives anywhere, nothing is closed. `is_deaf`: what the server says
    does not arrive. `slams_door`: connections are accepted and closed at once. `latency_seconds`,
    `jitter_seconds`, `loss` and `bytes_per_second` slow each direction down.
    """

    target: str
    url: str = ""
    is_black_hole: bool = False
    is_deaf: bool = False
    slams_door: bool = False
    latency_seconds: float = 0.0
    jitter_seconds: float = 0.0
    loss: float = 0.0
    bytes_per_second: float | None = None
    opened_at: list[float] = field(default_factory=list)
    random: Random = field(default_factory=lambda: Random(1))
    _clients: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def connections(self) -> int:
        """Return how many connections are open."""
        return len(self._clients)

    def most_opened_in(self, seconds: float) -> int:
        """Return how many connections were opened in the busiest span of that length."""
        return max(
            (sum(at <= t < at + seconds for t in self.opened_at) for at in self.opened_at),
            default=0,
        )

    def reset(self) -> None:
        """Break every connection with a TCP reset."""
        for writer in list(self._clients):
            if not writer.is_closing():
                connection: socket.socket = writer.get_extra_info("socket")
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        self.opened_at.append(asyncio.get_running_loop().time())
        if self.slams_door:
            writer.close()
            return
        parts = urlsplit(self.target)
        up_reader, up_writer = await asyncio.open_connection(parts.hostname, parts.port)
        self._clients.add(writer)
        try:
            async with asyncio.TaskGroup() as group:
                up = group.create_task(self._carry(_Pipe(reader, up_writer, is_down=False)))
                down = group.create_task(self._carry(_Pipe(up_reader, writer, is_down=True)))
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
                up.cancel()
                down.cancel()
        finally:
            self._clients.discard(writer)
            up_writer.close()
            writer.close()

    async def _carry(self, pipe: _Pipe) -> None:
        """Carry one direction; each chunk arrives in its turn, as late as the network makes it."""
        loop = asyncio.get_running_loop()
        free_at = loop.time()
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)

        async def deliver() -> None:
            while True:
                due, data = await chunks.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._pass(pipe)
                pipe.writer.write(data)
                await pipe.writer.drain()
                chunks.task_done()

        async with asyncio.TaskGroup() as group:
            delivering = group.create_task(deliver())
            with suppress(ConnectionError):
                while data := await pipe.reader.read(_CHUNK):
                    due = max(loop.time(), free_at) + self._delay_seconds()
                    if self.bytes_per_second is not None:
                        free_at = max(loop.time(), free_at) + len(data) / self.bytes_per_second
                    await chunks.put((due, data))
                await chunks.join()
            delivering.cancel()

    def _delay_seconds(self) -> float:
        seconds = self.latency_seconds + self.random.uniform(-1, 1) * self.jitter_seconds
        if self.random.random() < self.loss:
            seconds += _RETRANSMIT_SECONDS
        return max(0.0, seconds)

    async def _pass(self, pipe: _Pipe) -> None:
        """Wait while nothing gets through; the network's fields are set without a word."""
        while self.is_black_hole or (self.is_deaf and pipe.is_down):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@asynccontextmanager
async def network_to(target: str) -> AsyncIterator[Network]:
    """Run a network before a loopback URL."""
    network = Network(target=target)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ExceptionGroup):
            await network.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    network.url = f"http://{host}:{port}"
    try:
        yield network
    finally:
        network.is_black_hole = network.is_deaf = False
        server.close()
        network.reset()
