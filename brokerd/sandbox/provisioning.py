"""MetaApi's provisioning service over REST (metaapi.md 2): a cover over `Provisioner`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from email.utils import format_datetime
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from brokerd.domain import Platform
from brokerd.sandbox import wire
from brokerd.sandbox.facts import ProvisioningState
from brokerd.sandbox.orders import AccountUpdate, NewAccount, read_order
from brokerd.sandbox.provisioner import Accepted
from brokerd.sandbox.rest_gate import USER, Gate, Handler, Service, json_answer
from brokerd.sandbox.state import MetaApiState
from brokerd.sandbox.truth import TruthAccount

_VERSIONS = {Platform.MT4: 4, Platform.MT5: 5}
_LISTS = frozenset({"version", "type", "state", "connectionStatus", "region"})
_MAX_PAGE = 1000
_DEPLOYMENT_STATES = {
    "deployed": {ProvisioningState.DEPLOYED},
    "undeployed": {ProvisioningState.UNDEPLOYED},
    "failed": {ProvisioningState.DEPLOY_FAILED, ProvisioningState.UNDEPLOY_FAILED},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What the SDK is told about where the client service is; the port is known late."""

    domain: Callable[[], str]
    hostname: str = "mt-client-api-v1"


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
    metadata: dict[str, object]
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
    """The service's handlers."""

    def __init__(self, state: MetaApiState, *, gate: Gate, discovery: Discovery) -> None:
        self._state = state
        self._provisioner = state.provisioner
        self._gate = gate
        self._discovery = discovery

    def routes(self) -> list[web.RouteDef]:
        """Return the service's routes."""
        accounts = "/users/current/accounts"
        account = f"{accounts}/{{account_id}}"
        handlers: tuple[tuple[str, str, Handler], ...] = (
            ("GET", accounts, self.list_accounts),
            ("POST", accounts, self.create),
            ("GET", account, self.show_account),
            ("PUT", account, self.update),
            ("DELETE", account, self.delete),
            ("POST", f"{account}/deploy", self.deploy),
            ("POST", f"{account}/undeploy", self.undeploy),
            ("POST", f"{account}/redeploy", self.redeploy),
            ("POST", f"{account}/increase-reliability", self.increase_reliability),
            ("PUT", f"{account}/configuration-link", self.configuration_link),
            ("GET", "/users/current/servers/mt-client-api", self.discover),
            ("GET", "/users/current/regions", self.list_regions),
        )
        guard = self._gate.guard
        return [
            web.route(method, path, guard(handler, service=Service.PROVISIONING))
            for method, path, handler in handlers
        ]

    async def list_accounts(self, request: web.Request) -> web.Response:
        """Answer with a page of the accounts, oldest first."""
        filters = _filters(request)
        found = [a for a in self._provisioner.accounts(request[USER]) if _passes(a, filters)]
        if filters.sort_order == "desc":
            found.reverse()
        page = found[filters.offset : filters.offset + filters.limit]
        items = [self._shown(account) for account in page]
        if request.headers.get("api-version") == "2":
            return json_answer(msgspec.json.encode(_Page(count=len(found), items=items)))
        return json_answer(msgspec.json.encode(items))

    async def show_account(self, request: web.Request) -> web.Response:
        """Answer with one account."""
        account = self._provisioner.account(request[USER], _account_id(request))
        return json_answer(msgspec.json.encode(self._shown(account)))

    async def create(self, request: web.Request) -> web.Response:
        """Add an account: 202 while the broker's settings are detected, then 201."""
        wanted = read_order(await request.read(), NewAccount)
        transaction_id = request.headers.get("transaction-id", "")
        made = self._provisioner.create(request[USER], wanted, transaction_id=transaction_id)
        if isinstance(made, Accepted):
            return self._accepted(made)
        return web.json_response({"id": made.account_id, "state": made.state}, status=201)

    async def update(self, request: web.Request) -> web.Response:
        """Change an account."""
        wanted = read_order(await request.read(), AccountUpdate)
        self._provisioner.update(request[USER], _account_id(request), wanted)
        return _done()

    async def delete(self, request: web.Request) -> web.Response:
        """Remove an account; it is gone after a while."""
        self._provisioner.delete(request[USER], _account_id(request))
        return _done()

    async def deploy(self, request: web.Request) -> web.Response:
        """Begin to deploy; the account is deployed, and connected, after a while."""
        self._provisioner.deploy(request[USER], _account_id(request))
        return _done()

    async def undeploy(self, request: web.Request) -> web.Response:
        """Begin to undeploy; the terminal goes down at once."""
        self._provisioner.undeploy(request[USER], _account_id(request))
        return _done()

    async def redeploy(self, request: web.Request) -> web.Response:
        """Begin to redeploy."""
        self._provisioner.redeploy(request[USER], _account_id(request))
        return _done()

    async def increase_reliability(self, request: web.Request) -> web.Response:
        """Give an account a second terminal."""
        self._provisioner.increase_reliability(request[USER], _account_id(request))
        return _done()

    async def configuration_link(self, request: web.Request) -> web.Response:
        """Answer with the address where an end user could enter credentials; nobody serves it."""
        account = self._provisioner.account(request[USER], _account_id(request))
        url = f"https://app.{self._discovery.domain()}/configure/{account.metaapi_id}"
        return web.json_response({"configurationLink": url})

    async def discover(self, _request: web.Request) -> web.Response:
        """Tell the SDK where the client service is."""
        domain, hostname = self._discovery.domain(), self._discovery.hostname
        url = f"https://{hostname}.{domain}"
        return web.json_response({"url": url, "hostname": hostname, "domain": domain})

    async def list_regions(self, _request: web.Request) -> web.Response:
        """Answer with the regions, those of the accounts among them."""
        return web.json_response(self._provisioner.regions())

    def _shown(self, account: TruthAccount) -> _Account:
        others = self._state.conditions.subscribers.get(account.metaapi_id, ())
        return _shown(account, applications=others)

    def _accepted(self, accepted: Accepted) -> web.Response:
        seconds = max(1, math.ceil(accepted.retry_after_seconds))
        message = (
            f"Automatic broker settings detection is in progress, please retry in {seconds} seconds"
        )
        answer = web.json_response(
            {"id": 1, "error": "AcceptedError", "message": message}, status=202
        )
        match self._provisioner.rules.retry_after:
            case "seconds":
                answer.headers["Retry-After"] = str(seconds)
            case "date":
                now = self._state.conditions.now(self._state.broker.clock)
                retry_at = now + timedelta(seconds=seconds)
                answer.headers["Retry-After"] = format_datetime(retry_at, usegmt=True)
            case "none":
                pass
        return answer


