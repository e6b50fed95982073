"""All sockets of many links are cut at once: how fast all are live again, beside the plain SDK.

    python bench/reconnect_storm.py [LINKS]

Ours is the whole daemon: a link is live again when its account was verified, its history pulled
and its stream synchronized. The plain SDK, with its defaults, only synchronizes. Ours has its
accounts in ten regions, each with sockets of its own, because it is the daemon whose opens are
counted: never more a second than `socket_opens_per_second`. Deals are made all the while; in the
end each ledger holds every deal of its broker, once.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from contextlib import closing

import httpx
import psycopg
import stream_rig as rig
from daemon_rig import daemon_rig

REGIONS = 10
OPENS_PER_SECOND = 2
LIMIT_SECONDS = 240
DEALS_PER_MINUTE = 6.0
SAMPLE_SECONDS = 0.1

LIVE_AGAIN = """
SELECT max(extract(epoch FROM at)::float8) FILTER (WHERE phase = 'live') - %(cut)s
FROM brokerd.link_transitions WHERE extract(epoch FROM at) > %(cut)s
GROUP BY account_id HAVING (array_agg(phase ORDER BY at DESC))[1] = 'live'
"""


async def socket_opens(api: httpx.AsyncClient) -> int:
    """Read how many sockets the daemon has tried to open."""
    for line in (await api.get("/metrics")).text.splitlines():
        if line.startswith("brokerd_stream_socket_opens_total "):
            return int(float(line.split()[-1]))
    return 0


def live_again(url: str, cut_at: float) -> list[float]:
    """Return after how many seconds each link that is live now became so, after the cut."""
    with closing(psycopg.connect(url)) as connection:
        rows = connection.execute(LIVE_AGAIN, {"cut": cut_at}).fetchall()
    return [seconds for (seconds,) in rows if seconds is not None]


async def is_exact(control: httpx.AsyncClient, accounts: list[dict], url: str) -> bool:
    """Compare every ledger with its broker, and what was told with what happened."""
    truth = set()
    for number, account in enumerate(accounts):
        answer = await control.get(f"/control/accounts/{account['account_id']}/truth")
        truth |= {(f"b-{number}", deal["deal_id"]) for deal in answer.json()["deals"]}
    with closing(psycopg.connect(url)) as connection:
        held = connection.execute(
            "SELECT link_id, deal_id FROM brokerd.deals JOIN brokerd.accounts USING (account_id)"
            " WHERE removed_at IS NULL"
        ).fetchall()
        told = connection.execute(
            "SELECT account_id, deal_id, revision FROM brokerd.events WHERE deal_id IS NOT NULL"
        ).fetchall()
    return set(held) == truth and len(held) == len(truth) and len(told) == len(set(told))


async def measure_ours(links: int) -> tuple[list[float], int, bool]:
    """Return when each link was live again, the most sockets opened in a second, exactness."""
    async with daemon_rig(max_links=links, opens_per_second=OPENS_PER_SECOND) as ours:
        accounts = await ours.make_accounts(links, regions=REGIONS)
        await ours.register(accounts)
        await ours.until_live(links, limit_seconds=LIMIT_SECONDS)
        await ours.trade(DEALS_PER_MINUTE)
        await asyncio.sleep(5)
        opens = [(time.monotonic(), await socket_opens(ours.api))]
        cut_at = time.time()
        (await ours.control.post("/control/sockets/drop")).raise_for_status()
        seconds: list[float] = []
        while len(seconds) < links and time.time() - cut_at < LIMIT_SECONDS:
            await asyncio.sleep(SAMPLE_SECONDS)
            opens.append((time.monotonic(), await socket_opens(ours.api)))
            seconds = live_again(ours.postgres_url, cut_at)
        await ours.trade(0)
        await asyncio.sleep(5)
        exact = await is_exact(ours.control, accounts, ours.postgres_url)
    return seconds, most_in_a_second(opens), exact


def most_in_a_second(opens: list[tuple[float, int]]) -> int:
    """Return the largest rise within a second, of a counter that was read again and again."""
    return max(
        after - before
        for began, before in opens
        for read, after in opens
        if began <= read <= began + 1
    )


def measure_plain(links: int) -> dict[str, float]:
    """Return how long the plain SDK takes to synchronize all accounts once more."""
    with rig.sandbox(links) as server, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(rig.HERE / "stream_clients.py"), "plain", server.url]
        with rig._process([*command, *server.accounts], cwd=folder) as process:
            rig._line(process)
            server.trade(DEALS_PER_MINUTE)
            time.sleep(5)
            assert process.stdin is not None
            process.stdin.write("resync\n")
            process.stdin.flush()
            httpx.post(f"{server.url}/control/sockets/drop").raise_for_status()
            report: dict[str, float] = json.loads(rig._line(process))
    return report


async def main(links: int) -> int:
    """Run the bench; return the exit code."""
    seconds, most, exact = await measure_ours(links)
    plain = await asyncio.to_thread(measure_plain, links)
    print(f"  links live again             {len(seconds)} of {links}")
    print(f"  the last one after           {max(seconds, default=0):.1f} s")
    print(f"  the median one after         {statistics.median(seconds or [0]):.1f} s")
    print(f"  most sockets in a second     {most}, allowed {OPENS_PER_SECOND}")
    print(f"  every ledger exact           {'yes' if exact else 'NO'}")
    print(f"  plain SDK: synchronized      {plain['synchronized']:.0f} of {links}")
    print(f"  plain SDK: the last after    {plain['seconds']:.1f} s")
    print(f"  ratio to the plain SDK       {max(seconds, default=0) / plain['seconds']:.2f}")
    return 0 if len(seconds) == links and most <= OPENS_PER_SECOND and exact else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)))
