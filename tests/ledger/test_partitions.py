import asyncio
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, Secret
from brokerd.errors import CursorLost, StoreUnavailable
from brokerd.ledger.feed import BEGINNING, EVERYTHING, FeedCursor
from brokerd.ledger.partitions import Day, Partitions, day_name, missing_days, old_days
from brokerd.ledger.postgres_feed import PostgresFeedReader
from brokerd.store.engine import open_database
from brokerd.telemetry import Metrics

TODAY = date(2026, 3, 10)


def days(*offsets, **flags):
    """Name days relative to TODAY."""
    values = {"is_attached": True, "is_leaving": False, **flags}
    return [Day(day=TODAY + timedelta(days=n), **values) for n in offsets]


def test_a_week_ahead_and_yesterday_are_made():
    """A clock that is set back a little still finds room; a table never attached is no room."""
    assert missing_days(days(*range(-1, 8)), today=TODAY) == []
    assert missing_days(days(*range(-1, 7)), today=TODAY) == [TODAY + timedelta(days=7)]
    assert missing_days(days(*range(-1, 8), is_attached=False), today=TODAY)[0] == date(2026, 3, 9)


def test_a_day_is_old_when_its_last_moment_is():
    """With two days of retention, the day before yesterday is still kept."""
    found = old_days(days(-4, -3, -2, 0), today=TODAY, retention_days=2)
    assert [each.day for each in found] == [TODAY - timedelta(days=n) for n in (4, 3)]


def run(url, statement, *values):
    """Run one statement of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def tell(url, *, seq, at):
    """Write one event at a time of our choice."""
    run(
        url,
        "INSERT INTO brokerd.events (account_id, account_seq, link_id, user_id, type, payload,"
        " created_at) VALUES (1, %s, 'l', 'u', 'deal.added', '{}', %s)",
        seq,
        at,
    )


def names(url):
    """Name the tables of days, attached or not."""
    rows = run(
        url,
        "SELECT relname FROM pg_class WHERE relnamespace = 'brokerd'::regnamespace"
        " AND relkind = 'r' AND relname ~ '^events_[0-9]+$' ORDER BY 1",
    )
    return [name for (name,) in rows]


def make_old(url, day):
    """Attach a day of long ago."""
    name = day_name(day)
    run(url, f"CREATE TABLE brokerd.{name} (LIKE brokerd.events INCLUDING ALL)")
    run(
        url,
        f"ALTER TABLE brokerd.events ATTACH PARTITION brokerd.{name}"
        f" FOR VALUES FROM ('{day} 00:00:00+00') TO ('{day + timedelta(days=1)} 00:00:00+00')",
    )
    return name


@pytest.fixture
async def keepers(database_url):
    """Give two nodes' keepers of the same feed."""
    settings = DatabaseSettings(url=Secret(database_url))
    metrics = Metrics(CollectorRegistry())
    async with (
        open_database(settings, metrics=metrics, max_connections=3) as one,
        open_database(settings, metrics=metrics, max_connections=3) as other,
    ):
        yield (
            [
                Partitions(each, retention_days=14, clock=SystemClock(), metrics=metrics)
                for each in (one, other)
            ],
            metrics,
            PostgresFeedReader(one),
        )


async def test_days_are_made_once_by_many_and_dropped_by_one(database_url, keepers):
    """Two nodes tend one feed: a week of room, no old day, and nobody fails."""
    (one, other), metrics, _ = keepers
    today = datetime.now(UTC).date()
    for ahead in (5, 6, 7):
        run(database_url, f"DROP TABLE brokerd.{day_name(today + timedelta(days=ahead))}")
    make_old(database_url, today - timedelta(days=15))
    kept = make_old(database_url, today - timedelta(days=14))
    await asyncio.gather(one.prepare(), other.prepare())
    await asyncio.gather(one.drop_old(), other.drop_old())
    wanted = [day_name(today + timedelta(days=n)) for n in range(-1, 8)]
    assert names(database_url) == [kept, *wanted]
    assert metrics.registry.get_sample_value("brokerd_events_days_ahead") == 7


