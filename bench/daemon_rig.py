"""PostgreSQL, Valkey, sandbox and daemon as processes of their own, for the benches of the whole.

The daemon runs with production's settings but for the request rate and the credits, which are
MetaApi's limits and not ours, and the rates of opening. CPU is what the kernel charged to its
process; memory is its resident set.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from brokerd.config.settings import Secret
from brokerd.demo.engines import engines
from brokerd.store.migrate import upgrade

KEY = "k" * 32
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process has used so far."""

    cpu_seconds: float
    rss_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """What runs; `control` is the hand on the sandbox, `api` a client of the daemon."""

    control: httpx.AsyncClient
    api: httpx.AsyncClient
    postgres_url: str
    token: str
    daemon_pid: int

    @property
    def usage(self) -> Usage:
        """Return what the daemon has used so far."""
        return usage_of(self.daemon_pid)

    async def accounts(self) -> Sequence[dict]:
        """Return the sandbox's accounts."""
        return (await self.control.get("/control/accounts")).json()

    async def make_accounts(self, count: int, *, regions: int) -> Sequence[dict]:
        """Open so many accounts in so many regions, each of which has sockets of its own."""
        for region in range(regions):
            body = {"count": count // regions, "region": f"region-{region}"}
            (await self.control.post("/control/accounts", json=body)).raise_for_status()
        return await self.accounts()

    async def register(self, accounts: Sequence[dict]) -> None:
        """Ask for a live link to each account."""
        for number, account in enumerate(accounts):
            answer = await self.api.put(f"/v1/links/b-{number}", json={"spec": spec_of(account)})
            answer.raise_for_status()

    async def live_links(self) -> int:
        """Count the live links, by the daemon's own metric."""
        for line in (await self.api.get("/metrics")).text.splitlines():
            if line.startswith('brokerd_links{phase="live"}'):
                return int(float(line.split()[-1]))
        return 0

    async def until_live(self, links: int, *, limit_seconds: float) -> None:
        """Wait until so many links are live."""
        async with asyncio.timeout(limit_seconds):
            while await self.live_links() < links:  # noqa: ASYNC110  # another process's state
                await asyncio.sleep(0.25)

    async def trade(self, deals_per_account_minute: float) -> None:
        """Let all accounts trade at this rate; zero rests."""
        body = {"deals_per_account_minute": deals_per_account_minute}
        (await self.control.patch("/control/market", json=body)).raise_for_status()


def usage_of(pid: int) -> Usage:
    """Read a process's use from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Usage(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / TICK,
        rss_mb=pages * os.sysconf("SC_PAGESIZE") / 2**20,
    )


def spec_of(account: dict) -> dict:
    """Build the spec of a link to a sandbox account."""
    return {
        "userId": f"u-{account['login']}",
        "desired": "live",
        "metaapi": {
            "token": "main",
            "accountId": account["account_id"],
            "region": account["region"],
        },
        "identity": {name: account[name] for name in ("platform", "login", "server", "currency")},
    }


@asynccontextmanager
async def daemon_rig(
    *, max_links: int, accounts: int = 0, opens_per_second: int = 10, more: str = ""
) -> AsyncIterator[Rig]:
    """Run everything, with so many accounts at rest, for as long as the block runs.

    `more` is added to the daemon's configuration.
    """
    async with engines(is_durable=True) as running:
        await upgrade(Secret(running.postgres_url))
        with tempfile.TemporaryDirectory() as folder:
            options = ("--accounts", str(accounts), "--deals-per-minute", "0")
            async with _program("sandbox", *options, event="") as (_, sandbox):
                path = _config(
                    Path(folder), sandbox["url"], max_links, opens_per_second=opens_per_second
                )
                path.write_text(path.read_text() + more)
                environ = {
                    "BENCH_TOKEN": sandbox["token"],
                    "BENCH_KEY": KEY,
                    "BENCH_DB": running.postgres_url,
                    "BENCH_REDIS": running.redis_url,
                }
                command = ("run", "--config", str(path))
                async with (
                    _program(*command, event="app.ready", **environ) as (daemon, ready),
                    httpx.AsyncClient(base_url=sandbox["url"], timeout=60) as control,
                    httpx.AsyncClient(
                        base_url=ready["url"],
                        headers={"Authorization": f"Bearer {KEY}"},
                        timeout=60,
                    ) as api,
                ):
                    yield Rig(
                        control=control,
                        api=api,
                        postgres_url=running.postgres_url,
                        token=sandbox["token"],
                        daemon_pid=daemon.pid,
                    )


@asynccontextmanager
async def _program(
    *arguments: str, event: str, **environ: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict]]:
    """Run a brokerd command; give it and its greeting."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "brokerd", *arguments,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, **environ}, limit=2**20,
    )  # fmt: skip
    try:
        greeting = await _greeting(process, event)
        drain = asyncio.create_task(process.stdout.read())  # a full pipe would stop the program
        yield process, greeting
    finally:
        process.terminate()
        await process.wait()
    await drain


async def _greeting(process: asyncio.subprocess.Process, event: str) -> dict:
    """Read lines until the program says that it is ready."""
    while line := await process.stdout.readline():
        said = json.loads(line)
        if said.get("event", "") == event:
            return said
    raise SystemExit("a program ended before it was ready")


def _config(folder: Path, url: str, links: int, *, opens_per_second: int) -> Path:
    """Write the daemon's configuration."""
    path = folder / "brokerd.toml"
    path.write_text(
        f"""
node_name = "bench"
[metaapi]
provisioning_url = "{url}"
client_url = "{url}"
stream_url = "{url}"
requests_per_second = 1000
socket_opens_per_second = {opens_per_second}
admissions_per_second = 50
tokens.main = {{env = "BENCH_TOKEN"}}
[database]
url = {{env = "BENCH_DB"}}
[redis]
url = {{env = "BENCH_REDIS"}}
[api]
port = 0
key = {{env = "BENCH_KEY"}}
[governor]
user_credits_per_second = 0
user_credits_per_minute = 0
user_credits_per_hour = 0
user_credits_per_six_hours = 0
server_credits_per_second = 0
account_credits_per_ten_seconds = 0
[pool]
max_links = {links}
"""
    )
    return path
