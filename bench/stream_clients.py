"""The clients that the stream benchmarks measure: ours, and the plain SDK, each in its own process.

    python bench/stream_clients.py ours|plain URL ACCOUNT_ID...

Opens every account and says on one line of JSON what that took; then obeys lines on stdin: a number
of seconds to sit and measure. Nothing but the measured client runs in the process.
"""

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from random import Random

import httpcore  # noqa: F401  # what both import at the first request belongs to the baseline
import httpx
import metaapi_cloud_sdk  # noqa: F401  # imported here so that its memory is in the baseline
from metaapi_cloud_sdk import MetaApi, SynchronizationListener
from metaapi_cloud_sdk.metaapi.metatrader_account import MetatraderAccount
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import MetaApiSettings, Secret
from brokerd.connector.governor.pace import Pace
from brokerd.connector.governor.ports import Socket
from brokerd.connector.metaapi_stream.parts import StreamPorts
from brokerd.connector.metaapi_stream.routes import Routes
from brokerd.connector.metaapi_stream.stream import MetaApiStream
from brokerd.connector.ports import DealSeen, RemoteAccount, Session, Synchronized
from brokerd.domain import MetaApiRef, Platform
from brokerd.sandbox.server import DEFAULT_TOKEN
from brokerd.telemetry import Metrics

REGION = "vint-hill"
BEGINNING = datetime(1971, 1, 1, tzinfo=UTC)
DEADLINE_SECONDS = 300
CANARY_LINKS = int(os.environ.get("CANARY_LINKS", "10"))
ADMISSIONS_PER_SECOND = int(os.environ.get("ADMISSIONS_PER_SECOND", "10"))


class Tally:
    """What a client saw."""

    def __init__(self) -> None:
        self.synchronized: set[str] = set()
        self.deals = 0


class PacedSockets:
    """A `SocketGate` that keeps the pace of a node by itself."""

    def __init__(self, settings: MetaApiSettings) -> None:
        self._pace = Pace(per_second=settings.socket_opens_per_second)

    async def socket_turn(self, _socket: Socket) -> None:
        """Wait for the next turn."""
        await self._pace.turn()

    def note_life(self, *, token: str, region: str) -> None:
        """Forget it."""

    def note_subscriptions(self, token: str, allowed: int) -> None:
        """Forget it."""


async def open_ours(url: str, account_ids: Sequence[str], tally: Tally) -> None:
    """Open every account over our adapter, asking for the whole history as the SDK does."""
    settings = MetaApiSettings(
        tokens={"main": Secret(DEFAULT_TOKEN)},
        stream_url=url,
        provisioning_url=url,
        client_url=url,
        canary_links=CANARY_LINKS,
        admissions_per_second=ADMISSIONS_PER_SECOND,
    )
    ports = StreamPorts(
        http=httpx.AsyncClient(),
        sockets=PacedSockets(settings),
        clock=SystemClock(),
        random=Random(1),  # noqa: S311  # jitter
        metrics=Metrics(CollectorRegistry()),
    )
    stream = MetaApiStream(settings, overlap_seconds=60, ports=ports)
    for account_id in account_ids:
        remote = MetaApiRef(token="main", account_id=account_id, region=REGION)  # noqa: S106
        account = RemoteAccount(
            account_id=account_id,
            state="DEPLOYED",
            connection_status="CONNECTED",
            platform=Platform.MT5,
            login="1",
            server="Sandbox-Demo",
            region=REGION,
            reliability="regular",
        )
        session = await stream.open(remote, account=account, synced_through=BEGINNING)
        _tasks.append(asyncio.create_task(read(session, account_id, tally)))


async def read(session: Session, account_id: str, tally: Tally) -> None:
    """Count what a session brings."""
    while True:
        for event in await session.receive():
            if isinstance(event, DealSeen):
                tally.deals += 1
            elif isinstance(event, Synchronized):
                tally.synchronized.add(account_id)


