"""What surrounds every request: its id, and its count."""

import re
import uuid

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from brokerd.telemetry import Metrics

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "PUT", "DELETE", "POST", "PATCH", "HEAD", "OPTIONS"})


class Observed:
    """An ASGI application that gives requests an id and counts them by route."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == ScopeType.HTTP:
            await self._serve(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        request_id = _request_id(scope)
        code = "aborted"

        async def send_on(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = str(message["status"])
                header = (b"x-request-id", request_id.encode())
                message["headers"] = [*message["headers"], header]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_on)
            finally:
                method = scope["method"] if scope["method"] in _METHODS else "other"
                route = scope.get("path_template") or "other"
                self._metrics.api_requests.labels(route=route, method=method, code=code).inc()


def request_id_here() -> str:
    """Return the id of the request being served."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


def _request_id(scope: HTTPScope) -> str:
    """Take over the caller's id if it is harmless, or make one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value.decode("latin-1")):
            return value.decode("latin-1")
    return uuid.uuid4().hex
