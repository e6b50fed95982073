"""The daemon as systemd and operators meet it: signals, notifications, sudden death."""

import asyncio
import socket
import sys
import time
from contextlib import closing

import httpx
import psycopg
import pytest
from daemon_process import KEY, Daemon, running_daemon

from brokerd.sandbox.habits import Past
from brokerd.sandbox.server import DEFAULT_TOKEN, SandboxSettings, running_sandbox

pytestmark = pytest.mark.e2e


def ledger_of(database_url: str, link_id: str) -> dict[str, tuple]:
    """Read a link's deals as they stand in Postgres, by id."""
    with closing(psycopg.connect(database_url)) as connection:
        rows = connection.execute(
            "SELECT d.deal_id, d.type, d.entry, d.symbol, d.volume, d.price, d.time, d.profit,"
            " d.commission, d.swap FROM brokerd.deals d JOIN brokerd.accounts a USING (account_id)"
            " WHERE a.link_id = %s AND d.removed_at IS NULL",
            [link_id],
        ).fetchall()
    return {row[0]: row[1:] for row in rows}


def truth_of(account) -> dict[str, tuple]:
    """Return the broker's deals in the same form."""
    return {
        d.deal_id: (
            d.type, d.entry, d.symbol, d.volume, d.price, d.time, d.profit, d.commission, d.swap,
        )
        for d in account.deals()
    }  # fmt: skip


def events_of(database_url: str) -> list[tuple]:
    """Return (account, deal, revision) of every event that tells of a deal."""
    with closing(psycopg.connect(database_url)) as connection:
        return connection.execute(
            "SELECT account_id, deal_id, revision FROM brokerd.events WHERE deal_id IS NOT NULL"
        ).fetchall()


async def wait_equal(database_url: str, accounts, *, limit_seconds: float = 20) -> None:
    """Wait until the ledger of every account equals the broker's truth."""
    for _ in range(int(limit_seconds / 0.1)):
        if all(ledger_of(database_url, f"l-{i}") == truth_of(a) for i, a in enumerate(accounts)):
            return
        await asyncio.sleep(0.1)
    for i, account in enumerate(accounts):
        assert ledger_of(database_url, f"l-{i}") == truth_of(account)


async def test_killed_in_the_middle_of_a_busy_sync_it_loses_and_doubles_nothing(
    tmp_path, database_url
):
    """SIGKILL while histories are pulled and deals stream, again and again: ledger = truth."""
    settings = SandboxSettings(
        accounts=4, past=Past(deals=3_000, days=30), deals_per_account_minute=120
    )
    async with (
        running_sandbox(settings) as sandbox,
        running_daemon(tmp_path, sandbox, database_url) as daemon,
    ):
        accounts = list(sandbox.broker.accounts.values())
        for i, account in enumerate(accounts):
            await daemon.register(f"l-{i}", account)
        seen = []
        for delay_seconds in (0.3, 0.4, 0.6, 1.0):
            await asyncio.sleep(delay_seconds)
            await daemon.kill()
            seen.append(sum(len(ledger_of(database_url, f"l-{i}")) for i in range(4)))
            await daemon.start()
        assert 0 < seen[0] < 4 * 3_000, f"the first kill missed the sync: {seen}"
        for i in range(4):
            await daemon.wait_phase(f"l-{i}", "live")
        sandbox.market.freeze()
        await wait_equal(database_url, accounts)
        told = events_of(database_url)
        assert len(told) == len(set(told))
        assert await daemon.stop() == 0


async def test_sigterm_drains_and_loses_nothing(tmp_path, database_url):
    """SIGTERM while deals stream: exit 0, leases released, and the next start completes it."""
    settings = SandboxSettings(accounts=3, deals_per_account_minute=600)
    async with (
        running_sandbox(settings) as sandbox,
        running_daemon(tmp_path, sandbox, database_url) as daemon,
    ):
        accounts = list(sandbox.broker.accounts.values())
        for i, account in enumerate(accounts):
            await daemon.register(f"l-{i}", account)
        for i in range(3):
            await daemon.wait_phase(f"l-{i}", "live")
        await asyncio.sleep(1)
        assert await daemon.stop() == 0
        with closing(psycopg.connect(database_url)) as connection:
            held = connection.execute(
                "SELECT count(*) FROM brokerd.leases WHERE owner IS NOT NULL"
            ).fetchone()
            open_nodes = connection.execute(
                "SELECT count(*) FROM brokerd.nodes WHERE closed_at IS NULL"
            ).fetchone()
        assert (held, open_nodes) == ((0,), (0,))
        sandbox.market.freeze()
        await daemon.start()
        await wait_equal(database_url, accounts)