class Counter(SynchronizationListener):
    """The least a program on the plain SDK needs to know of deals."""

    def __init__(self, account_id: str, tally: Tally) -> None:
        super().__init__()
        self._account_id = account_id
        self._tally = tally

    async def on_deal_added(self, instance_index: str, deal: object) -> None:  # noqa: ARG002
        """Count."""
        self._tally.deals += 1

    async def on_deals_synchronized(self, instance_index: str, synchronization_id: str) -> None:  # noqa: ARG002
        """Count."""
        self._tally.synchronized.add(self._account_id)


async def open_plain(url: str, account_ids: Sequence[str], tally: Tally) -> None:
    """Open every account with the SDK's defaults; only the addresses are changed."""
    api = MetaApi(DEFAULT_TOKEN)
    ws = api._metaapi_websocket_client
    ws.set_url(url)
    settings = MetaApiSettings(tokens={}, provisioning_url=url, client_url=url)
    _route(ws._domain_client._http_client, Routes(settings).rewrite)
    of = api.metatrader_account_api
    for account_id in account_ids:
        account = MetatraderAccount(
            {
                "_id": account_id,
                "region": REGION,
                "reliability": "regular",
                "state": "DEPLOYED",
                "server": "Sandbox-Demo",
                "type": "cloud-g2",
            },
            of._metatrader_account_client,
            ws,
            of._connection_registry,
            of._expert_advisor_client,
            of._historical_market_data_client,
            of._application,
        )
        connection = account.get_streaming_connection()
        connection.add_synchronization_listener(Counter(account_id, tally))
        await connection.connect()


def _route(http_client: object, rewrite: Callable[[str], str]) -> None:
    make = http_client._make_request  # type: ignore[attr-defined]

    async def make_request(options: dict[str, object]) -> object:
        return await make({**options, "url": rewrite(str(options["url"]))})

    http_client._make_request = make_request  # type: ignore[attr-defined]


CLIENTS: dict[str, Callable[[str, Sequence[str], Tally], Awaitable[None]]] = {
    "ours": open_ours,
    "plain": open_plain,
}
_tasks: list[asyncio.Task[None]] = []


async def synchronize_again(tally: Tally, accounts: int) -> None:
    """Wait until every account has synchronized once more; its sockets are cut by who asks."""
    tally.synchronized.clear()
    began = time.monotonic()
    while len(tally.synchronized) < accounts:
        if time.monotonic() - began > DEADLINE_SECONDS:
            break
        await asyncio.sleep(0.1)


def rss_bytes() -> int:
    """Return the memory the process holds now."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * resource.getpagesize()


async def main(kind: str, url: str, account_ids: Sequence[str]) -> None:
    """Open, report, obey."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the plain SDK prints
    tally = Tally()
    before_bytes, cpu, began = rss_bytes(), time.process_time(), time.monotonic()
    await CLIENTS[kind](url, account_ids, tally)
    while len(tally.synchronized) < len(account_ids):
        if time.monotonic() - began > DEADLINE_SECONDS:
            break
        await asyncio.sleep(0.1)
    report = {
        "synchronized": len(tally.synchronized),
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu,
        "deals": tally.deals,
        "rss_growth_bytes": rss_bytes() - before_bytes,
        "tasks": len(asyncio.all_tasks()),
    }
    print(json.dumps(report), file=out)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        deals, cpu, began = tally.deals, time.process_time(), time.monotonic()
        if line == "resync\n":
            await synchronize_again(tally, len(account_ids))
        else:
            await asyncio.sleep(float(line))
        report = {
            "seconds": time.monotonic() - began,
            "synchronized": len(tally.synchronized),
            "cpu_seconds": time.process_time() - cpu,
            "deals": tally.deals - deals,
            "rss_growth_bytes": rss_bytes() - before_bytes,
        }
        print(json.dumps(report), file=out)
    os._exit(0)  # the plain SDK cannot be closed (sdk.md B9)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
