"""MetaApi's request and answer side, as the connector's `RestPort` asks for it."""

from datetime import datetime

from brokerd.config.settings import MetaApiSettings
from brokerd.connector import wire
from brokerd.connector.governor.ports import Service
from brokerd.connector.metaapi_rest import endpoints
from brokerd.connector.metaapi_rest.discovery import Discovery
from brokerd.connector.metaapi_rest.transport import Request, RestPorts, Transport
from brokerd.connector.ports import AccountInformation, DealsPage, RemoteAccount
from brokerd.domain import DealId, MetaApiRef


class MetaApiRest:
    """`RestPort` on MetaApi's REST services. Every call is a GET, so each may be sent again."""

    def __init__(self, settings: MetaApiSettings, *, ports: RestPorts) -> None:
        """Use what `transport.open_http` opened, which stays its opener's to close."""
        self._settings = settings
        self._transport = Transport(settings, ports=ports)
        self._discovery = Discovery(self._transport, settings=settings, clock=ports.clock)

    async def account(self, remote: MetaApiRef) -> RemoteAccount:
        """Read the account's deployment state."""
        request = Request(
            method="account",
            url=endpoints.provisioning_url(self._settings)
            + endpoints.account_path(remote.account_id),
            token=remote.token,
            service=Service.PROVISIONING,
            account_id=remote.account_id,
            call=_call("reading", remote),
        )
        return await self._transport.get(request, wire.account_from_json)

    async def account_information(self, remote: MetaApiRef) -> AccountInformation:
        """Read who is connected and the account's balance and credit now."""
        path = endpoints.account_information_path(remote.account_id)
        call = _call("reading the account information of", remote)
        request = await self._request(remote, path, method="account_information", call=call)
        return await self._transport.get(request, wire.account_information_from_json)

    async def deals(
        self, remote: MetaApiRef, *, start: datetime, end: datetime, offset: int
    ) -> DealsPage:
        """Read one page of the deals with start <= time < end, at most `PAGE_LIMIT` of them."""
        path = endpoints.deals_path(remote.account_id, start=start, end=end, offset=offset)
        call = _call(f"reading deals from {offset} on of", remote)
        request = await self._request(remote, path, method="deals", call=call)
        return await self._transport.get(request, wire.deals_from_json, count=_records)

    async def deals_by_ticket(self, remote: MetaApiRef, *, deal_id: DealId) -> DealsPage:
        """Read the deals the broker holds under one ticket; none when it knows none."""
        path = endpoints.ticket_path(remote.account_id, deal_id=deal_id)
        call = _call(f"reading deal {deal_id} of", remote)
        request = await self._request(remote, path, method="deals_by_ticket", call=call)
        return await self._transport.get(request, wire.deals_from_json)

    async def _request(self, remote: MetaApiRef, path: str, *, method: str, call: str) -> Request:
        """Address a request to the client service of the account's region."""
        base = await self._discovery.client_url(remote)
        return Request(
            method=method,
            url=f"{base}{path}",
            token=remote.token,
            service=Service.CLIENT,
            region=remote.region,
            account_id=remote.account_id,
            call=call,
        )


def _records(page: DealsPage) -> int:
    return len(page.keys)


def _call(what: str, remote: MetaApiRef) -> str:
    return (
        f"{what} MetaApi account {remote.account_id}"
        f" (token {remote.token!r}, region {remote.region!r})"
    )
