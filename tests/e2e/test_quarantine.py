"""A poison deal over real sockets: the unmodified SDK, REST, Postgres and the control API."""

import asyncio
import sys
from contextlib import closing

import httpx
import psycopg
from daemon_process import running_daemon

from brokerd.sandbox.server import SandboxSettings, running_sandbox

SHORT = """
[link]
rolling_interval_seconds = 2.0
removal_recheck_seconds = 1.0
"""
POISON = [
    {"profit": "NaN"},
    {"profit": '"12.3"'},
    {"symbol": '"EUR\\u0000USD"'},
    {"symbol": '"EUR\\ud800USD"'},
    {"comment": '"' + "x" * 200_000 + '"'},
    {"id": ""},
]


def stored(url, deal_id):
    """Say whether the ledger holds a deal."""
    with closing(psycopg.connect(url)) as connection:
        query = "SELECT count(*) FROM brokerd.deals WHERE deal_id = %s AND removed_at IS NULL"
        return connection.execute(query, [deal_id]).fetchone()[0] == 1


async def until(is_met, *, seconds=30):
    """Wait until something is so; return after how many seconds."""
    for tenths in range(int(seconds / 0.1)):
        if await is_met():
            return tenths / 10
        await asyncio.sleep(0.1)
    raise AssertionError("it never became so")


async def place(control, account, **deal):
    """Let the broker book a deal; return its id."""
    answer = await control.post(f"/control/accounts/{account.metaapi_id}/deals", json=deal)
    assert answer.is_success, answer.text
    return answer.json()["deal_id"]


async def test_poison_deals_stand_aside_and_leave_once_mended(tmp_path, database_url):
    """Streamed and pulled: the link stays live, neighbours commit, mending heals."""
    async with (
        running_sandbox(SandboxSettings(accounts=1)) as sandbox,
        running_daemon(tmp_path, sandbox, database_url, extra=SHORT) as daemon,
        httpx.AsyncClient(base_url=sandbox.url) as control,
        daemon.client() as api,
    ):
        (account,) = sandbox.broker.accounts.values()
        await daemon.register("l-0", account)
        await daemon.wait_phase("l-0", "live")
        bad, good = [], []
        for warp in POISON:
            bad.append(await place(control, account, profit="1.25", warp=warp))
            good.append(await place(control, account, profit="2.50"))
        url = "/v1/links/l-0/quarantine"

        async def listed():
            return (await api.get(url, params={"state": "open"})).json()["items"]

        async def is_all_aside():
            return len(await listed()) == len(bad) and all(stored(database_url, d) for d in good)

        aside_seconds = await until(is_all_aside)
        await asyncio.sleep(3)  # more pulls and the stream's own copies add no rows
        items = await listed()
        assert len(items) == len(bad)
        assert {item["dealId"] for item in items} == {*bad[:-1], None}
        assert not any(stored(database_url, deal_id) for deal_id in bad)
        status = await daemon.status("l-0")
        assert (status["phase"], status["sync"]["openGaps"]) == ("live", len(bad))
        assert status["sync"]["balanceProof"] == "unknown"
        assert len([i for i in items if i["isCut"]]) == 1
        metrics = (await api.get("/metrics")).text
        assert "brokerd_quarantine_size{reason=" in metrics

        for deal_id in bad:
            path = f"/control/accounts/{account.metaapi_id}/deals/{deal_id}"
            assert (await control.patch(path, json={"warp": {}})).is_success

        async def is_healed():
            return [item["dealId"] for item in await listed()] == [None]

        healed_seconds = await until(is_healed)
        assert all(stored(database_url, deal_id) for deal_id in bad)
        (nameless,) = await listed()  # nothing ties it to the deal that now has an id
        answer = await api.post(f"{url}/{nameless['id']}:discard", json={"note": "has an id now"})
        assert answer.status_code == 200, answer.text
        assert (await daemon.status("l-0"))["sync"]["openGaps"] == 0
        assert (await daemon.status("l-0"))["leaseEpoch"] == 1
        assert "NaN" not in daemon.log
        assert '"event": "link.lost"' not in daemon.log
    sys.stdout.write(
        f"{len(POISON)} kinds: aside {aside_seconds} s after the last, stored {healed_seconds} s"
        " after they were mended\n"
    )
