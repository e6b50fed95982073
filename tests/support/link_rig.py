"""Daemon and SDK as they are, links that are live, and a network to either side of MetaApi."""

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
from daemon_process import Daemon, running_daemon
from network import Network, network_to

from brokerd.sandbox.accounts import Mix, make_accounts
from brokerd.sandbox.faults import Fault, FaultKind
from brokerd.sandbox.habits import Past
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox
from brokerd.sandbox.stream import StreamSettings
from brokerd.sandbox.truth import TruthAccount

SUSPECT_SECONDS = float(os.environ.get("BROKERD_SUSPECT_SECONDS", "5"))
PROBE_SECONDS = min(4.0, SUSPECT_SECONDS / 2.5)
CONFIG = f"""
[link]
suspect_seconds = {SUSPECT_SECONDS}
probe_seconds = {PROBE_SECONDS}
connect_timeout_seconds = 30
backoff_ceiling_seconds = 10
"""


@dataclass
class Rig:
    """A daemon with live links, the network to its stream, and the one to everything else."""

    daemon: Daemon
    sandbox: Sandbox
    stream: Network
    rest: Network
    database: psycopg.Connection

    @property
    def accounts(self) -> list[TruthAccount]:
        """Return the accounts of the sandbox."""
        return list(self.sandbox.broker.accounts.values())

    def moves(self, *, since: float) -> list[tuple[str, float, str, str]]:
        """Return (link, seconds since, phase, reason) of every change of phase after a moment."""
        rows = self._rows(
            "SELECT link_id, extract(epoch FROM at)::float8, phase, reason"
            " FROM brokerd.link_transitions JOIN brokerd.accounts USING (account_id) ORDER BY at"
        )
        return [(link, at - since, phase, why) for link, at, phase, why in rows if at > since]

    def first(self, phase: str, *, since: float) -> float:
        """Return after how many seconds the last of the links first came into a phase."""
        seconds: dict[str, float] = {}
        for link, at, entered, _ in self.moves(since=since):
            if entered == phase:
                seconds.setdefault(link, at)
        assert len(seconds) == len(self.accounts), self.moves(since=since)
        return max(seconds.values())

    async def until(self, phase: str, *, since: float, within: float) -> float:
        """Wait until every link came into a phase; return the seconds the last one took."""
        for _ in range(int(within * 10)):
            links = {link for link, _, entered, _ in self.moves(since=since) if entered == phase}
            if len(links) == len(self.accounts):
                return self.first(phase, since=since)
            await asyncio.sleep(0.1)
        raise AssertionError(f"not all {phase}: {self.moves(since=since)}\n{self.daemon.log}")

    async def until_live(self, *, since: float, within: float = 30) -> None:
        """Wait until every link's last phase is live, after it changed at all."""
        for _ in range(int(within * 10)):
            last = {link: phase for link, _, phase, _ in self.moves(since=since)}
            if len(last) == len(self.accounts) and set(last.values()) == {"live"}:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"not all live: {self.moves(since=since)}\n{self.daemon.log}")

    def held(self) -> set[str]:
        """Return the deals that the first link's ledger holds."""
        sql = (
            "SELECT deal_id FROM brokerd.deals JOIN brokerd.accounts USING (account_id)"
            " WHERE link_id = 'l-0' AND removed_at IS NULL"
        )
        return {deal_id for (deal_id,) in self._rows(sql)}

    def raw(self, deal_id: str) -> str:
        """Return the record of a deal as it came."""
        [(raw,)] = self._rows("SELECT raw::text FROM brokerd.deals WHERE deal_id = %s", deal_id)
        return raw

    async def metrics(self) -> str:
        """Return the daemon's metrics."""
        async with self.daemon.client() as client:
            return (await client.get("/metrics")).text

    def lose_packets(self, account_id: str, *, limit: int) -> None:
        """Lose the next packets of an account."""
        self.sandbox.faults.switch_on(
            Fault(kind=FaultKind.LOSE_PACKETS, account_ids=frozenset({account_id}), limit=limit)
        )

    async def assert_exact(self) -> None:
        """Freeze trading; every deal of every account is in the ledger once, and told once."""
        self.sandbox.market.freeze()
        truth = {
            (f"l-{i}", deal.deal_id)
            for i, account in enumerate(self.accounts)
            for deal in account.deals()
        }
        for _ in range(300):
            held = self._rows("SELECT link_id, deal_id FROM brokerd.deals JOIN brokerd.accounts"
                              " USING (account_id) WHERE removed_at IS NULL")  # fmt: skip
            if set(held) == truth:
                break
            await asyncio.sleep(0.1)
        assert set(held) == truth
        told = self._rows(
            "SELECT account_id, deal_id, revision FROM brokerd.events WHERE deal_id IS NOT NULL"
        )
        assert len(told) == len(set(told))

    def _rows(self, sql: str, *values: object) -> list[tuple]:
        return self.database.execute(sql, values).fetchall()


@asynccontextmanager
async def running_rig(
    folder, database_url, *, links=3, deals_per_minute=60, regions=(), **daemon_options
):
    """Run it all, with every link live for a while, or two links in each of the regions."""
    settings = SandboxSettings(
        accounts=0 if regions else links,
        past=Past(deals=40, days=10),
        deals_per_account_minute=deals_per_minute,
        stream=StreamSettings(status_seconds=1.0 if SUSPECT_SECONDS < 10 else 5.0),
    )
    with psycopg.connect(database_url, autocommit=True) as database:
        async with (
            running_sandbox(settings) as sandbox,
            network_to(sandbox.url) as stream,
            network_to(sandbox.url) as rest,
            running_daemon(
                folder,
                sandbox,
                database_url,
                sandbox_url=rest.url,
                stream_url=stream.url,
                extra=CONFIG,
                **daemon_options,
            ) as daemon,
        ):
            for region in regions:
                mix = Mix(count=2, region=region, past=settings.past)
                make_accounts(mix, broker=sandbox.broker, market=sandbox.market)
            rig = Rig(daemon, sandbox, stream, rest, database)
            for number, account in enumerate(rig.accounts):
                await daemon.register(f"l-{number}", account)
            await rig.until_live(since=0)
            await asyncio.sleep(2.5 if SUSPECT_SECONDS < 10 else 12)
            yield rig


def told(**figures: float) -> None:
    """Print what was measured."""
    sys.stdout.write(" ".join(f"{name}={value:.2f}" for name, value in figures.items()) + "\n")
