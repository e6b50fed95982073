"""What MetaApi says of its own limits, over REST."""

from collections.abc import Sequence

from brokerd.config.settings import MetaApiSettings
from brokerd.connector.governor.ports import Quota, Service, Usage
from brokerd.connector.governor.quotas import quotas_from_json, usages_from_json
from brokerd.connector.metaapi_rest import endpoints
from brokerd.connector.metaapi_rest.discovery import Discovery
from brokerd.connector.metaapi_rest.transport import Request, RestPorts, Transport
from brokerd.domain import MetaApiRef


class MetaApiQuotas:
    """`QuotaReader` on both services."""

    def __init__(self, settings: MetaApiSettings, *, ports: RestPorts) -> None:
        self._settings = settings
        self._transport = Transport(settings, ports=ports)
        self._discovery = Discovery(self._transport, settings=settings, clock=ports.clock)

    async def quotas(self, token: str) -> Sequence[Quota]:
        """Read what a token's user may have, by region."""
        request = Request(
            method="quotas",
            url=f"{endpoints.provisioning_url(self._settings)}{endpoints.QUOTAS_PATH}",
            token=token,
            service=Service.PROVISIONING,
            call=f"reading the quotas (token {token!r})",
        )
        return await self._transport.get(request, quotas_from_json)

    async def credits(self, remote: MetaApiRef) -> Sequence[Usage]:
        """Read the credits in the way of calls for an account."""
        base = await self._discovery.client_url(remote)
        request = Request(
            method="credits",
            url=f"{base}{endpoints.credits_path(remote.account_id)}",
            token=remote.token,
            service=Service.CLIENT,
            region=remote.region,
            account_id=remote.account_id,
            call=f"reading the credits of MetaApi account {remote.account_id}",
        )
        return await self._transport.get(request, usages_from_json)
