"""Engine.IO 3 and Socket.IO 2 over aiohttp: handshake, polling, upgrade, heartbeat, events.

A client opens with a polling GET, is given a session id, and probes a websocket with it (`2probe`,
`3probe`, `5`); from the `5` on everything goes over the websocket. It may as well stay on polling
or begin with a websocket. The client pings, the server answers; a client silent for longer than
interval and timeout together is dropped. python-socketio's own server cannot do this on
Python 3.11 and later (metaapi.md 5.1), which is why it is written here.
"""

import asyncio
from collections import deque
from typing import Protocol
from uuid import uuid4

import msgspec
import structlog
from aiohttp import WSMsgType, web

from brokerd.clock import Clock
from brokerd.sandbox import eio_frames as frames
from brokerd.sandbox.conditions import region_of_host
from brokerd.sandbox.eio_socket import Socket

PING_INTERVAL_SECONDS = 25.0
PING_TIMEOUT_SECONDS = 60.0
_ATTEMPTS_NOTED = 1_000

_REFUSALS = {401: "UnauthorizedError", 403: "ForbiddenError", 503: "ServiceUnavailableError"}

_log = structlog.get_logger(__name__)


class SocketHandler(Protocol):
    """What the service above the sockets does with them; none of it may wait."""

    def turn_away(self, token: str, *, region: str | None) -> int | None:
        """Return the status that refuses the handshake; None lets the client in."""

    def may_upgrade(self, socket: Socket) -> bool:
        """Say whether the probe is answered; otherwise the upgrade stalls."""

    def received(self, socket: Socket, *, event: str, body: msgspec.Raw) -> None:
        """Take one event of the client."""

    def closed(self, socket: Socket) -> None:
        """Forget the socket; called exactly once."""


class EioServer:
    """The Socket.IO endpoint; one handler serves all sockets.

    `attempts_at` are the moments of the last attempts to open one, refused ones among them.
    """

    def __init__(self, handler: SocketHandler, *, clock: Clock) -> None:
        self._handler = handler
        self._clock = clock
        self._sockets: dict[str, Socket] = {}
        self.attempts_at = deque[float](maxlen=_ATTEMPTS_NOTED)

    @property
    def sockets(self) -> tuple[Socket, ...]:
        """Return the open sockets."""
        return tuple(self._sockets.values())

    def sweep(self) -> None:
        """Drop the clients that stopped pinging; to be called every few seconds."""
        limit = self._clock.monotonic() - PING_INTERVAL_SECONDS - PING_TIMEOUT_SECONDS
        for socket in self.sockets:
            if socket.heard_at < limit:
                self.drop(socket)

    def drop(self, socket: Socket) -> None:
        """Cut one connection without a farewell."""
        socket.abort()
        if self._sockets.pop(socket.sid, None) is not None:
            self._handler.closed(socket)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one request to the endpoint."""
        query = request.query
        if query.get("EIO") != "3":
            return _refusal(400, 5, "Unsupported protocol version")
        is_websocket = query.get("transport") == "websocket"
        if "sid" in query:
            socket = self._sockets.get(query["sid"])
            if socket is None:
                return _refusal(400, 1, "Session ID unknown")
        else:
            self.attempts_at.append(self._clock.monotonic())
            token, region = query.get("auth-token", ""), region_of_host(request.headers)
            refused = self._handler.turn_away(token, region=region)
            if refused is not None:
                body = {"id": 1, "error": _REFUSALS[refused], "message": "No socket is opened"}
                return web.json_response(body, status=refused)
            socket = self._open(request, is_websocket=is_websocket)
        if is_websocket:
            return await self._serve_websocket(request, socket, is_upgrade="sid" in query)
        if request.method == "POST":
            return await self._serve_post(request, socket)
        return await self._serve_poll(socket, is_text="b64" in query)

    def _open(self, request: web.Request, *, is_websocket: bool) -> Socket:
        socket = Socket(
            sid=uuid4().hex,
            client_id=request.query.get("clientId"),
            token=request.query.get("auth-token", ""),
            now=self._clock.monotonic(),
        )
        self._sockets[socket.sid] = socket
        socket.send(
            frames.encode_open(
                sid=socket.sid,
                upgrades=() if is_websocket else ("websocket",),
                interval_ms=int(PING_INTERVAL_SECONDS * 1000),
                timeout_ms=int(PING_TIMEOUT_SECONDS * 1000),
            )
        )
        socket.send(frames.CONNECT)
        return socket

    async def _serve_poll(self, socket: Socket, *, is_text: bool) -> web.Response:
        try:
            async with asyncio.timeout(PING_INTERVAL_SECONDS):
                await socket.wake.wait()
        except TimeoutError:
            socket.send(frames.NOOP)
        if not socket.is_open:
            return _refusal(400, 1, "Session ID unknown")
        body = frames.encode_payload(socket.take(frames.MAX_PAYLOAD_PACKETS), is_text=is_text)
        kind = "text/plain" if is_text else "application/octet-stream"
        return web.Response(body=body, content_type=kind)

    async def _serve_post(self, request: web.Request, socket: Socket) -> web.Response:
        try:
            packets = frames.decode_payload(await request.read())
        except frames.BadPayload:
            return _refusal(400, 3, "Bad request")
        for packet in packets:
            self._receive(socket, packet)
        return web.Response(text="ok")

    async def _serve_websocket(
        self, request: web.Request, socket: Socket, *, is_upgrade: bool
    ) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(compress=False, autoping=True)
        await websocket.prepare(request)
        socket.transport = request.transport  # from here on an abort must cut this too
        if is_upgrade and not await self._upgrade(websocket, socket):
            return websocket
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(_write(websocket, socket), name=f"write-{socket.sid}")
                async for message in websocket:
                    if message.type is WSMsgType.TEXT:
                        self._receive(socket, message.data.encode())
                writer.cancel()
        finally:
            self.drop(socket)
        return websocket

    async def _upgrade(self, websocket: web.WebSocketResponse, socket: Socket) -> bool:
        async for message in websocket:
            if message.data == "2probe" and self._handler.may_upgrade(socket):
                await websocket.send_str("3probe")
                socket.send(frames.NOOP)  # lets a poll that hangs return
            elif message.data == "5":
                return True
        return False

    def _receive(self, socket: Socket, packet: bytes) -> None:
        socket.heard_at = self._clock.monotonic()
        if packet[:1] == frames.PING:
            socket.send(frames.PONG + packet[1:])
        elif packet[:1] == frames.CLOSE or packet[:2] == frames.DISCONNECT:
            self.drop(socket)
        elif packet[:1] == frames.MESSAGE:
            self._receive_event(socket, packet)

    def _receive_event(self, socket: Socket, packet: bytes) -> None:
        try:
            event = frames.decode_event(packet)
        except frames.BadPayload as error:
            _log.warning("socket.packet_refused", sid=socket.sid, reason=str(error))
            return
        if event is None:
            return
        if event.ack:
            socket.send(b"43" + event.ack.encode() + b"[]")
        self._handler.received(socket, event=event.name, body=event.body)


async def _write(websocket: web.WebSocketResponse, socket: Socket) -> None:
    while socket.is_open:
        await socket.wake.wait()
        for packet in socket.take(frames.MAX_PAYLOAD_PACKETS):
            try:
                await websocket.send_frame(packet, WSMsgType.TEXT)
            except ConnectionError:
                return  # the reader sees the end too and tidies up


def _refusal(status: int, code: int, message: str) -> web.Response:
    return web.json_response({"code": code, "message": message}, status=status)
