"""A month of history of many accounts, pulled into an empty ledger and proven, by one daemon.

    python bench/history_pull.py [--accounts 200] [--deals 1000]

Beside it, in the same run and on the same server: the plain loop that a web worker would write, one
account after another, each page's deals inserted row by row with SQLAlchemy, proving nothing. It
gets a fiftieth of the accounts. Nothing is traded meanwhile, so each balance can be proven at once.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import psycopg
import sqlalchemy as sa
from daemon_rig import Rig, Usage, daemon_rig
from sqlalchemy.ext.asyncio import create_async_engine

DAYS = 30
PAGE = 1_000
LIMIT_SECONDS = 900
SAMPLE_SECONDS = 0.25
AIM_RATIO = 3.0
AIM_GROWTH_MB = 40.0
"""Memory from when a tenth is stored until all is: a history must not stay in it."""

_STATE = """
SELECT (SELECT count(*) FROM brokerd.deals),
  (SELECT count(*) FROM brokerd.links WHERE proof = 'proven')
"""
_PLAIN = sa.Table(
    "plain_deals",
    sa.MetaData(),
    sa.Column("account_id", sa.Text, primary_key=True),
    sa.Column("deal_id", sa.Text, primary_key=True),
    sa.Column("time", sa.Text),
    sa.Column("profit", sa.Numeric(28, 8)),
    sa.Column("raw", sa.JSON),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """How far the daemon was, and what it had used."""

    seconds: float
    deals: int
    proven: int
    usage: Usage


async def pull(rig: Rig, accounts: Sequence[dict]) -> list[Sample]:
    """Register all accounts and watch until every one is proven."""
    began, samples = time.monotonic(), []
    async with (
        await psycopg.AsyncConnection.connect(rig.postgres_url, autocommit=True) as connection,
        asyncio.timeout(LIMIT_SECONDS),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(rig.register(accounts))
        while not samples or samples[-1].proven < len(accounts):
            row = await (await connection.execute(_STATE)).fetchone()
            samples.append(
                Sample(
                    seconds=time.monotonic() - began, deals=row[0], proven=row[1], usage=rig.usage
                )
            )
            await asyncio.sleep(SAMPLE_SECONDS)
    return samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """What the plain loop did, and what that took."""

    deals: int
    seconds: float
    cpu_seconds: float


async def plain_loop(rig: Rig, accounts: Sequence[dict]) -> Loop:
    """Read each account's history and insert it row by row."""
    engine = create_async_engine(
        "postgresql+psycopg://",
        async_creator=lambda: psycopg.AsyncConnection.connect(rig.postgres_url),
    )
    async with engine.begin() as connection:
        await connection.run_sync(_PLAIN.create)
    began, cpu_before, stored = time.monotonic(), time.process_time(), 0
    headers = {"auth-token": rig.token}
    async with httpx.AsyncClient(
        base_url=rig.control.base_url, headers=headers, timeout=60
    ) as client:
        for account in accounts:
            path = f"/users/current/accounts/{account['account_id']}/history-deals/time"
            span, offset, is_whole = "2000-01-01T00:00:00.000Z/2100-01-01T00:00:00.000Z", 0, False
            while not is_whole:
                parameters = {"offset": offset, "limit": PAGE}
                answer = await client.get(f"{path}/{span}", params=parameters)
                answer.raise_for_status()
                deals = answer.json()
                for deal in deals:
                    async with engine.begin() as connection:
                        await connection.execute(sa.insert(_PLAIN).values(_plain(account, deal)))
                stored += len(deals)
                offset, is_whole = offset + PAGE, len(deals) < PAGE
    await engine.dispose()
    return Loop(
        deals=stored,
        seconds=time.monotonic() - began,
        cpu_seconds=time.process_time() - cpu_before,
    )


def _plain(account: dict, deal: dict) -> dict[str, object]:
    return {
        "account_id": account["account_id"],
        "deal_id": deal["id"],
        "time": deal["time"],
        "profit": deal["profit"],
        "raw": deal,
    }


def report(samples: Sequence[Sample], plain: Loop) -> bool:
    """Print the figures; say whether the aims are met."""
    first, last = samples[0], samples[-1]
    stored_at = next(each.seconds for each in samples if each.deals == last.deals)
    memory = [
        next(each.usage.rss_mb for each in samples if each.deals >= last.deals * part)
        for part in (0.1, 0.25, 0.5, 0.75, 1.0)
    ]
    peak = max(each.usage.rss_mb for each in samples)
    cpu = last.usage.cpu_seconds - first.usage.cpu_seconds
    cpu_us, plain_us = 1e6 * cpu / last.deals, 1e6 * plain.cpu_seconds / plain.deals
    rate, plain_rate = last.deals / last.seconds, plain.deals / plain.seconds
    print(f"  all stored after        {stored_at:.1f} s")
    print(f"  all proven after        {last.seconds:.1f} s: {rate:.0f} deals/s")
    print(f"  CPU                     {cpu:.1f} s: {cpu_us:.0f} us a deal")
    print(f"  memory at the start     {first.usage.rss_mb:.0f} MB")
    print(f"  at 10, 25, 50, 75, 100 %  {', '.join(f'{each:.0f}' for each in memory)} MB")
    print(f"  at most                 {peak:.0f} MB")
    print(f"  the plain loop          {plain_rate:.0f} deals/s, {plain_us:.0f} us a deal")
    ratios = f"{rate / plain_rate:.1f} in speed, {cpu_us / plain_us:.2f} in CPU"
    print(f"  ours to it              {ratios}")
    is_flat = peak - memory[0] <= AIM_GROWTH_MB
    is_fast = rate / plain_rate >= AIM_RATIO
    print(f"  aim: {AIM_RATIO:.0f} times, {AIM_GROWTH_MB:.0f} MB: ", end="")
    print("met" if is_flat and is_fast else "missed")
    return is_flat and is_fast


async def main() -> int:
    """Run the bench; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--deals", type=int, default=1_000)
    arguments = parser.parse_args()
    async with daemon_rig(max_links=arguments.accounts) as rig:
        wanted = {"count": arguments.accounts, "deals": arguments.deals, "days": DAYS}
        (await rig.control.post("/control/accounts", json=wanted)).raise_for_status()
        accounts = await rig.accounts()
        part = accounts[: -(-len(accounts) // 50)]
        plain = await plain_loop(rig, part)
        samples = await pull(rig, accounts)
        deals = sum(account["deals"] for account in accounts)
        assert plain.deals == sum(account["deals"] for account in part)
        print(f"{len(accounts)} accounts, {deals} deals, {samples[-1].deals} in the ledger")
        is_met = report(samples, plain)
        return 0 if is_met and samples[-1].deals == deals else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
