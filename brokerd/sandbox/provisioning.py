"""MetaApi's provisioning service, as far as accounts that exist already need it (metaapi.md 2).

Creating, updating and deleting accounts over REST is not imitated; the control makes them.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from brokerd.domain import Platform
from brokerd.sandbox import wire
from brokerd.sandbox.facts import ProvisioningState
from brokerd.sandbox.rest_gate import Gate, Handler, Service, json_answer
from brokerd.sandbox.truth import Broker, TruthAccount

_VERSIONS = {Platform.MT4: 4, Platform.MT5: 5}
_REGIONS = frozenset({"new-york", "london", "singapore"})
_LISTS = frozenset({"version", "type", "state", "connectionStatus", "region"})
_MAX_PAGE = 1000
_DEPLOYMENT_STATES = {
    "deployed": {ProvisioningState.DEPLOYED},
    "undeployed": {ProvisioningState.UNDEPLOYED},
    "failed": {ProvisioningState.DEPLOY_FAILED, ProvisioningState.UNDEPLOY_FAILED},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisioningSettings:
    """How long deployments take, and what discovery tells the SDK.

    `hostname` and `domain` may be functions' results at run time: the port is known late.
    """

    deploy_seconds: float = 90.0
    undeploy_seconds: float = 20.0
    time_scale: float = 0.02
    hostname: str = "mt-client-api-v1"
    domain: Callable[[], str]


class _Connection(msgspec.Struct):
    region: str
    zone: str
    application: str = "MetaApi"


class _Account(msgspec.Struct, rename="camel"):
    """An account as the service lists it (metaapi.md 2.4)."""

    id: str = msgspec.field(name="_id")
    login: str
    name: str
    server: str
    provisioning_profile_id: str | None
    magic: int
    connection_status: str
    state: str
    type: str
    region: str
    manual_trades: bool
    quote_streaming_interval_in_seconds: float
    tags: list[str]
    metadata: dict[str, str]
    reliability: str
    base_currency: str
    copy_factory_roles: list[str]
    resource_slots: int
    copy_factory_resource_slots: int
    version: int
    hash: int
    primary_replica: bool
    user_id: str
    created_at: str
    account_replicas: list[str]
    connections: list[_Connection]
    metastats_api_enabled: bool
    risk_management_api_enabled: bool


class _Page(msgspec.Struct):
    """The second form of the list."""

    count: int
    items: list[_Account]


class _Filters(msgspec.Struct, rename="camel"):
    """The query of the list; a filter that is not given lets everything pass."""

    offset: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=_MAX_PAGE)] = _MAX_PAGE
    version: list[Literal["4", "5"]] | None = None
    type: list[str] | None = None
    state: list[str] | None = None
    connection_status: list[str] | None = None
    region: list[str] | None = None
    query: str = ""
    provisioning_profile_id: str | None = None
    deployment_status: Literal["deployed", "undeployed", "failed"] | None = None
    sort_order: Literal["asc", "desc"] = "asc"


class Provisioning:
    """The service's handlers, and the deployments under way."""

    def __init__(self, broker: Broker, *, gate: Gate, settings: ProvisioningSettings) -> None:
        self._broker = broker
        self._gate = gate
        self._settings = settings
        self._under_way: dict[str, asyncio.TimerHandle] = {}

    def routes(self) -> list[web.RouteDef]:
        """Return the service's routes."""
        account = "/users/current/accounts/{account_id}"
        return [
            web.get("/users/current/accounts", self._guarded(self.list_accounts)),
            web.get(account, self._guarded(self.show_account)),
            web.post(f"{account}/deploy", self._guarded(self.deploy)),
            web.post(f"{account}/undeploy", self._guarded(self.undeploy)),
            web.get("/users/current/servers/mt-client-api", self._guarded(self.discover)),
            web.get("/users/current/regions", self._guarded(self.list_regions)),
        ]

    async def list_accounts(self, request: web.Request) -> web.Response:
        """Answer with a page of the accounts, oldest first."""
        filters = _filters(request)
        found = [a for a in self._broker.accounts.values() if _passes(a, filters)]
        if filters.sort_order == "desc":
            found.reverse()
        page = found[filters.offset : filters.offset + filters.limit]
        items = [_shown(account) for account in page]
        if request.headers.get("api-version") == "2":
            return json_answer(msgspec.json.encode(_Page(count=len(found), items=items)))
        return json_answer(msgspec.json.encode(items))

    async def show_account(self, request: web.Request) -> web.Response:
        """Answer with one account."""
        return json_answer(msgspec.json.encode(_shown(self._account(request))))

    async def deploy(self, request: web.Request) -> web.Response:
        """Begin to deploy; the account is deployed, and connected, after a while."""
        account = self._account(request)
        if account.state is not ProvisioningState.DEPLOYED:
            account.set_state(ProvisioningState.DEPLOYING)
            self._finish_later(account, ProvisioningState.DEPLOYED, self._settings.deploy_seconds)
        return web.Response(status=204)

    async def undeploy(self, request: web.Request) -> web.Response:
        """Begin to undeploy; the terminal goes down at once."""
        account = self._account(request)
        if account.state is not ProvisioningState.UNDEPLOYED:
            account.set_state(ProvisioningState.UNDEPLOYING)
            seconds = self._settings.undeploy_seconds
            self._finish_later(account, ProvisioningState.UNDEPLOYED, seconds)
        return web.Response(status=204)

    async def discover(self, _request: web.Request) -> web.Response:
        """Tell the SDK where the client service is."""
        domain = self._settings.domain()
        hostname = self._settings.hostname
        url = f"https://{hostname}.{domain}"
        return web.json_response({"url": url, "hostname": hostname, "domain": domain})

    async def list_regions(self, _request: web.Request) -> web.Response:
        """Answer with the regions, those of the accounts among them."""
        used = {account.spec.region for account in self._broker.accounts.values()}
        return web.json_response(sorted(_REGIONS | used))

    def _guarded(self, handler: Handler) -> Handler:
        return self._gate.guard(handler, service=Service.PROVISIONING)

    def _account(self, request: web.Request) -> TruthAccount:
        return self._broker.account(request.match_info["account_id"])

    def _finish_later(
        self, account: TruthAccount, state: ProvisioningState, seconds: float
    ) -> None:
        """End the transition after its scaled time; a later order replaces an earlier one."""
        earlier = self._under_way.pop(account.metaapi_id, None)
        if earlier is not None:
            earlier.cancel()
        loop = asyncio.get_running_loop()
        delay = seconds * self._settings.time_scale
        self._under_way[account.metaapi_id] = loop.call_later(delay, account.set_state, state)


