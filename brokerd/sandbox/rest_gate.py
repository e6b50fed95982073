"""What stands before every REST handler: the token, the faults, and MetaApi's form of a refusal.

Bodies follow metaapi.md 4.1: `id`, `error`, a message that ends with a request id, `details` only
on 400, `metadata` only on 429.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum
from hmac import compare_digest
from random import Random

import msgspec
from aiohttp import web

from brokerd.clock import Clock
from brokerd.errors import InvalidRequest, NotConnected, NotFound
from brokerd.sandbox import wire
from brokerd.sandbox.faults import Fault, FaultKind, Faults

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_JSON = "application/json"
_HTML = "<html>\r\n<head><title>{0}</title></head>\r\n<body><center>nginx</center></body></html>"
_CREDITS = {"total": 1000, "available": 0, "needed": 75}
_CREDIT_FIELDS = {"creditsAvailable": 0, "creditsUsed": 1000, "creditsRequired": 75}
_ERRORS = {
    400: (3, "ValidationError"),
    401: (1, "UnauthorizedError"),
    403: (2, "ForbiddenError"),
    404: (4, "NotFoundError"),
    429: (1, "TooManyRequestsError"),
    500: (1, "InternalError"),
    504: (1, "TimeoutError"),
}


class Service(StrEnum):
    """Which of MetaApi's REST services a handler belongs to; their 429 bodies differ."""

    PROVISIONING = "provisioning"
    CLIENT = "client"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Tokens:
    """Which tokens open the sandbox, and which are known but may do nothing."""

    valid: frozenset[str]
    forbidden: frozenset[str] = frozenset()

    def is_valid(self, token: str) -> bool:
        """Say whether the token opens everything."""
        return any(compare_digest(token.encode(), known.encode()) for known in self.valid)


class Gate:
    """Wraps handlers, so that each of them only answers well-formed, permitted questions."""

    def __init__(self, *, tokens: Tokens, faults: Faults, clock: Clock, random: Random) -> None:
        self._tokens = tokens
        self._faults = faults
        self._clock = clock
        self._random = random

    def guard(self, handler: Handler, *, service: Service) -> Handler:
        """Return the handler behind the gate."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            return (
                self._refuse_token(request)
                or await self._strike(request, service)
                or await self._answer(request, handler)
            )

        return guarded

    def refusal(
        self, status: int, message: str, *, details: object = None, metadata: object = None
    ) -> web.Response:
        """Build an error answer."""
        number, name = _ERRORS.get(status, (1, "ApiError"))
        request_id = f"{self._random.getrandbits(128):032x}"
        body: dict[str, object] = {
            "id": number,
            "error": name,
            "message": f"{message} ({request_id})",
        }
        if details is not None:
            body["details"] = details
        if metadata is not None:
            body["metadata"] = metadata
        return web.json_response(body, status=status)

    def _refuse_token(self, request: web.Request) -> web.Response | None:
        token = request.headers.get("auth-token", "")
        if self._tokens.is_valid(token):
            return None
        if token in self._tokens.forbidden:
            return self.refusal(403, "You are not allowed to access this resource.")
        return self.refusal(401, "Authorization token is invalid or has expired.")

    async def _strike(self, request: web.Request, service: Service) -> web.Response | None:
        account_id = request.match_info.get("account_id")
        delay = self._faults.strike(FaultKind.DELAY, account_id=account_id)
        if delay is not None:
            await asyncio.sleep(delay.seconds)
        failure = self._faults.strike(FaultKind.SERVER_ERROR, account_id=account_id)
        if failure is not None:
            return self._fail(failure)
        throttle = self._faults.strike(FaultKind.THROTTLE, account_id=account_id)
        if throttle is not None:
            return self._throttle(throttle, service)
        if self._faults.strike(FaultKind.THROTTLE_BARE, account_id=account_id) is not None:
            return self.refusal(429, "Too many requests. Please retry later.")
        return None

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except InvalidRequest as error:
            return self.refusal(400, "Validation failed", details=[{"message": str(error)}])
        except msgspec.ValidationError as error:
            return self.refusal(400, "Validation failed", details=[{"message": str(error)}])
        except NotFound as error:
            return self.refusal(404, str(error))
        except NotConnected as error:
            return self.refusal(504, str(error))

    def _fail(self, fault: Fault) -> web.Response:
        if fault.is_html:
            text = _HTML.format(fault.status)
            return web.Response(status=fault.status, text=text, content_type="text/html")
        return self.refusal(fault.status, "Failed to execute a callable")

    def _throttle(self, fault: Fault, service: Service) -> web.Response:
        retry_at = self._clock.now() + timedelta(seconds=fault.seconds)
        message, metadata = _throttle_texts(service, retry_at=retry_at)
        answer = self.refusal(429, message, metadata=metadata)
        # both forms of the header are in use (metaapi.md 2.2)
        is_date = service is Service.PROVISIONING
        seconds = str(math.ceil(fault.seconds))
        answer.headers["Retry-After"] = (
            format_datetime(retry_at, usegmt=True) if is_date else seconds
        )
        return answer


def _throttle_texts(service: Service, *, retry_at: datetime) -> tuple[str, dict[str, object]]:
    retry = {"recommendedRetryTime": wire.iso_time(retry_at)}
    if service is Service.PROVISIONING:
        message = "You have exceeded the request rate of 25 requests per 1 minute."
        return message, {"periodInMinutes": 1, "requestsPerPeriodAllowed": 25, **retry}
    message = "The history API allows 1000 cpu credits per 1s. Please wait some time and retry"
    scope = {
        "resourceId": "user:sandbox",
        "multiplierId": "accountCount:sandbox",
        "exceededConfig": "perUser",
        "exceededPeriod": "1s",
        "periodInSeconds": 1,
    }
    return message, {**_CREDITS, **_CREDIT_FIELDS, **scope, **retry}


def json_answer(body: bytes) -> web.Response:
    """Answer 200 with JSON that is already encoded."""
    return web.Response(body=body, content_type=_JSON)


def json_array(items: list[bytes]) -> bytes:
    """Join encoded items to one JSON array."""
    return b"[" + b",".join(items) + b"]"


def moment(text: str, *, name: str) -> datetime:
    """Read a time of a URL; raises `InvalidRequest`."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise InvalidRequest(f"{name} must be an ISO 8601 time with its offset")
    return parsed
