"""What each page of the API takes of Postgres at a million deals, adapters and rows included.

Pages are asked one after another over one connection. One in ten is of the accounts that hold a
tenth of all deals each; cursors and days are anywhere in the month.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from prometheus_client import CollectorRegistry

from brokerd.api.ports import DealQuery, TotalsQuery
from brokerd.api.postgres import PostgresRegistry
from brokerd.api.postgres_deals import PostgresDealReader
from brokerd.api.postgres_totals import PostgresTotalsReader
from brokerd.api.query import DEFAULT_DAYS
from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, QueueSettings, Secret
from brokerd.demo.engines import engines
from brokerd.domain import AccountId, DealId, LinkId, UserId
from brokerd.store.engine import Database, open_database
from brokerd.store.migrate import upgrade
from brokerd.telemetry import Metrics

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from large_ledger import ACCOUNTS, LargeLedger  # the tests' own ledger

START = datetime(2026, 1, 1, tzinfo=UTC)
PAGE = 100
AIM_MEAN, AIM_P99 = 50.0, 100.0

Ask = Callable[[], Awaitable[object]]


class Pages:
    """Pages of random accounts and users."""

    def __init__(self, database: Database, *, random: Random) -> None:
        self._deals = PostgresDealReader(database)
        self._totals = PostgresTotalsReader(database)
        self._links = PostgresRegistry(database, settings=QueueSettings(), clock=SystemClock())
        self._random = random

    def kinds(self) -> Mapping[str, Ask]:
        """Name each kind of page with what asks for one."""
        return {
            "deals of a link": lambda: self.deals(self.link()),
            "deals of a link, behind": lambda: self.deals(self.link(), after=self.key()),
            "deals of a link, cash": lambda: self.deals(self.link(), kind="cash"),
            "deals of a link, symbol": lambda: self.deals(self.link(), symbol=self.symbol()),
            "deals of a link, a day": lambda: self.deals(self.link(), **self.day()),
            "deals of a user": lambda: self.deals(self.user()),
            "deals of a user, oldest": lambda: self.deals(self.user(), is_newest_first=False),
            "deals of a user, behind": lambda: self.deals(self.user(), after=self.key()),
            "deals of a user, cash": lambda: self.deals(self.user(), kind="cash"),
            "deals of a user, symbol": lambda: self.deals(self.user(), symbol=self.symbol()),
            "deals of a user, 1000": lambda: self.deals(self.user(), limit=1_000),
            "totals of a link": lambda: self.totals(self.link()),
            "totals of a user": lambda: self.totals(self.user()),
            "totals of a user, a day": lambda: self.totals(self.user(), **self.day()),
            "links": lambda: self.links(after=LinkId(f"link-{self.number():05}")),
            "links of a user": lambda: self.links(**self.user()),
        }

    def number(self) -> int:
        """Choose an account."""
        is_large = self._random.random() < 0.1  # noqa: PLR2004  # one in ten, as said above
        return self._random.randrange(2) if is_large else self._random.randrange(ACCOUNTS)

    def link(self) -> dict[str, object]:
        """Choose a link."""
        return {"link_id": LinkId(f"link-{self.number():05}")}

    def user(self) -> dict[str, object]:
        """Choose a user."""
        return {"user_id": UserId(f"user-{self.number() // 2 * 2:05}")}

    def symbol(self) -> str:
        """Choose a frequent, a rare or a missing symbol."""
        return self._random.choice(["S1", "S4", "S9", "RARE", "NONE"])

    def key(self) -> tuple[datetime, DealId, AccountId]:
        """Choose where a page before this one may have ended."""
        at = START + timedelta(days=30 * self._random.random())
        return at, DealId("10500000"), AccountId(1)

    def day(self) -> dict[str, object]:
        """Choose a day."""
        start = START + timedelta(days=self._random.randrange(30))
        return {"start": start, "end": start + timedelta(days=1)}

    async def deals(self, owner: dict[str, object], **query: object) -> object:
        """Read a page of deals."""
        names = ("link_id", "user_id", "symbol", "kind", "start", "end", "after")
        bare = {**dict.fromkeys(names), "is_newest_first": True, "limit": PAGE}
        return await self._deals.deals(DealQuery(**{**bare, **owner, **query}))

    async def totals(self, owner: dict[str, object], **query: object) -> object:
        """Read a page of totals."""
        bare = dict.fromkeys(("link_id", "user_id", "start", "end", "after"))
        return await self._totals.totals(
            TotalsQuery(**{**bare, "limit": DEFAULT_DAYS, **owner, **query})
        )

    async def links(self, **query: object) -> object:
        """Read a page of links."""
        return await self._links.page(**{"user_id": None, "after": None, "limit": PAGE, **query})


async def measure(pages: Pages, *, turns: int) -> Mapping[str, Sequence[float]]:
    """Ask for all kinds in turns; return the milliseconds of each."""
    taken: dict[str, list[float]] = {name: [] for name in pages.kinds()}
    for _ in range(turns):
        for name, ask in pages.kinds().items():
            started = time.perf_counter()
            await ask()
            taken[name].append((time.perf_counter() - started) * 1_000)
    return taken


def line(name: str, taken: Sequence[float]) -> str:
    """Write a row of the table."""
    hundredths = statistics.quantiles(taken, n=100)
    figures = (statistics.mean(taken), hundredths[49], hundredths[98], max(taken))
    return f"{name:26}" + "".join(f"{figure:9.1f}" for figure in figures)


async def main() -> int:
    """Load, measure, print; return 1 if the figures over all pages miss the aim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deals", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    async with engines(is_durable=False) as running:
        url = running.postgres_url
        await upgrade(Secret(url))
        started = time.perf_counter()
        LargeLedger(deals=arguments.deals, raw_bytes=350).load(url)
        print(f"{arguments.deals} deals loaded in {time.perf_counter() - started:.0f} s")
        settings = DatabaseSettings(url=Secret(url))
        async with open_database(settings, metrics=Metrics(CollectorRegistry())) as database:
            pages = Pages(database, random=Random(arguments.seed))  # noqa: S311  # a seed
            taken = await measure(pages, turns=arguments.turns)
    print(f"{'milliseconds':26}{'mean':>9}{'p50':>9}{'p99':>9}{'max':>9}")
    for name, each in taken.items():
        print(line(name, each))
    everything = [each for kind in taken.values() for each in kind]
    print(line("all", everything))
    p99 = statistics.quantiles(everything, n=100)[98]
    is_met = statistics.mean(everything) < AIM_MEAN and p99 < AIM_P99
    print(f"aim: mean < {AIM_MEAN:.0f}, p99 < {AIM_P99:.0f}: {'met' if is_met else 'missed'}")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
