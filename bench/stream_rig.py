"""Runs a sandbox and a client to measure, each in its own process."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType

import httpx

HERE = Path(__file__).parent
SANDBOX = """
import asyncio, sys
from brokerd.sandbox.habits import Past
from brokerd.sandbox.server import SandboxSettings, serve
from brokerd.sandbox.stream import StreamSettings
from brokerd.sandbox.symbols import ServerSpec
asyncio.run(serve(SandboxSettings(
    accounts=int(sys.argv[1]),
    past=Past(deals=50, positions=5),
    deals_per_account_minute=0,
    server=ServerSpec(symbols=200),
    stream=StreamSettings(status_seconds=10),
)))
"""
IDLE_SECONDS = 20
DEALS_SECONDS = 20
SETTLE_SECONDS = 2
RESYNCS = 3  # the median counts: one is a quarter of a second, and a shared machine stalls


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a client's process spent on so many accounts."""

    accounts: int
    synchronized: int
    sync_seconds: float
    sync_cpu_ms: float  # per account
    resync_seconds: float  # after all sockets were cut; the median of three
    resync_cpu_ms: float
    deal_cpu_ms: float  # per deal, above idle
    idle_cpu_percent: float
    link_kb: float  # memory per account
    rss_growth_mb: float
    tasks: int


class Sandbox:
    """A sandbox process."""

    def __init__(self, url: str, accounts: list[str]) -> None:
        self.url = url
        self.accounts = accounts

    def cut(self) -> None:
        """Cut every socket, once the client had time to look."""
        time.sleep(0.5)
        httpx.post(f"{self.url}/control/sockets/drop", json={}).raise_for_status()

    def ignore_hashes(self) -> None:
        """Send specifications at each synchronization, as a service that knows no hashes."""
        httpx.put(f"{self.url}/control/faults/ignore_hashes", json={}).raise_for_status()

    def trade(self, deals_per_account_minute: float) -> None:
        """Set the rate of all accounts."""
        body = {"deals_per_account_minute": deals_per_account_minute}
        httpx.patch(f"{self.url}/control/market", json=body).raise_for_status()


@contextmanager
def sandbox(accounts: int) -> Iterator[Sandbox]:
    """Run a sandbox with so many accounts: 200 symbols, 5 positions and 50 deals each."""
    with _process([sys.executable, "-c", SANDBOX, str(accounts)]) as process:
        ready = json.loads(_line(process))
        yield Sandbox(ready["url"], ready["accounts"])


def measure(kind: str, server: Sandbox, *, rate: float, has_canary: bool = True) -> Cost:
    """Open all accounts in a fresh process; then idle, then deals at `rate` per account-minute.

    In between all sockets are cut three times, and everyone synchronizes again. Without a canary
    ours is sent the specifications each time.
    """
    script = str(HERE / "stream_clients.py")
    command = [sys.executable, script, kind, server.url, *server.accounts]
    environ = {} if has_canary else {"CANARY_LINKS": str(len(server.accounts) + 1)}
    with (
        tempfile.TemporaryDirectory() as folder,
        _process(command, cwd=folder, environ=environ) as process,
    ):
        opened = json.loads(_line(process))
        _ask(process, SETTLE_SECONDS)
        resyncs = []
        for _ in range(RESYNCS):
            resyncs.append(_ask(process, "resync", meanwhile=server.cut))
            _ask(process, SETTLE_SECONDS)
        idle = _ask(process, IDLE_SECONDS)
        server.trade(rate)
        trading = _ask(process, DEALS_SECONDS)
        server.trade(0)
    accounts = len(server.accounts)
    resynced = sorted(resyncs, key=itemgetter("cpu_seconds"))[RESYNCS // 2]
    above_idle = trading["cpu_seconds"] - idle["cpu_seconds"] * DEALS_SECONDS / IDLE_SECONDS
    return Cost(
        accounts=accounts,
        synchronized=opened["synchronized"],
        sync_seconds=opened["seconds"],
        sync_cpu_ms=1000 * opened["cpu_seconds"] / accounts,
        resync_seconds=resynced["seconds"],
        resync_cpu_ms=1000 * resynced["cpu_seconds"] / accounts,
        deal_cpu_ms=1000 * above_idle / max(1, trading["deals"]),
        idle_cpu_percent=100 * idle["cpu_seconds"] / IDLE_SECONDS,
        link_kb=trading["rss_growth_bytes"] / 1024 / accounts,
        rss_growth_mb=trading["rss_growth_bytes"] / 1024**2,
        tasks=int(opened["tasks"]),
    )


def _ask(
    process: "subprocess.Popen[str]",
    order: float | str,
    *,
    meanwhile: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    assert process.stdin is not None
    process.stdin.write(f"{order}\n")
    process.stdin.flush()
    meanwhile()
    report: dict[str, float] = json.loads(_line(process))
    return report


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args!r} ended with {process.wait()}")
    return line


@contextmanager
def _process(
    command: list[str], *, cwd: str | None = None, environ: Mapping[str, str] = MappingProxyType({})
) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **environ},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
