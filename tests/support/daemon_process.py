"""A real daemon in a process of its own, for tests to start, stop and kill."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from forked import ForkedProcess

from brokerd.sandbox.server import DEFAULT_TOKEN, Sandbox
from brokerd.sandbox.trading import TradingAccount
from brokerd.sandbox.truth import TruthAccount

KEY = "k" * 32
NO_CREDITS = """
[governor]
user_credits_per_second = 0
user_credits_per_minute = 0
user_credits_per_hour = 0
user_credits_per_six_hours = 0
server_credits_per_second = 0
account_credits_per_ten_seconds = 0
"""
"""For a test that asks for more than MetaApi sells: the sandbox sells without end."""


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Daemon:
    """`brokerd run` against one sandbox and one database; can be started again and again."""

    folder: Path
    sandbox_url: str
    database_url: str
    port: int = field(default_factory=free_port)
    node_name: str = "node-1"
    stream_url: str = ""  # where the stream is, if not with the rest
    extra: str = ""
    environ: dict[str, str] = field(default_factory=dict)
    program: Path | None = None  # brokerd itself
    process: asyncio.subprocess.Process | ForkedProcess | None = None

    @property
    def log(self) -> str:
        """Return everything the daemon wrote."""
        return (self.folder / "daemon.log").read_text()

    def _config(self) -> Path:
        path = self.folder / "brokerd.toml"
        path.write_text(
            f"""
node_name = "{self.node_name}"
[metaapi]
provisioning_url = "{self.sandbox_url}"
client_url = "{self.sandbox_url}"
stream_url = "{self.stream_url or self.sandbox_url}"
requests_per_second = 500
socket_opens_per_second = 20
admissions_per_second = 50
tokens.main = {{env = "TEST_TOKEN"}}
[database]
url = {{env = "TEST_DATABASE_URL"}}
[api]
port = {self.port}
key = {{env = "TEST_KEY"}}
{self.extra}
"""
        )
        return path

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self.process = await self.launch()
        await self.wait_ready()

    async def launch(self) -> asyncio.subprocess.Process | ForkedProcess:
        """Start a process of this configuration."""
        arguments = ("run", "--config", str(self._config()))
        path = self.folder / "daemon.log"
        environ = {
            **os.environ,
            "TEST_TOKEN": DEFAULT_TOKEN,
            "TEST_DATABASE_URL": self.database_url,
            "TEST_KEY": KEY,
            **self.environ,
        }
        if self.program is None:
            return await asyncio.to_thread(
                ForkedProcess, *arguments, output=path, errors=path, environ=environ
            )
        with path.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, str(self.program), *arguments),
                stdout=log,
                stderr=log,
                env=environ,
            )

    async def wait_ready(self) -> None:
        """Wait for /readyz; fails with the log when the process ended."""
        async with self.client() as client:
            for _ in range(150):
                if self.process.returncode is not None:
                    raise AssertionError(self.log)
                try:
                    if (await client.get("/readyz")).status_code == httpx.codes.OK:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)
        raise AssertionError(f"never ready:\n{self.log}")

    def client(self) -> httpx.AsyncClient:
        """Return a client of its control API, as patient as a loaded machine asks for.

        To be closed by the caller.
        """
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=30,
        )

    async def register(self, link_id: str, account: TruthAccount, **spec: object) -> None:
        """Ask for a link to an account of the sandbox."""
        await self._put(link_id, account, account_id=account.metaapi_id, **spec)

    async def create(self, link_id: str, trading: TradingAccount, **spec: object) -> None:
        """Ask for a link to a trading account that MetaApi does not know."""
        await self._put(link_id, trading, account_id=None, **spec)

    async def _put(
        self,
        link_id: str,
        account: TruthAccount | TradingAccount,
        *,
        account_id: str | None,
        **spec: object,
    ) -> None:
        body = {
            "userId": "u-1",
            "desired": "live",
            "priority": "normal",
            "metaapi": {
                "token": "main",
                "accountId": account_id,
                "region": account.spec.region,
            },
            "identity": {
                "platform": account.platform,
                "login": account.login,
                "server": account.server.name,
                "currency": account.spec.currency,
            },
        }
        async with self.client() as client:
            answer = await client.put(f"/v1/links/{link_id}", json={"spec": {**body, **spec}})
        assert answer.is_success, answer.text

    async def submit(self, link_id: str, password: str) -> httpx.Response:
        """Submit a password; return the answer, whatever it is."""
        async with self.client() as client:
            return await client.put(f"/v1/links/{link_id}/credentials", json={"password": password})

    async def status(self, link_id: str) -> dict:
        """Return a link's status."""
        async with self.client() as client:
            answer = await client.get(f"/v1/links/{link_id}")
        assert answer.is_success, answer.text
        return answer.json()["status"]

    async def wait_phase(self, link_id: str, phase: str, *, limit_seconds: float = 20) -> None:
        """Wait until a link is in a phase."""
        for _ in range(int(limit_seconds / 0.2)):
            if (await self.status(link_id))["phase"] == phase:
                return
            await asyncio.sleep(0.2)
        raise AssertionError(f"{link_id} never {phase}: {await self.status(link_id)}\n{self.log}")

    async def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """Drain it; return its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            return await self.process.wait()


@asynccontextmanager
async def running_daemon(
    folder: Path, sandbox: Sandbox, database_url: str, **options: object
) -> AsyncIterator[Daemon]:
    """Run a daemon for as long as the block lasts; nothing of it survives."""
    options.setdefault("sandbox_url", sandbox.url)
    daemon = Daemon(folder=folder, database_url=database_url, **options)
    try:
        await daemon.start()
        yield daemon
    finally:
        if daemon.process is not None and daemon.process.returncode is None:
            await daemon.kill()
