"""Looks at the real MetaApi with a configured token: what `brokerd check-metaapi` does."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random

import httpx
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from brokerd.clock import Clock, SystemClock
from brokerd.config.settings import MetaApiSettings, Settings
from brokerd.connector.governor.fleet import Fleet
from brokerd.connector.governor.governor import Governor, GovernorPorts
from brokerd.connector.governor.pace import Pace
from brokerd.connector.governor.ports import Demand
from brokerd.connector.inspection.inspector import (
    AccountInspector,
    InspectionPorts,
    TokenInspector,
    tried,
)
from brokerd.connector.inspection.proof import BEGINNING, History, prove
from brokerd.connector.inspection.report import Finding, Verdict, is_good
from brokerd.connector.inspection.stream import judged, watch
from brokerd.connector.metaapi_rest.client import MetaApiRest
from brokerd.connector.metaapi_rest.raw import MetaApiRaw
from brokerd.connector.metaapi_rest.retries import retrying
from brokerd.connector.metaapi_rest.transport import RestPorts, open_http
from brokerd.connector.metaapi_stream.parts import StreamPorts
from brokerd.connector.metaapi_stream.stream import MetaApiStream
from brokerd.domain import MetaApiRef
from brokerd.errors import ConfigInvalid
from brokerd.logs import configure_logging
from brokerd.telemetry import Metrics

PATIENCE_SECONDS = 900.0
"""How long one request may wait for credits: a long history costs more than a minute's."""
SHARES = 2
"""We take half of every budget: a fleet may be at work with the same token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """What to look at: the first token, the first account that is up, unless they are named."""

    token: str | None
    account_id: str | None
    with_stream: bool


class OneOfTwo:
    """A `Census` of ourselves and whoever else there is; the accounts are those that we listed."""

    def __init__(self, token: str) -> None:
        self._token = token
        self.deployed = 0

    async def live_nodes(self) -> int:
        """Count us and one other."""
        return SHARES

    async def demands(self) -> Sequence[Demand]:
        """Count what is deployed; in which region does not matter here."""
        many = self.deployed
        return [
            Demand(
                token=self._token, region="", wanted=many, accounts=many, example_account_id=None
            )
        ]


def check_metaapi(settings: Settings, options: CheckOptions) -> int:
    """Look, print what was seen, and return the exit code: 0 when it is all as known."""
    configure_logging(level="error", stream=sys.stderr)
    findings = asyncio.run(_look(settings, options))
    _print(findings)
    return 0 if is_good(findings) else 1


async def _look(settings: Settings, options: CheckOptions) -> Sequence[Finding]:
    tokens = settings.metaapi.tokens
    name = options.token or next(iter(tokens))
    if name not in tokens:
        raise ConfigInvalid([f"metaapi.tokens has no {name!r}; it has {', '.join(sorted(tokens))}"])
    async with open_http(settings.metaapi) as http:
        return await _Check(settings, name, http).run(options)


class _Check:
    """One run: the parts it is made with, and the order of its checks."""

    def __init__(self, settings: Settings, token: str, http: httpx.AsyncClient) -> None:
        self._clock: Clock = SystemClock()
        self._random = Random()  # noqa: S311  # jitter, no secrets
        self._metrics = Metrics(CollectorRegistry())
        self._settings = settings
        self._http = http
        self._census = OneOfTwo(token)
        self._fleet = Fleet(self._census, node_count_seconds=settings.governor.node_count_seconds)
        self._governor = self._build_governor()
        self._rest = RestPorts(
            http=http,
            retrying=retrying(settings.metaapi.request_attempts, random=self._random),
            gate=self._governor,
            clock=self._clock,
            metrics=self._metrics,
        )
        self._ports = InspectionPorts(
            raw=MetaApiRaw(settings.metaapi, ports=self._rest),
            gate=self._governor,
            clock=self._clock,
            settings=settings.governor,
        )
        self._token = TokenInspector(token, ports=self._ports)

    async def run(self, options: CheckOptions) -> Sequence[Finding]:
        """Check the token, then one of its accounts."""
        await self._fleet.prepare()
        findings = [*await self._token.look()]
        remote = self._token.choose(options.account_id)
        if remote is None:
            which = options.account_id or "that is deployed and connected"
            seen = f"the token has no account {which}"
            return [*findings, Finding(check="account", verdict=Verdict.FAILED, seen=seen)]
        self._census.deployed = self._token.deployed
        await self._fleet.prepare()
        account = AccountInspector(remote, deployed=self._token.deployed, ports=self._ports)
        findings += await account.look()
        return [*findings, *await self._prove(remote, with_stream=options.with_stream)]

    async def _prove(self, remote: MetaApiRef, *, with_stream: bool) -> Sequence[Finding]:
        read: list[History] = []

        async def balance() -> Finding:
            rest = MetaApiRest(self._settings.metaapi, ports=self._rest)
            finding, history = await prove(remote, rest=rest, clock=self._clock)
            read.append(history)
            return finding

        async def stream() -> Finding:
            rest = MetaApiRest(self._settings.metaapi, ports=self._rest)
            account = await rest.account(remote)
            async with self._open_stream(self._settings.metaapi) as opened:
                heard = await watch(
                    remote,
                    stream=opened,
                    account=account,
                    since=BEGINNING,
                    clock=self._clock,
                )
            return judged(heard, history=frozenset(read[0].deal_ids) if read else frozenset())

        findings = [await tried("balance proof", balance)]
        if with_stream:
            return [*findings, await tried("stream", stream)]
        skipped = Finding(check="stream", verdict=Verdict.NOT_CHECKED, seen="asked for by --stream")
        return [*findings, skipped]

    @asynccontextmanager
    async def _open_stream(self, settings: MetaApiSettings) -> AsyncIterator[MetaApiStream]:
        stream = MetaApiStream(
            settings,
            overlap_seconds=0.0,
            ports=StreamPorts(
                http=self._http,
                sockets=self._governor,
                clock=self._clock,
                random=self._random,
                metrics=self._metrics,
            ),
        )
        try:
            yield stream
        finally:
            await stream.close()

    def _build_governor(self) -> Governor:
        metaapi = self._settings.metaapi
        return Governor(
            replace(self._settings.governor, longest_wait_seconds=PATIENCE_SECONDS),
            ports=GovernorPorts(
                fleet=self._fleet,
                pot=None,
                pace=Pace(per_second=metaapi.requests_per_second),
                socket_pace=Pace(per_second=metaapi.socket_opens_per_second),
                clock=self._clock,
                sleep=asyncio.sleep,
                metrics=self._metrics,
            ),
        )


def _print(findings: Sequence[Finding]) -> None:
    table = Table("check", "verdict", "seen", "as docs/fidelity.md has it", show_lines=True)
    for each in findings:
        table.add_row(each.check, each.verdict, each.seen, each.known)
    Console(markup=False, highlight=False).print(table)
