"""Finds the domain of MetaApi's client service for a token, and remembers it for a while."""

import asyncio
from dataclasses import dataclass

import msgspec

from brokerd.clock import Clock
from brokerd.config.settings import MetaApiSettings
from brokerd.connector.governor.ports import Service
from brokerd.connector.metaapi_rest import endpoints
from brokerd.connector.metaapi_rest.transport import Request, Transport
from brokerd.domain import MetaApiRef
from brokerd.errors import MalformedAnswer, Transient

REMEMBERED_SECONDS = 600.0


class _DiscoveryRecord(msgspec.Struct):
    """Which client servers serve the token's user (metaapi.md 1.1)."""

    domain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    domain: str
    expires: float


class Discovery:
    """Answers from configuration where that names the service, else from MetaApi."""

    def __init__(self, transport: Transport, *, settings: MetaApiSettings, clock: Clock) -> None:
        self._transport = transport
        self._settings = settings
        self._clock = clock
        self._found: dict[str, _Found] = {}
        self._locks = {token: asyncio.Lock() for token in settings.tokens}

    async def client_url(self, remote: MetaApiRef) -> str:
        """Return the base of the client service that serves the account's region."""
        configured = endpoints.configured_client_url(self._settings, remote.region)
        if configured is not None:
            return configured
        return endpoints.discovered_client_url(await self._domain(remote.token), remote.region)

    async def _domain(self, token: str) -> str:
        lock = self._locks.setdefault(token, asyncio.Lock())
        async with lock:  # one of many waiting links asks, the others take its answer
            known = self._found.get(token)
            if known is not None and self._clock.monotonic() < known.expires:
                return known.domain
            try:
                domain = await self._ask(token)
            except Transient:
                if known is None:
                    raise
                domain = known.domain  # it rarely changes: better old than none
            expires = self._clock.monotonic() + REMEMBERED_SECONDS
            self._found[token] = _Found(domain=domain, expires=expires)
            return domain

    async def _ask(self, token: str) -> str:
        base = endpoints.provisioning_url(self._settings)
        request = Request(
            method="discovery",
            url=f"{base}{endpoints.DISCOVERY_PATH}",
            token=token,
            service=Service.PROVISIONING,
            call=f"finding MetaApi's client servers (token {token!r})",
        )
        return await self._transport.get(request, _domain_from_json)


def _domain_from_json(body: bytes) -> str:
    try:
        domain = msgspec.json.decode(body, type=_DiscoveryRecord).domain
    except (ValueError, RecursionError) as error:
        raise MalformedAnswer(f"not a discovery answer: {error}") from None
    if not endpoints.is_host(domain):
        raise MalformedAnswer(f"not a discovery answer: its domain {domain[:64]!r} is no host")
    return domain
