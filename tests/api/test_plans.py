"""Every page the API reads comes from the index made for it, at a million deals.

What an adapter really sends is caught on its way to the driver and explained with the very same
parameters, so that a plan which depends on how they are bound cannot hide. One test with one
load: the ledger takes some ten seconds to fill, and workers share nothing.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pytest
import sqlalchemy as sa
from large_ledger import LargeLedger
from prometheus_client import CollectorRegistry

from brokerd.api.ports import DealQuery, TotalsQuery
from brokerd.api.postgres import PostgresRegistry
from brokerd.api.postgres_deals import PostgresDealReader
from brokerd.api.postgres_totals import PostgresTotalsReader
from brokerd.api.query import PAGE_DEALS
from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, QueueSettings, Secret
from brokerd.domain import AccountId, DealId, LinkId, UserId
from brokerd.store.engine import Database, open_database
from brokerd.telemetry import Metrics

MIDDLE = datetime(2026, 1, 16, tzinfo=UTC)
KEY = (MIDDLE, DealId("5"), AccountId(1))
BY_ACCOUNT, BY_USER, BY_SYMBOL = (
    "account_id_time_deal_id_idx",
    "user_id_time_deal_id_idx",
    "user_id_symbol_time_deal_id_idx",
)
LARGE, SMALL = "00000", "00042"
PAGE = 100
MERGED = 16 * 32  # each partition starts with a batch of the incremental sort


@dataclass(frozen=True, kw_only=True)
class Case:
    """A page, the index that must serve it, and how many deals it may look at."""

    index: str
    rows: int
    ask: Callable[[Database], Awaitable[Sequence[object]]]


def deals_page(index, *, rows=2 * PAGE + MERGED, **query):
    """Describe a page of deals."""
    bare = {"link_id": None, "user_id": None, "symbol": None, "kind": None, "start": None}
    asked = DealQuery(
        **{**bare, "end": None, "is_newest_first": True, "limit": PAGE, "after": None, **query}
    )
    return Case(index=index, rows=rows, ask=lambda db: PostgresDealReader(db).deals(asked))


def totals_page(*, rows, **query):
    """Describe a page of totals."""
    bare = {"link_id": None, "user_id": None, "start": None, "end": None, "after": None}
    asked = TotalsQuery(**{**bare, "limit": 14, "max_deals": PAGE_DEALS, **query})
    return Case(index=BY_ACCOUNT, rows=rows, ask=lambda db: PostgresTotalsReader(db).totals(asked))


def links_page(index, **query):
    """Describe a page of links."""
    asked = {"user_id": None, "after": None, "limit": PAGE, **query}

    def ask(database):
        registry = PostgresRegistry(database, settings=QueueSettings(), clock=SystemClock())
        return registry.page(**asked)

    return Case(index=index, rows=50 * PAGE, ask=ask)


def cases() -> Iterator[tuple[str, Case]]:
    """Name every kind of page, of a large and of a small account, from the ends and the middle."""
    for number in (LARGE, SMALL):
        link, user = {"link_id": LinkId(f"link-{number}")}, {"user_id": UserId(f"user-{number}")}
        for newest in (True, False):
            name = f"{number} {'newest' if newest else 'oldest'}"
            order = {"is_newest_first": newest}
            yield f"{name} link", deals_page(BY_ACCOUNT, **link, **order)
            yield f"{name} user", deals_page(BY_USER, **user, **order)
            yield f"{name} link behind", deals_page(BY_ACCOUNT, **link, **order, after=KEY)
            yield f"{name} user behind", deals_page(BY_USER, **user, **order, after=KEY)
            for symbol in ("S7", "RARE", "NONE"):
                of_symbol = {**user, **order, "symbol": symbol}
                yield f"{name} user {symbol}", deals_page(BY_SYMBOL, **of_symbol)
                yield f"{name} user {symbol} behind", deals_page(BY_SYMBOL, **of_symbol, after=KEY)
            # few of a symbol: the way over the account's deals would read them all
            for symbol in ("NONE",) if number == SMALL else ("RARE", "NONE"):
                of_symbol = {**link, **order, "symbol": symbol}
                yield f"{name} link {symbol}", deals_page(BY_SYMBOL, **of_symbol)
            yield f"{name} link trades", deals_page(BY_ACCOUNT, **link, **order, kind="trade")
            day = {"start": MIDDLE, "end": MIDDLE + timedelta(days=1)}
            yield f"{name} link day", deals_page(BY_ACCOUNT, **link, **order, **day)
            yield f"{name} user day", deals_page(BY_USER, **user, **order, **day)
    for newest in (True, False):
        order = {"is_newest_first": newest, "kind": "cash"}
        link, user = {"link_id": LinkId("link-00000")}, {"user_id": UserId("user-00000")}
        yield f"{newest} link cash", deals_page("account_id_time_deal_id_idx1", **link, **order)
        yield f"{newest} user cash", deals_page("user_id_time_deal_id_idx1", **user, **order)
    after = {"after": (AccountId(1), date(2026, 1, 15))}
    of_days = PAGE_DEALS + 3_400 + 14  # a page of 14 such days ends with the fourth
    yield "totals link", totals_page(rows=of_days, link_id=LinkId("link-00000"))
    yield "totals link behind", totals_page(rows=of_days, link_id=LinkId("link-00000"), **after)
    yield "totals user", totals_page(rows=of_days, user_id=UserId("user-00000"))
    yield "totals user behind", totals_page(rows=of_days, user_id=UserId("user-00000"), **after)
    yield "totals small user", totals_page(rows=100, user_id=UserId("user-00042"))
    yield "links", links_page("accounts_link_id_any")
    yield "links behind", links_page("accounts_link_id_any", after=LinkId("link-02500"))
    yield "links of a user", links_page("accounts_user_id", user_id=UserId("user-00042"))


@pytest.fixture
def million_url(database_url: str) -> str:
    """Give a database with a million deals."""
    LargeLedger(deals=1_000_000).load(database_url)
    return database_url


async def plans(database, ask):
    """Do it, then explain every statement that it sent."""
    sent = []

    def note(_connection, _cursor, statement, parameters, *_):
        sent.append((statement, parameters))

    engine = database._transactional.sync_engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        await ask(database)
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    found = []
    async with database.statement() as connection:
        for statement, parameters in sent:
            explained = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}"
            answer = await connection.exec_driver_sql(explained, parameters)
            found.append(answer.scalar_one()[0]["Plan"])
    return found


def executed(node):
    """Walk through the parts of a plan that were run."""
    if node["Actual Loops"]:
        yield node
        for child in node.get("Plans", ()):
            yield from executed(child)


def judged(case, found):
    """Say what is wrong with the plans of a case."""
    nodes = [node for plan in found for node in executed(plan)]
    used = {node["Index Name"] for node in nodes if "Index Name" in node}
    scanned = {
        node["Relation Name"]
        for node in nodes
        if node["Node Type"] == "Seq Scan" and node["Relation Name"].startswith("deals")
    }
    looked_at = sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes
        if node.get("Relation Name", "").startswith("deals_")
    )
    return [
        *([] if any(name.endswith(case.index) for name in used) else [f"used {sorted(used)}"]),
        *([f"scanned {sorted(scanned)}"] if scanned else []),
        *([f"looked at {looked_at} deals"] if looked_at > case.rows else []),
    ]


async def test_every_page_is_served_by_its_index_at_a_million_deals(million_url: str) -> None:
    """Each kind of page uses the index made for it and reads hardly more than it shows."""
    settings = DatabaseSettings(url=Secret(million_url))
    async with open_database(settings, metrics=Metrics(CollectorRegistry())) as database:
        problems = {name: judged(case, await plans(database, case.ask)) for name, case in cases()}
    assert len(problems) > 50
    assert {name: found for name, found in problems.items() if found} == {}
