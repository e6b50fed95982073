"""MetaApi's request and answer side, as the connector's `RestPort` asks for it."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import httpx
from tenacity import AsyncRetrying

from brokerd.clock import Clock
from brokerd.config.settings import MetaApiSettings
from brokerd.connector import wire
from brokerd.connector.metaapi_rest import endpoints
from brokerd.connector.metaapi_rest.discovery import Discovery
from brokerd.connector.metaapi_rest.transport import Request, Transport
from brokerd.connector.ports import AccountInformation, DealsPage, RemoteAccount
from brokerd.domain import DealId, MetaApiRef
from brokerd.telemetry import Metrics

T = TypeVar("T")


class MetaApiRest:
    """`RestPort` on MetaApi's REST services. Every call is a GET, so each may be sent again."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        settings: MetaApiSettings,
        retrying: AsyncRetrying,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """Use `http` (`transport.open_http`), which stays its opener's to close."""
        self._settings = settings
        self._transport = Transport(
            http, settings=settings, retrying=retrying, clock=clock, metrics=metrics
        )
        self._discovery = Discovery(self._transport, settings=settings, clock=clock)

    async def account(self, remote: MetaApiRef) -> RemoteAccount:
        """Read the account's deployment state."""
        request = Request(
            method="account",
            url=endpoints.provisioning_url(self._settings)
            + endpoints.account_path(remote.account_id),
            token=remote.token,
            call=_call("reading", remote),
        )
        return await self._transport.get(request, wire.account_from_json)

    async def account_information(self, remote: MetaApiRef) -> AccountInformation:
        """Read who is connected and the account's balance and credit now."""
        path = endpoints.account_information_path(remote.account_id)
        read = wire.account_information_from_json
        call = _call("reading the account information of", remote)
        return await self._ask(remote, path, method="account_information", call=call, read=read)

    async def deals(
        self, remote: MetaApiRef, *, start: datetime, end: datetime, offset: int
    ) -> DealsPage:
        """Read one page of the deals with start <= time < end, at most `PAGE_LIMIT` of them."""
        path = endpoints.deals_path(remote.account_id, start=start, end=end, offset=offset)
        call = _call(f"reading deals from {offset} on of", remote)
        return await self._ask(remote, path, method="deals", call=call, read=wire.deals_from_json)

    async def deals_by_ticket(self, remote: MetaApiRef, *, deal_id: DealId) -> DealsPage:
        """Read the deals the broker holds under one ticket; none when it knows none."""
        path = endpoints.ticket_path(remote.account_id, deal_id=deal_id)
        call = _call(f"reading deal {deal_id} of", remote)
        read = wire.deals_from_json
        return await self._ask(remote, path, method="deals_by_ticket", call=call, read=read)

    async def _ask(
        self,
        remote: MetaApiRef,
        path: str,
        *,
        method: str,
        call: str,
        read: Callable[[bytes], T],
    ) -> T:
        base = await self._discovery.client_url(remote)
        request = Request(method=method, url=f"{base}{path}", token=remote.token, call=call)
        return await self._transport.get(request, read)


def _call(what: str, remote: MetaApiRef) -> str:
    return (
        f"{what} MetaApi account {remote.account_id}"
        f" (token {remote.token!r}, region {remote.region!r})"
    )
