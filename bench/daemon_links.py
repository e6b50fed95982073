"""The whole daemon with many links in one process: time and CPU to all live, and idle cost.

    python bench/daemon_links.py [LINKS]

The plain SDK has nothing to stand beside this: it keeps no ledger.
"""

import asyncio
import sys
import time

import psycopg
from daemon_rig import Rig, daemon_rig

IDLE_SECONDS = 30
LIMIT_SECONDS = 300
MAX_CONNECTIONS = 21  # a pool of 20 and the heartbeat's own


def connections_of(url: str) -> int:
    """Count the daemon's database connections, as the server sees them."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'brokerd'"
        ).fetchone()
    return row[0]


async def measure(links: int, rig: Rig) -> bool:
    """Bring all links up, let them idle, print the figures; say whether the bounds held."""
    accounts = await rig.accounts()
    before, began = rig.usage, time.monotonic()
    await rig.register(accounts)
    registered = time.monotonic() - began
    await rig.until_live(links, limit_seconds=LIMIT_SECONDS)
    seconds, live = time.monotonic() - began, await rig.live_links()
    up = rig.usage
    most = connections_of(rig.postgres_url)
    await rig.trade(1.0)
    idle_from = rig.usage
    for _ in range(IDLE_SECONDS):
        await asyncio.sleep(1)
        most = max(most, connections_of(rig.postgres_url))
    idle = rig.usage
    print(f"  links live                   {live} of {links}")
    print(f"  registered after             {registered:.1f} s")
    print(f"  all live after               {seconds:.1f} s")
    print(f"  CPU until all live           {up.cpu_seconds - before.cpu_seconds:.1f} s")
    share = (idle.cpu_seconds - idle_from.cpu_seconds) / IDLE_SECONDS
    print(f"  CPU at 1 deal a minute each  {share:.1%} of a core")
    print(f"  memory                       {idle.rss_mb:.0f} MB")
    print(f"  memory per link              {(idle.rss_mb - before.rss_mb) / links * 1024:.0f} KB")
    print(f"  database connections         {most}, allowed {MAX_CONNECTIONS}")
    return live == links and most <= MAX_CONNECTIONS


async def main(links: int) -> int:
    """Run the bench; return the exit code."""
    async with daemon_rig(max_links=links, accounts=links) as rig:
        return 0 if await measure(links, rig) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)))
