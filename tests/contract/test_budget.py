"""Our budget against the sandbox's meter: what the governor lets out, MetaApi lets in."""

import asyncio
from random import Random

from governing import fleet_of, new_governor
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import GovernorSettings, MetaApiSettings, Secret
from brokerd.connector.metaapi_rest.client import MetaApiRest
from brokerd.connector.metaapi_rest.retries import retrying
from brokerd.connector.metaapi_rest.transport import RestPorts, open_http
from brokerd.domain import MetaApiRef
from brokerd.errors import Held
from brokerd.sandbox.limits import CreditLimits
from brokerd.sandbox.server import SandboxSettings, running_sandbox
from brokerd.store.memory import MemoryState
from brokerd.telemetry import Metrics

ACCOUNTS = 3
SECONDS = 5.0


async def test_no_call_that_was_let_out_is_throttled() -> None:
    """Three accounts, asked without a pause: all credits of the first seconds, and not one 429."""
    clock, metrics = SystemClock(), Metrics(CollectorRegistry())
    async with running_sandbox(SandboxSettings(accounts=ACCOUNTS)) as sandbox:
        sandbox.state.limits.credits = CreditLimits()
        settings = MetaApiSettings(
            tokens={"main": Secret(sandbox.settings.token)},
            provisioning_url=sandbox.url,
            client_url=sandbox.url,
        )
        fleet = fleet_of(MemoryState(clock=clock))
        fleet._accounts["main"] = ACCOUNTS
        async with open_http(settings) as http:
            ports = RestPorts(
                http=http,
                retrying=retrying(1, random=Random(1)),
                gate=new_governor(
                    clock=clock, metrics=metrics, settings=GovernorSettings(), fleet=fleet
                ),
                clock=clock,
                metrics=metrics,
            )
            rest, told = MetaApiRest(settings, ports=ports), []
            until = clock.monotonic() + SECONDS

            async def keep_asking(remote: MetaApiRef) -> None:
                while clock.monotonic() < until:
                    try:
                        await rest.account_information(remote)
                        told.append("ok")
                    except Held:
                        told.append("held")
                        await asyncio.sleep(0.5)

            remotes = [
                MetaApiRef(token="main", account_id=account_id, region="new-york")
                for account_id in sandbox.broker.accounts
            ]
            await asyncio.gather(*(keep_asking(remotes[n % ACCOUNTS]) for n in range(12)))
    [throttled] = metrics.throttled.collect()
    assert throttled.samples == []
    assert told.count("ok") > 100
