"""One aiohttp application that is the whole of MetaApi, and the control of it, on one port."""

import asyncio
import json
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import format_datetime
from pathlib import Path
from random import Random

from aiohttp import web

from brokerd.clock import Clock, SystemClock
from brokerd.sandbox.bill import Prices
from brokerd.sandbox.billing import Billing
from brokerd.sandbox.broker_faults import BrokerFaults
from brokerd.sandbox.client_rest import HASHING_IGNORED_FIELDS, ClientRest
from brokerd.sandbox.control import Control
from brokerd.sandbox.control_requests import DropSockets
from brokerd.sandbox.control_service import ServiceControl
from brokerd.sandbox.door import Door
from brokerd.sandbox.eio import EioServer
from brokerd.sandbox.facts import Reliability
from brokerd.sandbox.faults import Faults
from brokerd.sandbox.habits import Past
from brokerd.sandbox.limits import Limits
from brokerd.sandbox.market import Market
from brokerd.sandbox.outages import SocketOutages
from brokerd.sandbox.provisioning import Discovery, Provisioning
from brokerd.sandbox.quotas_rest import QuotasRest
from brokerd.sandbox.rest_gate import Gate
from brokerd.sandbox.rules import ProvisioningRules
from brokerd.sandbox.state import MetaApiState, ServiceSettings
from brokerd.sandbox.stream import StreamService, StreamSettings
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.terminals import Terminals
from brokerd.sandbox.trading import AccountSpec
from brokerd.sandbox.truth import Broker, TruthAccount

DEFAULT_TOKEN = "sandbox.access.token"  # noqa: S105  # opens nothing but a sandbox
"""Shaped like a JWT: the SDK refuses to provision with anything else (metaapi.md 1.3)."""

