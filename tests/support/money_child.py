"""A process that has a link's account created and deployed, and dies on the way at a chosen step.

Each fork claims one link as a node does, and brings its account up over HTTP.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from forking import arm, obey, say
from governing import OpenGate
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import (
    BudgetSettings,
    DatabaseSettings,
    MetaApiSettings,
    MoneySettings,
    ProvisioningSettings,
    Secret,
    SecretsSettings,
)
from brokerd.connector.metaapi_rest.client import MetaApiRest
from brokerd.connector.metaapi_rest.provisioning import MetaApiProvisioning
from brokerd.connector.metaapi_rest.retries import retrying
from brokerd.connector.metaapi_rest.transport import RestPorts, open_http
from brokerd.connector.provisioning.budgets import limits_of
from brokerd.connector.provisioning.outcome import Judge
from brokerd.connector.provisioning.postgres import PostgresIntents
from brokerd.connector.provisioning.prices import prices_of
from brokerd.connector.provisioning.provisioner import Provisioner, ProvisionPorts
from brokerd.connector.provisioning.sealing import Vault
from brokerd.connector.provisioning.transitions import Transitions
from brokerd.domain import Claim
from brokerd.errors import BrokerdError
from brokerd.logs import configure_logging
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.queue.postgres import PostgresQueue
from brokerd.store.engine import Database, open_database
from brokerd.telemetry import Metrics

SECRETS = SecretsSettings(keys={"k1": Secret("s" * 64)}, current="k1")
QUICK = ProvisioningSettings(
    poll_seconds=0.05, create_retry_seconds=0.02, timeout_seconds=20.0, confirm_seconds=0.05
)


@asynccontextmanager
async def provisioning(database: Database, *, url: str, token: str) -> AsyncIterator[Provisioner]:
    """Build what brings accounts up, as production does."""
    settings = MetaApiSettings(tokens={"main": Secret(token)}, provisioning_url=url, client_url=url)
    clock, metrics = SystemClock(), Metrics(CollectorRegistry())
    async with open_http(settings) as http:
        rest = RestPorts(
            http=http,
            retrying=retrying(3, random=Random(1)),
            gate=OpenGate(clock),
            clock=clock,
            metrics=metrics,
        )
        port = MetaApiProvisioning(settings, ports=rest)
        yield Provisioner(
            ProvisionPorts(
                rest=MetaApiRest(settings, ports=rest),
                provisioning=port,
                intents=PostgresIntents(database),
                vault=Vault(SECRETS, random_bytes=os.urandom),
                transitions=Transitions(port, poll_seconds=QUICK.poll_seconds, clock=clock),
                judge=Judge(prices=prices_of(MoneySettings()), settings=QUICK),
                limits=limits_of(BudgetSettings()),
                settings=QUICK,
                random=Random(),
                metrics=metrics,
            )
        )


async def bring_up(provisioner: Provisioner, claim: Claim) -> str:
    """Bring an account up; return its state, or the code of the refusal."""

    async def working(_reason: str) -> None:
        """Tell nobody."""

    try:
        provisioned = await provisioner.deployed(claim, working=working)
    except BrokerdError as failure:
        return failure.code
    return provisioned.account.state


async def live(number: signal.Signals, step: int, node: str) -> None:
    """Start as a node does, claim, and bring the account up."""
    settings = DatabaseSettings(url=Secret(os.environ["TEST_DATABASE_URL"]))
    metrics = Metrics(CollectorRegistry())
    async with (
        open_database(settings, metrics=metrics, max_connections=2) as database,
        provisioning(
            database, url=os.environ["TEST_SANDBOX_URL"], token=os.environ["TEST_TOKEN"]
        ) as provisioner,
    ):
        incarnation = await PostgresNodes(database, heartbeats=database).register(node, max_links=1)
        [claim] = await PostgresQueue(database).claim(incarnation, limit=1)
        arm(number, step)
        say("reached", await bring_up(provisioner, claim))


if __name__ == "__main__":
    configure_logging(level="critical", stream=sys.stderr)
    obey(live)