def _account_id(request: web.Request) -> str:
    return request.match_info["account_id"]


def _done() -> web.Response:
    return web.Response(status=204)


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


def _shown(account: TruthAccount, *, applications: tuple[str, ...]) -> _Account:
    spec, hosting = account.spec, account.hosting
    zones = "ab"[: account.replicas] if account.is_reachable else ""
    return _Account(
        id=account.metaapi_id,
        login=account.login,
        name=spec.name,
        server=account.server.name,
        provisioning_profile_id=None,
        magic=hosting.magic,
        connection_status=account.connection_status,
        state=account.state,
        type="cloud-g2",
        region=spec.region,
        manual_trades=hosting.manual_trades,
        quote_streaming_interval_in_seconds=hosting.quote_streaming_interval_in_seconds,
        tags=list(hosting.tags),
        metadata=hosting.metadata,
        reliability=spec.reliability,
        base_currency=spec.currency,
        copy_factory_roles=[],
        resource_slots=hosting.resource_slots,
        copy_factory_resource_slots=hosting.copy_factory_resource_slots,
        version=_VERSIONS[account.platform],
        hash=int(account.login or 0) % 100_000,
        primary_replica=True,
        user_id=account.owner,
        created_at=wire.iso_time(account.created_at),
        account_replicas=[],
        connections=[
            *(_Connection(region=spec.region, zone=zone) for zone in zones),
            *(
                _Connection(region=spec.region, zone="a", application=application)
                for application in applications
            ),
        ],
        metastats_api_enabled=False,
        risk_management_api_enabled=False,
    )
