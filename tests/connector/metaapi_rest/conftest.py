import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random

import httpx
import pytest
from governing import LIMITLESS, new_governor
from prometheus_client import CollectorRegistry

from brokerd.config.settings import GovernorSettings, MetaApiSettings, Secret
from brokerd.connector.governor.governor import Governor
from brokerd.connector.governor.pace import Pace
from brokerd.connector.metaapi_rest.client import MetaApiRest
from brokerd.connector.metaapi_rest.provisioning import MetaApiProvisioning
from brokerd.connector.metaapi_rest.retries import retrying
from brokerd.connector.metaapi_rest.transport import RestPorts, open_http
from brokerd.domain import MetaApiRef
from brokerd.telemetry import Metrics

TOKEN = "header.planted-secret-payload.signature"
REMOTE = MetaApiRef(
    token="main", account_id="1eda642a-a9a3-457c-99af-3bc5e8d5c4c9", region="london"
)
SETTINGS = MetaApiSettings(
    tokens={"main": Secret(TOKEN), "other": Secret("other.secret-payload.signature")},
    provisioning_url="http://provisioning.test",
    client_url="http://client.{region}.test",
    requests_per_second=1_000,
    request_timeout_seconds=2.0,
)


@dataclass
class ManualClock:
    """A clock that moves when the test says so."""

    seconds: float = 0.0

    def now(self) -> datetime:
        """Return a fixed day plus the seconds."""
        return datetime.fromtimestamp(1_709_294_400 + self.seconds, UTC)

    def monotonic(self) -> float:
        """Return the seconds."""
        return self.seconds

    def boottime(self) -> float:
        """Return the seconds."""
        return self.seconds


@dataclass
class Rig:
    """A client with everything around it in the test's hands.

    `waits` are the sleeps between its attempts; `holds` those of the governor, and they move the
    clock.
    """

    http: httpx.AsyncClient
    token: str = TOKEN
    remote: MetaApiRef = REMOTE
    settings: MetaApiSettings = SETTINGS
    limits: GovernorSettings = LIMITLESS
    clock: ManualClock = field(default_factory=ManualClock)
    waits: list[float] = field(default_factory=list)
    holds: list[float] = field(default_factory=list)
    metrics: Metrics = field(default_factory=lambda: Metrics(CollectorRegistry()))

    def client(self, **changes: object) -> MetaApiRest:
        """Build the client under test, with settings changed."""
        settings = replace(self.settings, **changes)  # type: ignore[arg-type]  # a test's shorthand
        return MetaApiRest(settings, ports=self.ports(settings))

    def provisioning(self) -> MetaApiProvisioning:
        """Build the client of the provisioning side."""
        return MetaApiProvisioning(self.settings, ports=self.ports(self.settings))

    def ports(self, settings: MetaApiSettings) -> RestPorts:
        """Build what the clients need."""

        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        return RestPorts(
            http=self.http,
            retrying=retrying(settings.request_attempts, random=Random(7), sleep=sleep),
            gate=self.governor(settings.requests_per_second),
            clock=self.clock,
            metrics=self.metrics,
        )

    def governor(self, requests_per_second: int) -> Governor:
        """Build the governor of the client, whose waits take no time but move the clock."""

        async def sleep(seconds: float) -> None:
            self.holds.append(seconds)
            self.clock.seconds += seconds
            await asyncio.sleep(0)

        return new_governor(
            settings=self.limits,
            pace=Pace(per_second=requests_per_second, burst=requests_per_second),
            clock=self.clock,
            sleep=sleep,
            metrics=self.metrics,
        )

    def count(self, name: str, **labels: str) -> float:
        """Return a counter's value."""
        return self.metrics.registry.get_sample_value(f"{name}_total", labels) or 0.0


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """Open the real HTTP client, as the node does."""
    async with open_http(SETTINGS) as http:
        yield Rig(http=http)
