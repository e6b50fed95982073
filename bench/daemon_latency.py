"""From a trade at the broker to the commit and to subscribers, through the whole daemon.

    python bench/daemon_latency.py [--links 200] [--deals-per-second 500] [--seconds 20]

The sandbox trades on all accounts at once; its stream carries the deals to one daemon, which
commits them and tells its own event streams: one of each user, and a few of everything. The
broker's record, PostgreSQL's commit and the subscriber's receipt are timed by one clock.
All four processes share the machine's cores.
"""

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime

import psycopg
from daemon_rig import KEY, Rig, daemon_rig
from sse_client import event_stream

WATCHERS = 3  # streams of everything
LIMIT_SECONDS = 300
SETTLE_SECONDS = 30
AIM_P99_MS = 1_000.0

Key = tuple[str, str]
"""A link and one of its deals."""

_COMMITTED = """
SELECT a.link_id, d.deal_id, extract(epoch FROM d.committed_at)::float8
FROM brokerd.deals d JOIN brokerd.accounts a USING (account_id)
"""


class Subscriber:
    """One event stream: when each deal came, how many came twice, and of whom none should."""

    def __init__(self, user: str | None) -> None:
        self._user = user
        self.came: dict[Key, float] = {}
        self.doubled = 0
        self.strangers = 0

    async def run(self, port: int, is_open: asyncio.Semaphore) -> None:
        """Read until cancelled."""
        query = "type=deal.added&after=latest" + (f"&user={self._user}" if self._user else "")
        with suppress(asyncio.CancelledError):
            async with event_stream(port, query, is_open=is_open, key=KEY) as events:
                async for data in events:
                    now, event = time.time(), json.loads(data)
                    key = (event["linkId"], event["dealId"])
                    self.doubled += key in self.came
                    self.strangers += self._user not in {None, event["userId"]}
                    self.came.setdefault(key, now)


async def booked(rig: Rig, accounts: Sequence[dict]) -> dict[Key, float]:
    """Return when the broker booked each deal."""
    times: dict[Key, float] = {}
    for number, account in enumerate(accounts):
        truth = await rig.control.get(f"/control/accounts/{account['account_id']}/truth")
        for deal in truth.json()["deals"]:
            at = datetime.fromisoformat(deal["booked_at"]).timestamp()
            times[f"b-{number}", deal["deal_id"]] = at
    return times


def committed(url: str) -> dict[Key, float]:
    """Return when PostgreSQL committed each deal."""
    with psycopg.connect(url) as connection:
        return {(row[0], row[1]): row[2] for row in connection.execute(_COMMITTED)}


def line(name: str, booked_at: Mapping[Key, float], came_at: Mapping[Key, float]) -> float:
    """Print how long after the booking deals came; return the p99."""
    took = sorted(1_000 * (came_at[key] - at) for key, at in booked_at.items() if key in came_at)
    p50, p99 = took[len(took) // 2], took[int(0.99 * (len(took) - 1))]
    print(f"  {name:34}{len(took):8} of {len(booked_at):<8}{p50:8.0f}{p99:8.0f}{took[-1]:8.0f}")
    return p99


async def trade(rig: Rig, *, per_minute: float, seconds: float) -> float:
    """Let all accounts trade for so long; return the daemon's CPU seconds."""
    before = rig.usage.cpu_seconds
    await rig.trade(per_minute)
    await asyncio.sleep(seconds)
    await rig.trade(0)
    return rig.usage.cpu_seconds - before


async def until_told(
    subscribers: Sequence[Subscriber], booked_at: Mapping[Key, float], *, per_deal: int
) -> None:
    """Wait until every subscriber was told, or it takes too long."""
    for _ in range(SETTLE_SECONDS * 10):
        if sum(len(each.came) for each in subscribers) >= per_deal * len(booked_at):
            return
        await asyncio.sleep(0.1)


async def measure(rig: Rig, accounts: Sequence[dict], options: argparse.Namespace) -> bool:
    """Subscribe, trade, print; say whether nothing was lost and the aim was met."""
    port = rig.api.base_url.port
    own = [Subscriber(f"u-{account['login']}") for account in accounts]
    watchers = [Subscriber(None) for _ in range(WATCHERS)]
    is_open = asyncio.Semaphore(20)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each.run(port, is_open)) for each in (*own, *watchers)]
        await asyncio.sleep(3)
        known = await booked(rig, accounts)
        per_minute = options.deals_per_second * 60 / len(accounts)
        cpu_seconds = await trade(rig, per_minute=per_minute, seconds=options.seconds)
        booked_at = {
            key: at for key, at in (await booked(rig, accounts)).items() if key not in known
        }
        await until_told([*own, *watchers], booked_at, per_deal=1 + WATCHERS)
        for task in tasks:
            task.cancel()
    print(f"{len(accounts)} links, {len(booked_at) / options.seconds:.0f} deals/s")
    print(f"  {'milliseconds':34}{'deals':>8}{'':12}{'p50':>8}{'p99':>8}{'max':>8}")
    came = {key: at for each in own for key, at in each.came.items()}
    line("trade to commit", booked_at, committed(rig.postgres_url))
    p99 = line("trade to its user's stream", booked_at, came)
    for watcher in watchers:
        p99 = max(p99, line("trade to a stream of everything", booked_at, watcher.came))
    share = cpu_seconds / options.seconds
    print(f"  daemon: {share:.2f} cores, {rig.usage.rss_mb:.0f} MB")
    streams = (*own, *watchers)
    wrong = sum(each.doubled + each.strangers for each in streams)
    lost = sum(len(booked_at.keys() - seen.keys()) for seen in (came, *(w.came for w in watchers)))
    print(f"  {lost} events lost, {wrong} doubled or another user's")
    is_met = p99 <= AIM_P99_MS
    print(f"  aim: p99 to subscribers <= {AIM_P99_MS:.0f} ms: {'met' if is_met else 'missed'}")
    return is_met and not lost and not wrong


async def main() -> int:
    """Run the bench; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--links", type=int, default=200)
    parser.add_argument("--deals-per-second", type=float, default=500)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    async with daemon_rig(max_links=options.links, accounts=options.links) as rig:
        accounts = await rig.accounts()
        await rig.register(accounts)
        await rig.until_live(options.links, limit_seconds=LIMIT_SECONDS)
        return 0 if await measure(rig, accounts, options) else 1


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sys.exit(asyncio.run(main()))
