"""The control API as our own commands call it: with the node's configuration, over loopback."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import quote

import httpx
import msgspec

from brokerd.api.bodies import MAX_PAGE, ExplainBody, LinkBody, LinksBody, ProblemBody
from brokerd.api.operation_bodies import OperationBody
from brokerd.config.settings import ApiSettings
from brokerd.domain import LinkId
from brokerd.errors import ConfigInvalid, ControlRefused, ControlUnavailable

_TIMEOUT_SECONDS = 10.0
_MAX_CONNECTIONS = 8

_T = TypeVar("_T")


class ControlClient:
    """A client of one node's control API; made by `open_client`.

    Every method raises `ControlUnavailable` without an answer, and `ControlRefused`.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def links(self) -> list[LinkBody]:
        """Read every link of the fleet, in the order of their ids."""
        links: list[LinkBody] = []
        after: str | None = ""
        while after is not None:
            query = {"limit": str(MAX_PAGE), **({"after": after} if after else {})}
            page = await self._ask("GET", "/v1/links", query=query, answer=LinksBody)
            links += page.items
            after = page.next
        return links

    async def audit(self, link_id: LinkId) -> OperationBody:
        """Start an audit of a link, or find the one that is open."""
        path = f"/v1/links/{quote(link_id, safe='')}:audit"
        return await self._ask("POST", path, answer=OperationBody)

    async def explain(self, link_id: LinkId) -> ExplainBody:
        """Read a link's story."""
        path = f"/v1/links/{quote(link_id, safe='')}/explain"
        return await self._ask("GET", path, answer=ExplainBody)

    async def operation(self, operation_id: str) -> OperationBody:
        """Read an operation."""
        return await self._ask("GET", f"/v1/operations/{operation_id}", answer=OperationBody)

    async def _ask(
        self, method: str, path: str, *, query: dict[str, str] | None = None, answer: type[_T]
    ) -> _T:
        try:
            said = await self._http.request(method, path, params=query)
            if said.is_success:
                return msgspec.json.decode(said.content, type=answer)
            problem = msgspec.json.decode(said.content, type=ProblemBody)
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            # without the error's text and cause: they quote the request, and so the key
            what = f"{method} {path} at {self._http.base_url}: {type(error).__name__}"
            raise ControlUnavailable(what) from None
        text = ": ".join(part for part in (problem.title, problem.detail) if part)
        if problem.retryable:
            raise ControlUnavailable(text)
        raise ControlRefused(text)


@asynccontextmanager
async def open_client(settings: ApiSettings) -> AsyncIterator[ControlClient]:
    """Open a client for the node of a configuration; raises `ConfigInvalid` if none can be."""
    if settings.port == 0:
        raise ConfigInvalid(["api.port: is 0, any port, so a command cannot find the node; set it"])
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    async with httpx.AsyncClient(
        base_url=f"http://{host}:{settings.port}",
        headers={"Authorization": f"Bearer {settings.key.reveal()}"},
        timeout=_TIMEOUT_SECONDS,
        limits=httpx.Limits(max_connections=_MAX_CONNECTIONS),
        trust_env=False,  # loopback is never reached through a proxy
    ) as http:
        yield ControlClient(http)