def _filters(request: web.Request) -> _Filters:
    query = request.query
    fields = {
        name: [value for text in query.getall(name) for value in text.split(",")]
        if name in _LISTS
        else query[name]
        for name in query
    }
    return msgspec.convert(fields, _Filters, strict=False)


def _passes(account: TruthAccount, filters: _Filters) -> bool:
    wanted = _DEPLOYMENT_STATES.get(filters.deployment_status or "")
    searched = (account.metaapi_id, account.spec.name, account.server.name, account.login)
    return (
        _is_in(str(_VERSIONS[account.platform]), filters.version)
        and _is_in("cloud-g2", filters.type)
        and _is_in(account.state, filters.state)
        and _is_in(account.connection_status, filters.connection_status)
        and _is_in(account.spec.region, filters.region)
        and filters.provisioning_profile_id is None
        and (wanted is None or account.state in wanted)
        and any(filters.query.lower() in text.lower() for text in searched)
    )


def _is_in(value: str, allowed: list[str] | list[Literal["4", "5"]] | None) -> bool:
    return allowed is None or value in allowed


def _shown(account: TruthAccount) -> _Account:
    spec = account.spec
    zones = "ab"[: account.replicas] if account.is_reachable else ""
    return _Account(
        id=account.metaapi_id,
        login=account.login,
        name=spec.name,
        server=account.server.name,
        provisioning_profile_id=None,
        magic=0,
        connection_status=account.connection_status,
        state=account.state,
        type="cloud-g2",
        region=spec.region,
        manual_trades=False,
        quote_streaming_interval_in_seconds=2.5,
        tags=[],
        metadata={},
        reliability=spec.reliability,
        base_currency=spec.currency,
        copy_factory_roles=[],
        resource_slots=1,
        copy_factory_resource_slots=1,
        version=_VERSIONS[account.platform],
        hash=int(account.login) % 100_000,
        primary_replica=True,
        user_id="sandbox",
        created_at=wire.iso_time(account.created_at),
        account_replicas=[],
        connections=[_Connection(region=spec.region, zone=zone) for zone in zones],
        metastats_api_enabled=False,
        risk_management_api_enabled=False,
    )
