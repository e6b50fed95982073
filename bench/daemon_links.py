"""The whole daemon with many links in one process: time and CPU to all live, and idle cost.

    python bench/daemon_links.py [LINKS]

PostgreSQL, Valkey, sandbox and daemon are processes of their own, with production's settings but
for the request rate, which is MetaApi's limit and not ours, and the rates of opening. CPU is what
the kernel charged to the daemon's process; memory is its resident set. The plain SDK has nothing
to stand beside this: it keeps no ledger.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg

from brokerd.config.settings import Secret
from brokerd.demo.engines import Engines, engines
from brokerd.store.migrate import upgrade

KEY = "k" * 32
IDLE_SECONDS = 30
LIMIT_SECONDS = 300
MAX_CONNECTIONS = 21  # a pool of 20 and the heartbeat's own
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process has used so far."""

    cpu_seconds: float
    rss_mb: float


def usage_of(pid: int) -> Usage:
    """Read a process's use from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Usage(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / TICK,
        rss_mb=pages * os.sysconf("SC_PAGESIZE") / 2**20,
    )


def connections_of(url: str) -> int:
    """Count the daemon's database connections, as the server sees them."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'brokerd'"
        ).fetchone()
    return row[0]


async def start(
    *arguments: str, event: str, **environ: str
) -> tuple[asyncio.subprocess.Process, dict]:
    """Start a brokerd command; return it and its greeting."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "brokerd", *arguments,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, **environ}, limit=2**20,
    )  # fmt: skip
    while line := await process.stdout.readline():
        said = json.loads(line)
        if said.get("event", "") == event:
            return process, said
    raise SystemExit(f"{arguments[0]} ended before it was ready")


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


async def live_links(api: httpx.AsyncClient) -> int:
    """Count the live links, by the daemon's own metric."""
    for line in (await api.get("/metrics")).text.splitlines():
        if line.startswith('brokerd_links{phase="live"}'):
            return int(float(line.split()[-1]))
    return 0


async def measure(links: int, running: Engines, folder: Path) -> bool:
    """Bring all links up, let them idle, print the figures; say whether the bounds held."""
    sandbox, greeting = await start(
        "sandbox", "--accounts", str(links), "--deals-per-minute", "0", event=""
    )
    daemon, ready = await start(
        "run", "--config", str(config(folder, greeting["url"], links)), event="app.ready",
        BENCH_TOKEN=greeting["token"], BENCH_KEY=KEY, BENCH_DB=running.postgres_url,
        BENCH_REDIS=running.redis_url,
    )  # fmt: skip
    drain = asyncio.create_task(daemon.stdout.read())  # a full pipe would stop the daemon
    async with (
        httpx.AsyncClient(base_url=greeting["url"], timeout=60) as control,
        httpx.AsyncClient(
            base_url=ready["url"], headers={"Authorization": f"Bearer {KEY}"}, timeout=60
        ) as api,
    ):
        accounts = (await control.get("/control/accounts")).json()
        before, began = usage_of(daemon.pid), time.monotonic()
        for number, account in enumerate(accounts):
            answer = await api.put(f"/v1/links/b-{number}", json={"spec": spec_of(account)})
            answer.raise_for_status()
        registered = time.monotonic() - began
        async with asyncio.timeout(LIMIT_SECONDS):
            while await live_links(api) < links:  # noqa: ASYNC110  # another process's state
                await asyncio.sleep(0.25)
        seconds, live = time.monotonic() - began, await live_links(api)
        up = usage_of(daemon.pid)
        most = connections_of(running.postgres_url)
        await control.patch("/control/market", json={"deals_per_account_minute": 1.0})
        idle_from = usage_of(daemon.pid)
        for _ in range(IDLE_SECONDS):
            await asyncio.sleep(1)
            most = max(most, connections_of(running.postgres_url))
        idle = usage_of(daemon.pid)
    print(f"  links live                   {live} of {links}")
    print(f"  registered after             {registered:.1f} s")
    print(f"  all live after               {seconds:.1f} s")
    print(f"  CPU until all live           {up.cpu_seconds - before.cpu_seconds:.1f} s")
    share = (idle.cpu_seconds - idle_from.cpu_seconds) / IDLE_SECONDS
    print(f"  CPU at 1 deal a minute each  {share:.1%} of a core")
    print(f"  memory                       {idle.rss_mb:.0f} MB")
    print(f"  memory per link              {(idle.rss_mb - before.rss_mb) / links * 1024:.0f} KB")
    print(f"  database connections         {most}, allowed {MAX_CONNECTIONS}")
    for process in (daemon, sandbox):
        process.terminate()
        await process.wait()
    await drain
    return live == links and most <= MAX_CONNECTIONS


def config(folder: Path, url: str, links: int) -> Path:
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
socket_opens_per_second = 10
admissions_per_second = 50
tokens.main = {{env = "BENCH_TOKEN"}}
[database]
url = {{env = "BENCH_DB"}}
[redis]
url = {{env = "BENCH_REDIS"}}
[api]
port = 0
key = {{env = "BENCH_KEY"}}
[pool]
max_links = {links}
"""
    )
    return path


async def main(links: int) -> int:
    """Run the bench; return the exit code."""
    async with engines(is_durable=True) as running:
        await upgrade(Secret(running.postgres_url))
        with tempfile.TemporaryDirectory() as folder:
            return 0 if await measure(links, running, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)))
