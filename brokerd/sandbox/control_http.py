"""How the control API is spoken: only from this machine, JSON both ways, problems named."""

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import TypeVar

import msgspec
from aiohttp import web

from brokerd.errors import InvalidRequest, NotFound
from brokerd.sandbox.control_views import Problem
from brokerd.sandbox.refusals import Refused

ControlHandler = Callable[[web.Request], Awaitable[web.Response]]
_T = TypeVar("_T")


def guarded(handler: ControlHandler) -> ControlHandler:
    """Return the handler, closed to strangers and polite about what is wrong."""

    async def guarded(request: web.Request) -> web.Response:
        if not _is_loopback(request.remote):
            return answer_with(Problem(error="only this machine may control it"), status=403)
        try:
            return await handler(request)
        except (InvalidRequest, msgspec.DecodeError) as error:
            return answer_with(Problem(error=str(error)), status=400)
        except NotFound as error:
            return answer_with(Problem(error=str(error)), status=404)
        except Refused as refused:
            return answer_with(Problem(error=str(refused)), status=refused.status)

    return guarded


async def body_of(request: web.Request, kind: type[_T]) -> _T:
    """Read the body; an empty one is an empty object."""
    return msgspec.json.decode(await request.read() or b"{}", type=kind)


async def patch_of(request: web.Request, current: _T) -> _T:
    """Read new values of some fields of a dataclass; return it with them."""
    wanted = msgspec.json.decode(await request.read() or b"{}", type=dict[str, object])
    values = msgspec.to_builtins(current)
    unknown = wanted.keys() - values.keys()
    if unknown:
        raise InvalidRequest(f"no field {min(unknown)}; there are {', '.join(values)}")
    return msgspec.convert(values | wanted, type(current), strict=False)


def answer_with(view: object, *, status: int = 200) -> web.Response:
    """Answer with a view as JSON."""
    body = msgspec.json.encode(view)
    return web.Response(body=body, status=status, content_type="application/json")


def _is_loopback(remote: str | None) -> bool:
    return remote is not None and ip_address(remote).is_loopback
