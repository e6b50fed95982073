"""Sends one request to MetaApi: paced, timed, retried, every end of it an error of our tree.

No token may show in an error or its traceback: errors of the HTTP library, which quote headers, are
replaced (`from None`), and a token echoed in an error body is blotted out.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TypeVar

import httpx
from asyncio_throttle import Throttler
from tenacity import AsyncRetrying

from brokerd.clock import Clock
from brokerd.config.settings import MetaApiSettings, Secret
from brokerd.connector.metaapi_rest.failures import Answer, failure
from brokerd.errors import (
    BrokerdError,
    InvalidRequest,
    MalformedAnswer,
    RemoteUnavailable,
    Throttled,
    Unauthorized,
)
from brokerd.telemetry import Metrics

MAX_CONNECTIONS = 32
KEEPALIVE_SECONDS = 60.0

_OK = 200
_SECRET_LENGTH = 8  # what is shorter hides nothing, and blotting it would garble the body

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One GET. `method` is its name in metrics, `call` what a human is told was attempted."""

    method: str
    url: str
    token: str
    call: str


def open_http(settings: MetaApiSettings) -> httpx.AsyncClient:
    """Return the node's one HTTP client: verified TLS, a bounded pool, no redirects, no cookies.

    A redirect would carry the token to wherever it points; a cookie one token's session to another.
    Loopback is never reached through a proxy.
    """
    return httpx.AsyncClient(
        timeout=settings.request_timeout_seconds,
        limits=httpx.Limits(
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_SECONDS,
        ),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        follow_redirects=False,
        mounts={"all://127.0.0.1": None, "all://localhost": None},
    )


class Transport:
    """Every request of this node to MetaApi's REST services passes here."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        settings: MetaApiSettings,
        retrying: AsyncRetrying,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """Use `http`, which stays its opener's to close."""
        self._http = http
        self._settings = settings
        self._retrying = retrying
        self._clock = clock
        self._metrics = metrics
        self._throttler = Throttler(rate_limit=settings.requests_per_second)
        # the throttler polls for each who waits in it; behind this lock that is one at a time
        self._turn = asyncio.Lock()

    async def get(self, request: Request, read: Callable[[bytes], T]) -> T:
        """Return what `read` makes of the answer; raises `Transient` or `Rejected`."""
        # a copy: tenacity keeps where an iteration stands on the object
        return await self._retrying.copy()(self._attempt, request, read)

    async def _attempt(self, request: Request, read: Callable[[bytes], T]) -> T:
        async with self._turn:
            await self._throttler.acquire()
        started = self._clock.monotonic()
        outcome = "cancelled"
        try:
            result = _read(await self._send(request), request, read)
            outcome = "ok"
        except BrokerdError as error:
            outcome = error.code
            if isinstance(error, Throttled):
                self._metrics.throttled.labels(scope=error.scope).inc()
            raise
        finally:
            seconds = self._clock.monotonic() - started
            self._metrics.request_seconds.labels(method=request.method).observe(seconds)
            self._metrics.requests.labels(method=request.method, outcome=outcome).inc()
        return result

    async def _send(self, request: Request) -> Answer:
        seconds = self._settings.request_timeout_seconds
        try:
            async with asyncio.timeout(seconds):  # httpx bounds each step, a trickle has many
                response = await self._http.get(request.url, headers=self._headers(request))
        except (TimeoutError, httpx.TimeoutException):
            problem = f"{request.call} failed: no answer within {seconds:g} s"
            raise RemoteUnavailable(problem) from None
        except httpx.DecodingError:
            problem = f"{request.call} failed: the answer's compression is broken"
            raise MalformedAnswer(problem) from None
        except httpx.HTTPError as error:
            problem = f"{request.call} failed: {_reason(error)}"
            raise RemoteUnavailable(problem) from None
        except httpx.InvalidURL:
            problem = f"{request.call} failed: the URL configured for it is none; correct it"
            raise InvalidRequest(problem) from None
        answer = Answer(
            status=response.status_code,
            headers=response.headers,
            body=response.content,
            received_at=self._clock.now(),
        )
        if answer.status != _OK:
            raise failure(self._blotted(answer, request.token), call=request.call)
        return answer

    def _headers(self, request: Request) -> dict[str, str]:
        secret = self._settings.tokens.get(request.token)
        if secret is None:
            raise Unauthorized(
                f"{request.call} failed: no token {request.token!r} is configured; add it"
            )
        if not _is_sendable(secret):
            raise Unauthorized(
                f"{request.call} failed: token {request.token!r} is not one word; correct its file"
            )
        return {"auth-token": secret.reveal()}

    def _blotted(self, answer: Answer, token: str) -> Answer:
        secret = self._settings.tokens[token].reveal().encode()
        if len(secret) < _SECRET_LENGTH:
            return answer
        return replace(answer, body=answer.body.replace(secret, b"[token]"))


def _read(answer: Answer, request: Request, read: Callable[[bytes], T]) -> T:
    try:
        return read(answer.body)
    except MalformedAnswer as error:
        raise MalformedAnswer(f"{request.call} failed: {error}") from None


def _is_sendable(secret: Secret) -> bool:
    value = secret.reveal()
    return value.isascii() and value.isprintable() and value != "" and " " not in value


def _reason(error: httpx.HTTPError) -> str:
    name = type(error).__name__
    # only these are sure to hold nothing of what we sent
    return f"{name}: {error}" if isinstance(error, httpx.ConnectError) else name
