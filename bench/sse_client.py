"""One event stream of the feed, read as lines: for the benches that subscribe by the hundred."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager


@asynccontextmanager
async def event_stream(
    port: int, query: str, *, is_open: asyncio.Semaphore, key: str = ""
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Open a stream on this machine; give its events' data, as JSON, for as long as it is read.

    `is_open` bounds how many are opened at once.
    """
    async with is_open:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            f"GET /v1/events?{query} HTTP/1.1\r\nHost: b\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {key}\r\n\r\n".encode()
        )
        await reader.readuntil(b"retry: 1000")
    try:
        async with aclosing(_data(reader)) as data:
            yield data
    finally:
        writer.close()


async def _data(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while line := await reader.readline():
        if line.startswith(b"data: "):
            yield line.removeprefix(b"data: ")
