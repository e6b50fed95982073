"""The control API's listener: uvicorn inside our own loop, which takes none of our signals."""

import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from brokerd.api.event_stream import CUT
from brokerd.config.settings import ApiSettings
from brokerd.errors import ConfigInvalid

_BACKLOG = 2_048
_GRACE_SECONDS = 5
"""How long answers under way may take once we stop."""


class _Protocol(HttpToolsProtocol):
    """A connection that an event stream can cut, whether or not its client reads."""

    def on_message_begin(self) -> None:
        """Offer the way to cut."""
        super().on_message_begin()
        self.scope["extensions"] = {CUT: {"now": self.transport.abort}}


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signal handlers as they are: SIGTERM drains, it does not exit."""
        yield


class ApiServer:
    """A service that answers on a socket that was bound before (`bind`), and closes it."""

    name = "api"

    def __init__(self, app: ASGIApp, *, listener: socket.socket) -> None:
        self._socket = listener
        self.host, self.port = self._socket.getsockname()[:2]
        config = uvicorn.Config(
            app,
            loop="none",
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        self._server = _Server(config)

    @property
    def url(self) -> str:
        """Return where it listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def run(self) -> None:
        """Serve until told to stop; closes the socket however it ends."""
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            self.close()

    def stop(self) -> None:
        """Ask `run` to finish the answers under way and return."""
        self._server.should_exit = True

    def close(self) -> None:
        """Give the address back."""
        for server in getattr(self._server, "servers", ()):
            server.close()
        self._socket.close()


def bind(settings: ApiSettings) -> socket.socket:
    """Take the address of the API; raises `ConfigInvalid` when it cannot be had."""
    try:
        (family, kind, protocol, _, address), *_rest = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        place = f"{settings.host}:{settings.port}"
        raise ConfigInvalid([f"api.port: cannot listen on {place}: {error.strerror}"]) from error
    listener.setblocking(False)
    return listener
