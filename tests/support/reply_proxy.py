"""A proxy before Postgres that can take the answer to a ledger write away: the commit stands."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

_SOCKET = ".s.PGSQL.5432"
_WRITE = b"WITH asked"
_READY = b"Z\x00\x00\x00\x05I"  # no transaction is open: what was asked is committed


@dataclass
class ReplyProxy:
    """Cuts each connection whose next write was chosen, once the server has answered it."""

    url: str
    server: Path
    is_chosen: Callable[[int], bool]
    writes: int = 0
    taken: int = 0
    has_taken: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        up_reader, up_writer = await asyncio.open_unix_connection(self.server)
        is_doomed = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                up = group.create_task(self._carry_requests(reader, up_writer, is_doomed))
                await self._carry_replies(up_reader, writer, is_doomed)
                up.cancel()
        finally:
            up_writer.close()
            writer.close()

    async def _carry_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_doomed: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                if _WRITE in data:
                    self.writes += 1
                    if self.is_chosen(self.writes):
                        is_doomed.set()
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def _carry_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_doomed: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                if is_doomed.is_set():
                    if data.endswith(_READY):
                        self.taken += 1
                        self.has_taken.set()
                        return
                    continue
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def reply_proxy(url: str, is_chosen: Callable[[int], bool]) -> AsyncIterator[ReplyProxy]:
    """Run a proxy before the database of this URL; `is_chosen` gets each write's number."""
    parts = urlsplit(url)
    (host,) = parse_qs(parts.query)["host"]
    with tempfile.TemporaryDirectory() as folder:
        query = f"host={quote(folder, safe='')}"
        proxy = ReplyProxy(
            url=urlunsplit(parts._replace(query=query)),
            server=Path(host) / _SOCKET,
            is_chosen=is_chosen,
        )
        async with await asyncio.start_unix_server(proxy.serve, Path(folder) / _SOCKET):
            yield proxy
