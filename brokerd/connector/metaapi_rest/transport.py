"""Sends one request to MetaApi: let through by the governor, timed, retried, each end in our tree.

No token may show in an error or its traceback: errors of the HTTP library, which quote headers, are
replaced (`from None`), and a token echoed in an error body is blotted out.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TypeVar

import httpx
from tenacity import AsyncRetrying

from brokerd.clock import Clock
from brokerd.config.settings import MetaApiSettings, Secret
from brokerd.connector.governor.ports import Call, Gate, Passage, Service
from brokerd.connector.metaapi_rest.failures import Answer, failure
from brokerd.errors import (
    BrokerdError,
    InvalidRequest,
    MalformedAnswer,
    RemoteUnavailable,
    TlsInvalid,
    Unauthorized,
)
from brokerd.telemetry import Metrics

MAX_CONNECTIONS = 32
KEEPALIVE_SECONDS = 60.0

_OK = frozenset({200})
_SECRET_LENGTH = 8  # what is shorter hides nothing, and blotting it would garble the body

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. `method` is its name in metrics, `call` what a human is told was attempted.

    `service`, `region`, `account_id` and `is_spending` say who is charged for it; see
    `governor.ports.Call`. What is not `is_repeatable` is never sent again by itself. `secret` is
    what the content holds and no error may quote.
    """

    method: str
    url: str
    token: str
    call: str
    service: Service
    region: str | None = None
    account_id: str | None = None
    is_spending: bool = False
    verb: str = "GET"
    content: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    accepted: frozenset[int] = _OK
    is_repeatable: bool = True
    secret: Secret | None = None

    @property
    def governed(self) -> Call:
        """Return what the governor is told."""
        return Call(
            service=self.service,
            method=self.method,
            token=self.token,
            region=self.region,
            account_id=self.account_id,
            is_spending=self.is_spending,
        )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RestPorts:
    """What REST needs from the rest of the node; `http` stays its opener's to close."""

    http: httpx.AsyncClient
    retrying: AsyncRetrying
    gate: Gate
    clock: Clock
    metrics: Metrics


class Transport:
    """Every request of this node to MetaApi's REST services passes here."""

    def __init__(self, settings: MetaApiSettings, *, ports: RestPorts) -> None:
        self._settings = settings
        self._ports = ports

    async def get(
        self,
        request: Request,
        read: Callable[[bytes], T],
        *,
        count: Callable[[T], int] | None = None,
    ) -> T:
        """Return what `read` makes of the answer; raises `Transient` or `Rejected`.

        `count` says how many items of history it holds, where MetaApi charges for them.
        """
        return await self._insist(request, lambda answer: read(answer.body), count)

    async def send(self, request: Request, read: Callable[[Answer], T]) -> T:
        """Return what `read` makes of the whole answer; raises as `get` does."""
        if not request.is_repeatable:
            return await self._attempt(request, read, None)
        return await self._insist(request, read, None)

    async def _insist(
        self, request: Request, read: Callable[[Answer], T], count: Callable[[T], int] | None
    ) -> T:
        # a copy: tenacity keeps where an iteration stands on the object
        return await self._ports.retrying.copy()(self._attempt, request, read, count)

    async def _attempt(
        self, request: Request, read: Callable[[Answer], T], count: Callable[[T], int] | None
    ) -> T:
        self._check_token(request)
        async with self._ports.gate.passing(request.governed) as passage:
            with self._measured(request.method):
                result = _read(await self._send(request, passage), request, read)
            if count is not None:
                passage.note_items(count(result))
            return result

    @contextmanager
    def _measured(self, method: str) -> Iterator[None]:
        metrics, started = self._ports.metrics, self._ports.clock.monotonic()
        outcome = "cancelled"
        try:
            yield
            outcome = "ok"
        except BrokerdError as error:
            outcome = error.code
            raise
        finally:
            seconds = self._ports.clock.monotonic() - started
            metrics.request_seconds.labels(method=method).observe(seconds)
            metrics.requests.labels(method=method, outcome=outcome).inc()

    async def _send(self, request: Request, passage: Passage) -> Answer:
        seconds = self._settings.request_timeout_seconds
        sent_at = self._ports.clock.now()
        try:
            async with asyncio.timeout(seconds):  # httpx bounds each step, a trickle has many
                response = await self._ports.http.request(
                    request.verb,
                    request.url,
                    headers=self._headers(request),
                    content=request.content,
                )
        except (TimeoutError, httpx.TimeoutException):
            problem = f"{request.call} failed: no answer within {seconds:g} s"
            raise RemoteUnavailable(problem) from None
        except httpx.DecodingError:
            problem = f"{request.call} failed: the answer's compression is broken"
            raise MalformedAnswer(problem) from None
        except httpx.HTTPError as error:
            problem = f"{request.call} failed: {_reason(error)}"
            kind = TlsInvalid if _is_of_certificate(error) else RemoteUnavailable
            raise kind(problem) from None
        except httpx.InvalidURL:
            problem = f"{request.call} failed: the URL configured for it is none; correct it"
            raise InvalidRequest(problem) from None
        passage.note_date(
            response.headers.get("date"), sent_at=sent_at, received_at=self._ports.clock.now()
        )
        answer = Answer(
            status=response.status_code,
            headers=response.headers,
            body=response.content,
            answered_at=self._ports.gate.server_now(request.service),
        )
        if answer.status not in request.accepted:
            raise failure(self._blotted(answer, request), call=request.call)
        return answer

    def _check_token(self, request: Request) -> None:
        """Raise `Unauthorized` for a token that cannot be sent; MetaApi did not refuse it."""
        secret = self._settings.tokens.get(request.token)
        if secret is None:
            raise Unauthorized(
                f"{request.call} failed: no token {request.token!r} is configured; add it"
            )
        if not _is_sendable(secret):
            raise Unauthorized(
                f"{request.call} failed: token {request.token!r} is not one word; correct its file"
            )

    def _headers(self, request: Request) -> dict[str, str]:
        return {"auth-token": self._settings.tokens[request.token].reveal(), **request.headers}

    def _blotted(self, answer: Answer, request: Request) -> Answer:
        body = answer.body
        for secret in (self._settings.tokens[request.token], request.secret):
            hidden = b"" if secret is None else secret.reveal().encode()
            if len(hidden) >= _SECRET_LENGTH:
                body = body.replace(hidden, b"[secret]")
        return replace(answer, body=body)


def _read(answer: Answer, request: Request, read: Callable[[Answer], T]) -> T:
    try:
        return read(answer)
    except MalformedAnswer as error:
        raise MalformedAnswer(f"{request.call} failed: {error}") from None


def _is_sendable(secret: Secret) -> bool:
    value = secret.reveal()
    return value.isascii() and value.isprintable() and value != "" and " " not in value


def _is_of_certificate(error: BaseException | None) -> bool:
    """Say whether a certificate was refused, somewhere below what the library raised."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: httpx.HTTPError) -> str:
    name = type(error).__name__
    # only these are sure to hold nothing of what we sent
    return f"{name}: {error}" if isinstance(error, httpx.ConnectError) else name
