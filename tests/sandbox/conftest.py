"""A client of the stream, written by hand, so that tests see every packet as it was sent."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any

import aiohttp
import msgspec
import pytest
from yarl import URL

from brokerd.sandbox.server import Sandbox

Packet = dict[str, Any]


class StreamClient:
    """One websocket to a sandbox; keeps every packet in the order of arrival."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self._websocket = websocket
        self._numbers = count(1)
        self.replies: dict[str, Packet] = {}
        self.errors: dict[str, Packet] = {}
        self.packets: list[Packet] = []
        self.largest_frame_bytes = 0

    async def request(self, type: str, account_id: str, **fields: object) -> str:  # noqa: A002
        """Send a request without waiting for anything; return its id."""
        request_id = str(fields.pop("request_id", f"request-{next(self._numbers)}"))
        body = {"type": type, "accountId": account_id, "requestId": request_id, **fields}
        await self._websocket.send_str("42" + msgspec.json.encode(["request", body]).decode())
        return request_id

    async def ask(self, type: str, account_id: str, **fields: object) -> Packet:  # noqa: A002
        """Send a request and wait for its answer, whatever that is."""
        request_id = await self.request(type, account_id, **fields)
        await self.until(lambda: request_id in self.replies or request_id in self.errors)
        return self.replies.get(request_id) or self.errors[request_id]

    async def subscribe(self, account_id: str, *, instance: int = 0) -> None:
        """Subscribe to an instance and wait for the answer."""
        await self.ask("subscribe", account_id, instanceIndex=instance, sessionId="s" * 32)

    async def synchronize(self, account_id: str, **fields: object) -> list[Packet]:
        """Subscribe, synchronize, and return the packets of the synchronization."""
        instance = int(str(fields.pop("instance", 0)))
        await self.subscribe(account_id, instance=instance)
        before = len(self.packets)
        await self.ask("synchronize", account_id, instanceIndex=instance, version=2, **fields)
        await self.until(lambda: "dealSynchronizationFinished" in self.types(before))
        return [packet for packet in self.packets[before:] if "sequenceNumber" in packet]

    def types(self, start: int = 0) -> list[str]:
        """Return the types of the packets so far."""
        return [packet["type"] for packet in self.packets[start:]]

    def of(self, type: str) -> list[Packet]:  # noqa: A002
        """Return the packets of one type so far."""
        return [packet for packet in self.packets if packet["type"] == type]

    def deal_ids(self) -> list[str]:
        """Return the ids of the deals that `update` packets brought."""
        return [deal["id"] for packet in self.of("update") for deal in packet["deals"]]

    async def until(self, is_enough: Callable[[], bool], *, seconds: float = 5) -> None:
        """Read until the condition holds; raises `TimeoutError`, or `EOFError` when cut off."""
        async with asyncio.timeout(seconds):
            while not is_enough():
                await self._read_one()

    async def read_for(self, seconds: float) -> None:
        """Read whatever comes for a while."""
        try:
            await self.until(lambda: False, seconds=seconds)
        except TimeoutError:
            return

    async def _read_one(self) -> None:
        message = await self._websocket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise EOFError("the socket was cut")
        self.largest_frame_bytes = max(self.largest_frame_bytes, len(message.data.encode()))
        if not message.data.startswith("42"):
            return
        event, body = msgspec.json.decode(message.data[2:])
        assert isinstance(body, Mapping)
        if event == "synchronization":
            self.packets.append(body)
        else:
            (self.replies if event == "response" else self.errors)[body["requestId"]] = body


Connect = Callable[..., AbstractAsyncContextManager[StreamClient]]


@pytest.fixture
def connect() -> Connect:
    """Return how to open a socket to a sandbox."""

    @asynccontextmanager
    async def connect(
        sandbox: Sandbox, *, token: str | None = None, **query: str
    ) -> AsyncIterator[StreamClient]:
        params = {"auth-token": token or sandbox.settings.token, "EIO": "3", **query}
        url = URL(f"{sandbox.url}/ws/").with_query(transport="websocket", **params)
        async with aiohttp.ClientSession() as http, http.ws_connect(url) as websocket:
            yield StreamClient(websocket)

    return connect