async def test_a_backup_that_reads_the_feed_holds_up_no_writer(database_url, keepers):
    """A day is made while somebody reads the feed for hours, and writers do not wait."""
    (one, _), _, _ = keepers
    run(database_url, f"DROP TABLE {'brokerd.' + names(database_url)[-1]}")
    with psycopg.connect(database_url) as reading:
        reading.execute("SELECT count(*) FROM brokerd.events")
        async with asyncio.timeout(5):
            await one.prepare()
        tell(database_url, seq=1, at=datetime.now(UTC))
    assert len(names(database_url)) == 9


@pytest.mark.parametrize("is_detached", [False, True], ids=["pending", "left over"])
async def test_what_a_killed_node_left_is_finished(database_url, keepers, is_detached):
    """A day half detached, or detached and not dropped, is gone after the next turn."""
    (one, _), _, _ = keepers
    name = make_old(database_url, datetime.now(UTC).date() - timedelta(days=20))
    detach = f"ALTER TABLE brokerd.events DETACH PARTITION brokerd.{name}"
    if is_detached:
        run(database_url, detach)
    else:
        with psycopg.connect(database_url) as reading:
            reading.execute("SELECT count(*) FROM brokerd.events")
            with psycopg.connect(database_url, autocommit=True) as killed:
                killed.execute("SET statement_timeout = '200ms'")
                with pytest.raises(psycopg.errors.QueryCanceled):
                    killed.execute(f"{detach} CONCURRENTLY")
        pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending"
        assert run(database_url, pending) == [(1,)]
    await one.drop_old()
    assert name not in names(database_url)


async def test_a_cursor_before_what_was_dropped_is_too_old(database_url, keepers):
    """Whoever stood in a dropped day must list again; whoever stood behind it goes on."""
    (one, _), _, reader = keepers
    long_ago = datetime.now(UTC) - timedelta(days=20)
    make_old(database_url, long_ago.date())
    for seq in (1, 2):
        tell(database_url, seq=seq, at=long_ago)
    tell(database_url, seq=3, at=datetime.now(UTC))
    page = await reader.page(BEGINNING, wanted=EVERYTHING, limit=10)
    first, second, third = (event.cursor for event in page.events)
    await one.drop_old()
    with pytest.raises(CursorLost, match="no longer kept"):
        await reader.page(first, wanted=EVERYTHING, limit=10)
    for cursor in (second, BEGINNING):
        page = await reader.page(cursor, wanted=EVERYTHING, limit=10)
        assert [event.cursor for event in page.events] == [third]
    future = FeedCursor(third.generation, third.xid + 1_000_000, 1)
    with pytest.raises(CursorLost, match="history"):
        await reader.page(future, wanted=EVERYTHING, limit=10)


class Away:
    """A database that does not answer."""

    def statement(self):
        """Fail."""
        raise StoreUnavailable("away")

    transaction = statement


class SlowCalendar(SystemClock):
    """A clock whose days pass when told."""

    days = 0

    def now(self):
        """Return the time so many days ahead."""
        return super().now() + timedelta(days=self.days)


async def test_a_human_is_called_while_there_is_still_room(database_url, keepers, monkeypatch):
    """Fewer than two days ahead is an error in the log, once, until there is room again."""
    _, metrics, _ = keepers
    monkeypatch.setattr("brokerd.ledger.partitions._RETRY_SECONDS", 0.01)
    monkeypatch.setattr("brokerd.ledger.partitions._PERIOD_SECONDS", 0.01)
    clock, settings = SlowCalendar(), DatabaseSettings(url=Secret(database_url))
    async with open_database(settings, metrics=metrics, max_connections=2) as database:
        keeper = Partitions(database, retention_days=14, clock=clock, metrics=metrics)
        await keeper.prepare()

        async def told(*, days, store):
            clock.days, keeper._database = days, store
            with capture_logs() as logs:
                task = asyncio.create_task(keeper.run())
                await asyncio.sleep(0.3)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            return [each for each in logs if each["event"] == "feed.days_short"]

        assert await told(days=5, store=Away()) == []
        (entry,) = await told(days=6, store=Away())
        assert (entry["log_level"], entry["days_ahead"]) == ("error", 1)
        assert await told(days=6, store=Away()) == []
        assert await told(days=0, store=database) == []
        assert len(await told(days=9, store=Away())) == 1
