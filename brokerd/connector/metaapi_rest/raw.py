"""MetaApi's answers as they come, for those who want to see what they are like."""

from datetime import datetime

import msgspec

from brokerd.config.settings import MetaApiSettings
from brokerd.connector.governor.ports import Service
from brokerd.connector.inspection.ports import AccountQuestion, TokenQuestion
from brokerd.connector.metaapi_rest import endpoints
from brokerd.connector.metaapi_rest.discovery import Discovery
from brokerd.connector.metaapi_rest.transport import Request, RestPorts, Transport
from brokerd.domain import MetaApiRef
from brokerd.errors import MalformedAnswer

_TOKEN_PATHS = {
    TokenQuestion.DISCOVERY: endpoints.DISCOVERY_PATH,
    TokenQuestion.REGIONS: endpoints.REGIONS_PATH,
    TokenQuestion.QUOTAS: endpoints.QUOTAS_PATH,
    TokenQuestion.ACCOUNTS: endpoints.accounts_path(offset=0, login=None, states=()),
}
_ACCOUNT_PATHS = {
    AccountQuestion.RECORD: endpoints.account_path,
    AccountQuestion.INFORMATION: endpoints.account_information_path,
    AccountQuestion.SERVER_TIME: endpoints.server_time_path,
    AccountQuestion.CREDITS: endpoints.credits_path,
}


class MetaApiRaw:
    """`RawReader` on both services."""

    def __init__(self, settings: MetaApiSettings, *, ports: RestPorts) -> None:
        self._settings = settings
        self._transport = Transport(settings, ports=ports)
        self._discovery = Discovery(self._transport, settings=settings, clock=ports.clock)

    async def of_token(self, question: TokenQuestion, token: str) -> object:
        """Ask the provisioning service."""
        request = Request(
            method=question,
            url=f"{endpoints.provisioning_url(self._settings)}{_TOKEN_PATHS[question]}",
            token=token,
            service=Service.PROVISIONING,
            call=f"reading {question} (token {token!r})",
        )
        return await self._transport.get(request, _json)

    async def of_account(self, question: AccountQuestion, remote: MetaApiRef) -> object:
        """Ask for an account; for its record the provisioning service."""
        path = _ACCOUNT_PATHS[question](remote.account_id)
        is_record = question is AccountQuestion.RECORD
        return await self._get(remote, path, method=question, is_provisioning=is_record)

    async def deals(self, remote: MetaApiRef, *, start: datetime, end: datetime) -> object:
        """Read the first page of a span of history."""
        path = endpoints.deals_path(remote.account_id, start=start, end=end, offset=0)
        return await self._get(remote, path, method="deals", is_provisioning=False)

    async def _get(
        self, remote: MetaApiRef, path: str, *, method: str, is_provisioning: bool
    ) -> object:
        if is_provisioning:
            base, service = endpoints.provisioning_url(self._settings), Service.PROVISIONING
        else:
            base, service = await self._discovery.client_url(remote), Service.CLIENT
        request = Request(
            method=method,
            url=f"{base}{path}",
            token=remote.token,
            service=service,
            region=None if is_provisioning else remote.region,
            account_id=remote.account_id,
            call=f"reading {method} of MetaApi account {remote.account_id}",
        )
        return await self._transport.get(request, _json)


def _json(body: bytes) -> object:
    try:
        decoded: object = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise MalformedAnswer(f"not JSON: {error}") from None
    return decoded
