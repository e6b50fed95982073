"""What each page of the API takes of Postgres at a million deals, adapters and rows included.

Pages are asked one after another over one connection. One in ten is of the accounts that hold a
tenth of all deals each; cursors and days are anywhere in the month. Beside the time that a page
took stands the work it was, the processor's time here and in Postgres: on a machine that does
nothing else they are the same, and on a shared one each kind of page is held to its work.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from prometheus_client import CollectorRegistry

from brokerd.api.ports import DealQuery, TotalsQuery
from brokerd.api.postgres import PostgresRegistry
from brokerd.api.postgres_deals import PostgresDealReader
from brokerd.api.postgres_totals import PostgresTotalsReader
from brokerd.api.query import DEFAULT_DAYS, PAGE_DEALS
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


@dataclass(frozen=True, slots=True)
class Taken:
    """What one page took, in milliseconds: by the clock, and of both processors' time."""

    clock: float
    work: float


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
            TotalsQuery(
                **{**bare, "limit": DEFAULT_DAYS, "max_deals": PAGE_DEALS, **owner, **query}
            )
        )

    async def links(self, **query: object) -> object:
        """Read a page of links."""
        return await self._links.page(**{"user_id": None, "after": None, "limit": PAGE, **query})


async def measure(pages: Pages, *, turns: int, backend_pid: int) -> Mapping[str, Sequence[Taken]]:
    """Ask for all kinds in turns; the backend is the one that answers."""
    schedule = Path(f"/proc/{backend_pid}/schedstat")

    def worked() -> float:
        return time.process_time() + int(schedule.read_text().split()[0]) / 1e9

    taken: dict[str, list[Taken]] = {name: [] for name in pages.kinds()}
    for _ in range(turns):
        for name, ask in pages.kinds().items():
            started, worked_before = time.perf_counter(), worked()
            await ask()
            clock, work = time.perf_counter() - started, worked() - worked_before
            taken[name].append(Taken(clock * 1_000, work * 1_000))
    return taken


def p99(sample: Sequence[float]) -> float:
    """Return what 99 of 100 stayed below."""
    return statistics.quantiles(sample, n=100)[98]


def line(name: str, taken: Sequence[Taken]) -> str:
    """Write a row of the table."""
    figures = []
    for sample in ([each.clock for each in taken], [each.work for each in taken]):
        figures += [statistics.mean(sample), statistics.median(sample), p99(sample)]
    return f"{name:26}" + "".join(f"{figure:9.1f}" for figure in figures)


def misses(taken: Mapping[str, Sequence[Taken]]) -> Iterator[str]:
    """Name what misses the aim: all pages by the clock, each kind by its work."""
    everything = [each.clock for kind in taken.values() for each in kind]
    work = {name: [each.work for each in kind] for name, kind in taken.items()}
    for name, sample in {"all": everything, **work}.items():
        if statistics.mean(sample) >= AIM_MEAN or p99(sample) >= AIM_P99:
            yield name


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
            async with database.statement() as connection:
                answer = await connection.exec_driver_sql("SELECT pg_backend_pid()")
                backend_pid = answer.scalar_one()
            pages = Pages(database, random=Random(arguments.seed))  # noqa: S311  # a seed
            taken = await measure(pages, turns=arguments.turns, backend_pid=backend_pid)
    print(f"{'milliseconds':26}{'mean':>9}{'p50':>9}{'p99':>9}{'work':>9}{'p50':>9}{'p99':>9}")
    for name, each in taken.items():
        print(line(name, each))
    print(line("all", [each for kind in taken.values() for each in kind]))
    missed = list(misses(taken))
    verdict = f"missed: {', '.join(missed)}" if missed else "met"
    print(f"aim: mean < {AIM_MEAN:.0f}, p99 < {AIM_P99:.0f}: {verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
