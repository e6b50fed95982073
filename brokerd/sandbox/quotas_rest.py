"""A user's quotas over REST: what there is, how much of it is used, and asking for more."""

from dataclasses import replace
from typing import Annotated

import msgspec
from aiohttp import web

from brokerd.sandbox import refusals
from brokerd.sandbox.rest_gate import USER, Gate, Service, json_answer
from brokerd.sandbox.state import MetaApiState
from brokerd.sandbox.users import Quotas, User

_QUOTAS = "/users/current/quotas"
_REGION = "/users/current/regions/{region}/quotas"

_Wanted = Annotated[int, msgspec.Meta(ge=1)]


class _Quota(msgspec.Struct, rename="camel"):
    quota: int
    usage_in_percents: float


class _Shown(msgspec.Struct, rename="camel"):
    """The quotas of one region (metaapi.md 2.1); what the sandbox has not is never used."""

    region: str
    max_accounts: _Quota
    max_provisioning_profiles: _Quota
    max_deployed_g1_accounts: _Quota = msgspec.field(name="maxDeployedG1Accounts")
    max_deployed_g2_accounts: _Quota = msgspec.field(name="maxDeployedG2Accounts")
    max_deployed_copy_factory_accounts: _Quota
    max_dedicated_ipv4: _Quota
    max_dedicated_ipv6: _Quota


class _Increase(msgspec.Struct, rename="camel"):
    """What is asked for; what is left out stays."""

    max_accounts: _Wanted | None = None
    max_deployed_g2_accounts: _Wanted | None = msgspec.field(
        default=None, name="maxDeployedG2Accounts"
    )
    max_provisioning_profiles: _Wanted | None = None


class QuotasRest:
    """The handlers."""

    def __init__(self, state: MetaApiState, *, gate: Gate) -> None:
        self._provisioner = state.provisioner
        self._gate = gate

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        guard, service = self._gate.guard, Service.PROVISIONING
        return [
            web.get(_QUOTAS, guard(self.list_quotas, service=service)),
            web.get(_REGION, guard(self.show, service=service)),
            web.patch(_REGION, guard(self.increase, service=service)),
        ]

    async def list_quotas(self, request: web.Request) -> web.Response:
        """Answer with the quotas of every region."""
        shown = [self._shown(request[USER], region) for region in self._provisioner.regions()]
        return json_answer(msgspec.json.encode(shown))

    async def show(self, request: web.Request) -> web.Response:
        """Answer with the quotas of one region."""
        return json_answer(msgspec.json.encode(self._shown(request[USER], self._region(request))))

    async def increase(self, request: web.Request) -> web.Response:
        """Grant more at once (204), or note that more was asked for (201), as the rules say."""
        user, region = request[USER], self._region(request)
        wanted = msgspec.json.decode(await request.read() or b"{}", type=_Increase)
        current = user.quotas_in(region)
        granted = replace(
            current,
            accounts=wanted.max_accounts or current.accounts,
            deployed=wanted.max_deployed_g2_accounts or current.deployed,
            provisioning_profiles=(
                wanted.max_provisioning_profiles or current.provisioning_profiles
            ),
        )
        if _has_less(granted, than=current):
            raise refusals.invalid("quota", "A quota can only be increased.")
        if not self._provisioner.rules.grants_quotas:
            return web.Response(status=201)
        user.region_quotas = {**user.region_quotas, region: granted}
        return web.Response(status=204)

    def _region(self, request: web.Request) -> str:
        region = request.match_info["region"]
        if region not in self._provisioner.regions():
            raise refusals.invalid("region", "There is no such region.", value=region)
        return region

    def _shown(self, user: User, region: str) -> _Shown:
        quotas = user.quotas_in(region)
        held = [a for a in self._provisioner.accounts(user) if a.spec.region == region]
        running = sum(account.is_started for account in held)
        return _Shown(
            region=region,
            max_accounts=_quota(quotas.accounts, used=len(held)),
            max_provisioning_profiles=_quota(quotas.provisioning_profiles),
            max_deployed_g1_accounts=_quota(0),
            max_deployed_g2_accounts=_quota(quotas.deployed, used=running),
            max_deployed_copy_factory_accounts=_quota(0),
            max_dedicated_ipv4=_quota(0),
            max_dedicated_ipv6=_quota(0),
        )


def _quota(quota: int, *, used: int = 0) -> _Quota:
    return _Quota(quota=quota, usage_in_percents=100 * used / quota if quota else 0.0)


def _has_less(quotas: Quotas, *, than: Quotas) -> bool:
    return (
        quotas.accounts < than.accounts
        or quotas.deployed < than.deployed
        or quotas.provisioning_profiles < than.provisioning_profiles
    )