_TICK_SECONDS = 0.1
_SWEEP_SECONDS = 5.0
_SHUTDOWN_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Files of a TLS certificate and its key; with them the sandbox speaks https and wss."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """What a sandbox is started with; `accounts` are regular ones, on one MT5 server."""

    port: int = 0
    seed: int = 1
    accounts: int = 0
    past: Past = field(default_factory=Past)
    deals_per_account_minute: float = 1.0
    server: ServerSpec = field(default_factory=ServerSpec)
    stream: StreamSettings = field(default_factory=StreamSettings)
    rules: ProvisioningRules = field(default_factory=ProvisioningRules)
    prices: Prices = field(default_factory=Prices)
    limits: Limits = field(default_factory=Limits)
    token: str = field(default=DEFAULT_TOKEN, repr=False)
    certificate: Certificate | None = None


class Sandbox:
    """A MetaApi in this process: the truth, its faults, and the services that show it."""

    def __init__(self, settings: SandboxSettings, *, clock: Clock) -> None:
        random = Random(settings.seed)  # noqa: S311  # reproducible, not secret
        self.settings = settings
        self.url = ""
        self.broker = Broker(clock=clock, random=random)
        self.faults = Faults(random=random)
        service = ServiceSettings(
            token=settings.token,
            rules=settings.rules,
            prices=settings.prices,
            limits=settings.limits,
        )
        self.state = MetaApiState(self.broker, faults=self.faults, settings=service)
        self.market = Market(
            self.broker, random=random, deals_per_account_minute=settings.deals_per_account_minute
        )
        self.stream = StreamService(
            self.state,
            views=Terminals(
                ignored_fields=frozenset(HASHING_IGNORED_FIELDS["g2"]["specification"])
            ),
            settings=settings.stream,
            burst=self._burst,
        )
        self._clock = clock
        self.sockets = EioServer(Door(self.stream, state=self.state), clock=clock)
        self._broker_faults = BrokerFaults(self.broker, faults=self.faults, random=random)
        self._socket_outages = SocketOutages(
            self.stream.registry, state=self.state, drop=self.sockets.drop
        )
        self._server = open_server(self.broker, settings.server)
        for _ in range(settings.accounts):
            self.add_account()

    @property
    def domain(self) -> str:
        """Return what the SDK's `domain` option must be to find a sandbox with TLS (sdk.md 4)."""
        return f"x@{self.url.partition('//')[2]}"

    def add_account(
        self, *, reliability: Reliability = "regular", past: Past | None = None
    ) -> TruthAccount:
        """Open an account on the first server and write its past."""
        account = self.broker.add_account(AccountSpec(server=self._server, reliability=reliability))
        self.market.seed(account, past or self.settings.past)
        return account

    def application(self) -> web.Application:
        """Return the application with every service in it."""
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_route("*", "/ws/", self.sockets.handle)
        gate, discovery = Gate(self.state), Discovery(domain=lambda: self.domain)
        for service in (
            Provisioning(self.state, gate=gate, discovery=discovery),
            QuotasRest(self.state, gate=gate),
            Billing(self.state, gate=gate),
            ClientRest(self.state, gate=gate),
            ServiceControl(self.state, market=self.market),
        ):
            app.add_routes(service.routes())
        control = Control(
            self.broker,
            market=self.market,
            faults=self.faults,
            opened=self.stream.opened,
            drop_sockets=self._cut,
        )
        app.add_routes(control.routes())
        app.on_response_prepare.append(self._date)
        return app

    def tick(self) -> None:
        """Do everything of the stream that is due."""
        self.stream.tick()
        self._socket_outages.tick(self._clock.monotonic())

    async def run(self) -> None:
        """Live until cancelled: trade, beat, fail."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.market.run(), name="sandbox-market")
            group.create_task(self._broker_faults.run(), name="sandbox-broker-faults")
            group.create_task(self._run_stream(), name="sandbox-stream")

    def drop_sockets(self) -> None:
        """Cut every connection, so that the server can close without waiting for them."""
        for socket in self.sockets.sockets:
            self.sockets.drop(socket)

    def _cut(self, wanted: DropSockets) -> int:
        return self._socket_outages.cut(
            account_ids=wanted.account_ids, instance_index=wanted.instance_index
        )

    async def _date(self, _request: web.Request, answer: web.StreamResponse) -> None:
        """Show the service's clock, which may be wrong."""
        now = self.state.conditions.now(self._clock)
        answer.headers["Date"] = format_datetime(now, usegmt=True)

    def _burst(self, account: TruthAccount, deals: int) -> None:
        self.market.trade(account, deals=deals)

    async def _run_stream(self) -> None:
        swept_at = self._clock.monotonic()
        while True:
            self.tick()
            if self._clock.monotonic() - swept_at >= _SWEEP_SECONDS:
                swept_at = self._clock.monotonic()
                self.sockets.sweep()
            await asyncio.sleep(_TICK_SECONDS)


@asynccontextmanager
async def running_sandbox(
    settings: SandboxSettings | None = None, *, clock: Clock | None = None
) -> AsyncIterator[Sandbox]:
    """Serve a sandbox on loopback for as long as the block runs."""
    sandbox = Sandbox(settings or SandboxSettings(), clock=clock or SystemClock())
    runner = web.AppRunner(
        sandbox.application(), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS
    )
    await runner.setup()
    failure: Exception | None = None
    try:
        await _listen(sandbox, runner)
        async with asyncio.TaskGroup() as group:
            life = group.create_task(sandbox.run(), name="sandbox")
            try:
                yield sandbox
            except Exception as error:  # noqa: BLE001  # raised again below, out of the group
                failure = error
            life.cancel()
    finally:
        sandbox.drop_sockets()
        await runner.cleanup()
    if failure is not None:
        raise failure  # as it was: a group would wrap it


async def _listen(sandbox: Sandbox, runner: web.AppRunner) -> None:
    context = None
    certificate = sandbox.settings.certificate
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.cert, certificate.key)
    site = web.TCPSite(runner, "127.0.0.1", sandbox.settings.port, ssl_context=context)
    await site.start()
    scheme = "http" if context is None else "https"
    sandbox.url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"


async def serve(settings: SandboxSettings) -> None:
    """Run a sandbox until SIGTERM or SIGINT; says where it is as one line of JSON when ready."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_sandbox(settings) as sandbox:
        ready = {
            "url": sandbox.url,
            "token": settings.token,
            "accounts": list(sandbox.broker.accounts),
        }
        print(json.dumps(ready), flush=True)  # noqa: T201  # what the caller waits for
        await stop.wait()
