"""What stands before every REST handler: the token, the limits, the faults, a refusal's form."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from email.utils import format_datetime
from enum import StrEnum

import msgspec
from aiohttp import web

from brokerd.errors import InvalidRequest, NotConnected, NotFound
from brokerd.sandbox import refusals
from brokerd.sandbox.credits import Call
from brokerd.sandbox.faults import Fault, FaultKind, StagedFault
from brokerd.sandbox.rates import too_often
from brokerd.sandbox.refusals import Hint, Refused
from brokerd.sandbox.state import MetaApiState
from brokerd.sandbox.users import TopUp, User

Handler = Callable[[web.Request], Awaitable[web.Response]]

_JSON = "application/json"
_HTML = "<html>\r\n<head><title>{0}</title></head>\r\n<body><center>nginx</center></body></html>"
_CREDITS = {"total": 1000, "available": 0, "needed": 75}
_CREDIT_FIELDS = {"creditsAvailable": 0, "creditsUsed": 1000, "creditsRequired": 75}
_ORDERS = frozenset({"POST", "PUT", "DELETE"})

USER = web.RequestKey("USER", User)
"""Who asks: the gate knows before a handler is called."""

ITEMS = web.RequestKey("ITEMS", int)
"""How many items the answer holds, where they cost credits."""


class Service(StrEnum):
    """Which of MetaApi's REST services a handler belongs to; their 429 bodies differ."""

    PROVISIONING = "provisioning"
    CLIENT = "client"
    BILLING = "billing"


class Gate:
    """Wraps handlers, so that each of them only answers well-formed, permitted questions."""

    def __init__(self, state: MetaApiState) -> None:
        self._state = state
        self._faults = state.faults

    def guard(self, handler: Handler, *, service: Service, method: str | None = None) -> Handler:
        """Return the handler behind the gate; calls of a `method` cost credits."""

        async def guarded(request: web.Request) -> web.Response:
            try:
                self._require_user(request)
                self._require_service(request, service)
                broken = await self._strike(request, service)
                return broken or self._spoil(request, await self._paid(request, handler, method))
            except Refused as refused:
                return self._refuse(refused, service)
            except (InvalidRequest, msgspec.ValidationError) as error:
                details = [{"message": str(error)}]
                return self._refuse(Refused(400, "Validation failed", details=details), service)
            except NotFound as error:
                return self._refuse(Refused(404, str(error)), service)
            except NotConnected as error:
                return self._refuse(Refused(504, str(error)), service)

        return guarded

    def _require_user(self, request: web.Request) -> None:
        """Note who asks; an account of somebody else does not exist."""
        user = self._state.users.of_token(request.headers.get("auth-token", ""))
        if user is None:
            raise Refused(401, "Authorization token is invalid or has expired.")
        if user.is_forbidden:
            raise Refused(403, "You are not allowed to access this resource.")
        request[USER] = user
        account_id = request.match_info.get("account_id", "")
        account = self._state.broker.accounts.get(account_id)
        if account is not None and account.owner != user.name:
            raise refusals.not_found(account_id)

    def _require_service(self, request: web.Request, service: Service) -> None:
        user = request[USER]
        if service is not Service.BILLING and user.top_up is TopUp.ALL:
            raise self._state.provisioner.top_up_refusal()
        if service is Service.PROVISIONING:
            self._state.rates.note(user.name)
        if service is Service.CLIENT:
            account = self._state.broker.accounts.get(request.match_info.get("account_id", ""))
            if account is not None and account.spec.region in self._state.conditions.down_regions:
                raise Refused(504, "Gateway timeout")

    async def _paid(
        self, request: web.Request, handler: Handler, method: str | None
    ) -> web.Response:
        if method is None:
            return await handler(request)
        call = Call(
            method=method,
            owner=request[USER].name,
            account_id=request.match_info["account_id"],
            server=request.headers.get("client-id", ""),
        )
        self._state.credits.spend(call)
        answer = await handler(request)
        self._state.credits.spend_on_items(call, items=request.get(ITEMS, 0))
        return answer

    async def _strike(self, request: web.Request, service: Service) -> web.Response | None:
        account_id = request.match_info.get("account_id")
        delay = self._faults.strike(FaultKind.DELAY, account_id=account_id)
        if delay is not None:
            await asyncio.sleep(delay.seconds)
        failure = self._faults.strike(FaultKind.SERVER_ERROR, account_id=account_id)
        if failure is not None:
            return self._fail(failure, service)
        throttle = self._faults.strike(FaultKind.THROTTLE, account_id=account_id)
        if throttle is not None:
            raise _throttled(throttle, service, now=self._state.broker.clock.now())
        if self._faults.strike(FaultKind.THROTTLE_BARE, account_id=account_id) is not None:
            raise Refused(429, "Too many requests. Please retry later.")
        return None

    def _spoil(self, request: web.Request, answer: web.Response) -> web.Response:
        """Lose the answer to an order, or make something of it that is no answer."""
        account_id = request.match_info.get("account_id")
        body = answer.body if isinstance(answer.body, bytes) else b""
        if request.method in _ORDERS and request.transport is not None:
            if self._faults.strike(StagedFault.LOSE_ANSWER, account_id=account_id) is not None:
                request.transport.abort()
        elif body and self._faults.strike(StagedFault.ERROR_AS_OK, account_id=account_id):
            return web.json_response({"id": 1, "error": "InternalError", "message": "Failed"})
        elif body and (fault := self._faults.strike(StagedFault.GARBLE, account_id=account_id)):
            if fault.is_html:
                return web.Response(text=_HTML.format("Welcome"), content_type="text/html")
            return json_answer(body[: len(body) // 2])
        return answer

    def _refuse(self, refused: Refused, service: Service) -> web.Response:
        state = self._state
        request_id = f"{state.broker.random.getrandbits(128):032x}"
        body = refusals.body_of(refused, request_id=request_id, offset=state.conditions.offset)
        answer = web.json_response(body, status=refused.status)
        if refused.hint is not None:
            retry_at = refused.hint.retry_at
            wait = (retry_at - state.broker.clock.now()).total_seconds()
            # both forms of the header are in use (metaapi.md 2.2)
            answer.headers["Retry-After"] = (
                format_datetime(retry_at + state.conditions.offset, usegmt=True)
                if service is Service.PROVISIONING
                else str(math.ceil(wait))
            )
        return answer

    def _fail(self, fault: Fault, service: Service) -> web.Response:
        if fault.is_html:
            text = _HTML.format(fault.status)
            return web.Response(status=fault.status, text=text, content_type="text/html")
        return self._refuse(Refused(fault.status, "Failed to execute a callable"), service)


def _throttled(fault: Fault, service: Service, *, now: datetime) -> Refused:
    retry_at = now + timedelta(seconds=fault.seconds)
    if service is Service.PROVISIONING:
        return too_often(25, minutes=1, retry_at=retry_at)
    message = "The history API allows 1000 cpu credits per 1s. Please wait some time and retry"
    scope = {
        "resourceId": "user:sandbox",
        "multiplierId": "accountCount:sandbox",
        "exceededConfig": "perUser",
        "exceededPeriod": "1s",
        "periodInSeconds": 1,
    }
    metadata = {**_CREDITS, **_CREDIT_FIELDS, **scope}
    return Refused(429, message, hint=Hint(retry_at=retry_at, metadata=metadata))


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
