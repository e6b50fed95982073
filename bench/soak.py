"""Many links under random faults for a long time, to see whether anything grows.

    python bench/soak.py [LINKS] [MINUTES]

The whole daemon; it looks again more often than in production, so that the end can be judged.
Deals are made, and faults of every kind that the demo knows strike all the while, each a tenth of
one region's accounts; every two minutes all sockets are cut. Tasks, open files and resident memory
of the daemon are read every ten seconds; what counts is the last third beside the second one, when
caches are warm. In the end the faults stop, all links are live again, and every ledger is its
broker's.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx
import msgspec
from daemon_rig import Rig, daemon_rig
from reconnect_storm import is_exact

from brokerd.demo.chaos import RECIPES
from brokerd.demo.control import SandboxControl
from brokerd.sandbox.faults import FaultKind

DEALS_PER_MINUTE = 1.0
SAMPLE_SECONDS = 10.0
SETTLE_SECONDS = 240.0
REGIONS = 4
FEW_PART = 10
GUST_SECONDS = 3.0
"""Between two faults, in the mean."""
CUT_SECONDS = 120.0
"""Between two cuts of all sockets."""
LINK = """
[link]
rolling_interval_seconds = 60
removal_recheck_seconds = 20
proof_interval_seconds = 120
proof_retry_seconds = 5
blocked_recheck_seconds = 60
backoff_ceiling_seconds = 30
"""
FLAT_RATIO = 1.10
"""What the last third may be of the second; the faults of each differ a little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the daemon holds at one moment."""

    tasks: int
    files: int
    resident_mb: float
    live: int


def files_of(pid: int) -> int:
    """Count a process's open files."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def sample(ours: Rig) -> Sample:
    """Read what the daemon holds now."""
    text = (await ours.api.get("/metrics")).text
    tasks = next(line for line in text.splitlines() if line.startswith("brokerd_node_tasks "))
    return Sample(
        tasks=int(float(tasks.split()[-1])),
        files=files_of(ours.daemon_pid),
        resident_mb=ours.usage.rss_mb,
        live=await ours.live_links(),
    )


async def storm(control: httpx.AsyncClient, accounts: Sequence[dict], *, seconds: float) -> None:
    """Let faults strike at random until the time is over; then none is on."""
    hand = SandboxControl(control)
    random = Random(1)  # noqa: S311  # a seed
    ends_at = time.monotonic() + seconds
    next_cut_at = time.monotonic() + CUT_SECONDS
    async with asyncio.TaskGroup() as on:
        while time.monotonic() < ends_at:
            on.create_task(gust(hand, random.choice(list(RECIPES)), accounts, random))
            if time.monotonic() >= next_cut_at:
                next_cut_at += CUT_SECONDS
                (await control.post("/control/sockets/drop")).raise_for_status()
            await asyncio.sleep(random.expovariate(1 / GUST_SECONDS))
    await hand.switch_off_all()


async def gust(
    hand: SandboxControl, kind: FaultKind, accounts: Sequence[dict], random: Random
) -> None:
    """Let one fault strike a few accounts of one region, for as long as in a round of the demo."""
    recipe = RECIPES[kind]
    region = random.choice(accounts)["region"]
    near = [account["account_id"] for account in accounts if account["region"] == region]
    few = random.sample(near, k=max(1, len(near) // FEW_PART))
    await hand.switch_on(kind, msgspec.structs.replace(recipe.fault, account_ids=few))
    await asyncio.sleep(recipe.off_seconds - recipe.on_seconds)
    await hand.switch_off(kind)


async def soak(links: int, *, minutes: float) -> tuple[list[Sample], float | None, bool]:
    """Return the samples, the seconds until all were live after the faults, and exactness."""
    async with daemon_rig(max_links=links, more=LINK) as ours:
        accounts = await ours.make_accounts(links, regions=REGIONS)
        await ours.register(accounts)
        await ours.until_live(links, limit_seconds=SETTLE_SECONDS)
        await ours.trade(DEALS_PER_MINUTE)
        faults = asyncio.create_task(storm(ours.control, accounts, seconds=minutes * 60))
        samples = []
        while not faults.done():
            await asyncio.wait({faults}, timeout=SAMPLE_SECONDS)
            samples.append(await sample(ours))
        await faults
        await ours.trade(0)
        settled = await settle(ours, links)
        exact = await is_exact(ours.control, accounts, ours.postgres_url)
    return samples, settled, exact


async def settle(ours: Rig, links: int) -> float | None:
    """Return after how long all links were live and had pulled once more; None if never."""
    began_at = time.monotonic()
    while time.monotonic() - began_at < SETTLE_SECONDS:
        await asyncio.sleep(1)
        if await ours.live_links() == links:
            seconds = time.monotonic() - began_at
            await asyncio.sleep(SETTLE_SECONDS - seconds)  # the next rolling pull of each
            return seconds
    return None


def thirds(values: list[float]) -> tuple[float, float]:
    """Return the medians of the second and of the last third."""
    third = len(values) // 3
    return statistics.median(values[third : 2 * third]), statistics.median(values[2 * third :])


async def main(links: int, *, minutes: float) -> int:
    """Run the soak; return the exit code."""
    samples, settled, exact = await soak(links, minutes=minutes)
    is_flat = True
    for name in ("tasks", "files", "resident_mb"):
        before, after = thirds([float(getattr(each, name)) for each in samples])
        is_flat = is_flat and after <= before * FLAT_RATIO
        print(f"  {name:<14} second third {before:.0f}, last third {after:.0f}")
    live = statistics.median(each.live for each in samples)
    print(f"  links live under faults, in the median   {live:.0f} of {links}")
    print(f"  all live again after                     {settled or 0:.0f} s")
    print(f"  every ledger exact                       {'yes' if exact else 'NO'}")
    return 0 if is_flat and settled is not None and exact else 1


if __name__ == "__main__":
    many, long = (*sys.argv[1:], *("200", "30")[len(sys.argv) - 1 :])
    sys.exit(asyncio.run(main(int(many), minutes=float(long))))