async def test_systemd_hears_ready_watchdog_and_stopping(tmp_path, database_url):
    """A notify socket sees READY after the first plan, WATCHDOG at work, STOPPING at the end."""
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.setblocking(False)
        async with (
            running_sandbox(SandboxSettings(accounts=1)) as sandbox,
            running_daemon(
                tmp_path,
                sandbox,
                database_url,
                environ={"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "1000000"},
            ) as daemon,
        ):
            await asyncio.sleep(2)
            assert await daemon.stop() == 0
        heard = []
        while True:
            try:
                heard.append(listener.recv(4096).decode())
            except BlockingIOError:
                break
    assert heard.count("READY=1") == 1
    assert heard.count("STOPPING=1") == 1
    beats = [i for i, message in enumerate(heard) if message == "WATCHDOG=1"]
    assert len(beats) >= 2
    assert heard.index("READY=1") < beats[-1] < heard.index("STOPPING=1") + 3
    assert '"event": "app.ready"' in daemon.log


async def test_no_secret_reaches_the_log(tmp_path, database_url):
    """Token, API key and the database's password are nowhere in what the daemon prints."""
    async with (
        running_sandbox(SandboxSettings(accounts=1)) as sandbox,
        running_daemon(tmp_path, sandbox, database_url, extra='[log]\nlevel = "debug"\n') as daemon,
    ):
        account = next(iter(sandbox.broker.accounts.values()))
        await daemon.register("l-0", account)
        await daemon.wait_phase("l-0", "live")
        sandbox.drop_sockets()
        await asyncio.sleep(2)
        assert await daemon.stop() == 0
    password = psycopg.conninfo.conninfo_to_dict(database_url)["password"]
    for secret in (DEFAULT_TOKEN, KEY, password):
        assert secret not in daemon.log
    assert "link.transitioned" in daemon.log


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE brokerd.alembic_version SET version_num = '0001'", "run `brokerd migrate`"),
        ("DROP SCHEMA brokerd CASCADE", "run `brokerd migrate`"),
        ("UPDATE brokerd.alembic_version SET version_num = '9999'", "install the newer one"),
    ],
    ids=["older", "none", "newer"],
)
async def test_a_schema_that_is_not_ours_is_refused_at_the_start(
    tmp_path, database_url, change, says
):
    """Exit 78, which systemd does not restart, with what to do; nothing is changed or opened."""
    with closing(psycopg.connect(database_url, autocommit=True)) as connection:
        connection.execute(change)
    tables = "SELECT oid, relname FROM pg_class WHERE relname !~ '^pg_' ORDER BY 1"
    async with running_sandbox(SandboxSettings(accounts=1)) as sandbox:
        daemon = Daemon(folder=tmp_path, sandbox_url=sandbox.url, database_url=database_url)
        with closing(psycopg.connect(database_url, autocommit=True)) as connection:
            before = connection.execute(tables).fetchall()
            began_at = time.monotonic()
            process = await daemon.launch()
            assert await process.wait() == 78
            seconds = time.monotonic() - began_at
            assert connection.execute(tables).fetchall() == before
        assert not sandbox.stream.opened
    sys.stdout.write(f"refused after {seconds:.1f} s\n")
    assert says in daemon.log
    with pytest.raises(httpx.ConnectError):
        async with daemon.client() as client:
            await client.get("/livez")


async def test_a_second_start_by_mistake_does_not_disturb_the_first(tmp_path, database_url):
    """The same configuration started twice: the second exits 78, the first keeps its lease."""
    async with (
        running_sandbox(SandboxSettings(accounts=1)) as sandbox,
        running_daemon(tmp_path, sandbox, database_url) as daemon,
    ):
        await daemon.register("l-0", next(iter(sandbox.broker.accounts.values())))
        await daemon.wait_phase("l-0", "live")
        epoch = (await daemon.status("l-0"))["leaseEpoch"]
        second = await daemon.launch()
        assert await second.wait() == 78
        assert "api.port: cannot listen" in daemon.log
        await asyncio.sleep(4)  # a heartbeat, which a closed incarnation would not survive
        assert daemon.process.returncode is None
        assert (await daemon.status("l-0"))["leaseEpoch"] == epoch
