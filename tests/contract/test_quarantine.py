"""The quarantine keeps the same promises in memory and in Postgres."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from brokerd.api.memory import MemoryRegistry
from brokerd.api.memory_quarantine import MemoryQuarantineReader
from brokerd.api.ports import QuarantineReader, Registry
from brokerd.api.postgres import PostgresRegistry
from brokerd.api.postgres_quarantine import PostgresQuarantineReader, QuarantineSize
from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, QueueSettings, Secret
from brokerd.connector.poison import MAX_RAW_BYTES, bad_record
from brokerd.domain import (
    BadReason,
    Claim,
    Desired,
    Identity,
    Incarnation,
    LinkId,
    LinkSpec,
    MetaApiRef,
    Platform,
    Priority,
    QuarantineState,
    Source,
    UserId,
)
from brokerd.errors import Fenced
from brokerd.ledger.memory import MemoryLedgerStore
from brokerd.ledger.ports import LedgerStore
from brokerd.ledger.postgres import PostgresLedgerStore
from brokerd.pool.memory_nodes import MemoryNodes
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.queue.memory import MemoryQueue
from brokerd.queue.postgres import PostgresQueue
from brokerd.store.engine import Database, open_database
from brokerd.store.memory import MemoryState
from brokerd.telemetry import Metrics

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOSTILE = (
    b'{"id":"7","time":"2026-03-02T12:00:00Z","symbol":"\x1b[2J\0\xff<script>alert(1)</script>'
    b"'; DROP TABLE brokerd.deals; --\"}"
)
numbers = itertools.count(1)


@dataclass
class Rig:
    """The owner's side, the operator's side, and the way to a lease."""

    ledger: LedgerStore
    reader: QuarantineReader
    registry: Registry
    nodes: object
    queue: object
    database: Database | None = None

    async def claim(self) -> Claim:
        """Register a link that no test used before, and claim it."""
        number = next(numbers)
        spec = LinkSpec(
            user_id=UserId("u"),
            desired=Desired.LIVE,
            priority=Priority.NORMAL,
            metaapi=MetaApiRef(token="main", account_id=f"a-{number}", region="x"),
            identity=Identity(
                platform=Platform.MT5, login=f"9{number}", server="Q", currency="USD"
            ),
        )
        await self.registry.put(LinkId(f"q-{number}"), spec, if_match=None, must_be_new=True)
        node: Incarnation = await self.nodes.register(f"q{number}", max_links=1)
        claims = await self.queue.claim(node, limit=1_000)
        return next(claim for claim in claims if claim.link_id == f"q-{number}")


@pytest.fixture(params=["memory", "postgres"])
def rig_url(request: pytest.FixtureRequest) -> str | None:
    """Name the database, if it is to be one."""
    return None if request.param == "memory" else request.getfixturevalue("database_url")


@pytest.fixture
async def rig(rig_url: str | None) -> AsyncIterator[Rig]:
    """Give each implementation in turn."""
    clock, queue = SystemClock(), QueueSettings()
    if rig_url is None:
        state = MemoryState(clock=clock)
        yield Rig(
            ledger=MemoryLedgerStore(state),
            reader=MemoryQuarantineReader(state),
            registry=MemoryRegistry(state, settings=queue),
            nodes=MemoryNodes(state),
            queue=MemoryQueue(state),
        )
        return
    metrics = Metrics(CollectorRegistry())
    settings = DatabaseSettings(url=Secret(rig_url))
    async with open_database(settings, metrics=metrics, max_connections=4) as database:
        yield Rig(
            ledger=PostgresLedgerStore(database),
            reader=PostgresQuarantineReader(database),
            registry=PostgresRegistry(database, settings=queue, clock=clock),
            nodes=PostgresNodes(database, heartbeats=database),
            queue=PostgresQueue(database),
            database=database,
        )


def bad(record: bytes = HOSTILE, reason: BadReason = BadReason.TEXT):
    """Make a bad record."""
    return bad_record(record, reason=reason, problem="it \x1b[31m is\nbad")


async def test_what_no_text_can_hold_is_kept_escaped(rig: Rig) -> None:
    """NUL, bytes that are no UTF-8, controls, markup and SQL come back as harmless text."""
    claim = await rig.claim()
    assert await rig.ledger.quarantine.keep(claim.fence, [bad()], source=Source.PULL)
    (shown,) = await rig.reader.page(claim.link_id, state=None, after=0, limit=9)
    assert "\\u0000" in shown.record.raw
    assert "\\xff" in shown.record.raw
    assert "DROP TABLE" in shown.record.raw
    assert shown.record.problem.isprintable()
    assert shown.record == bad()
    assert (shown.state, shown.times, shown.source) == (QuarantineState.OPEN, 1, Source.PULL)


async def test_ten_megabytes_are_kept_bounded(rig: Rig) -> None:
    """The size is told, the beginning is kept, and the cut is admitted."""
    claim = await rig.claim()
    huge = b'{"id":"7","comment":"' + "я".encode() * 5_000_000 + b'"}'
    await rig.ledger.quarantine.keep(claim.fence, [bad(huge, BadReason.SIZE)], source=Source.PULL)
    (shown,) = await rig.reader.page(claim.link_id, state=None, after=0, limit=9)
    assert len(shown.record.raw.encode()) <= MAX_RAW_BYTES
    assert (shown.record.raw_bytes, shown.record.is_cut) == (len(huge), True)


async def test_the_same_record_is_one_row(rig: Rig) -> None:
    """However often a pull sees it; another content is another row; so is another account."""
    claim, other = await rig.claim(), await rig.claim()
    keep = rig.ledger.quarantine.keep
    assert await keep(claim.fence, [bad()], source=Source.PULL) == (bad().digest,)
    assert await keep(claim.fence, [bad()], source=Source.PULL) == ()
    fresh = await keep(claim.fence, [bad(), bad(b"{}")], source=Source.STREAM)
    assert fresh == (bad(b"{}").digest,)
    assert await keep(other.fence, [bad()], source=Source.PULL) == (bad().digest,)
    rows = await rig.reader.page(claim.link_id, state=None, after=0, limit=9)
    assert [row.times for row in rows] == [3, 1]
    assert rows[0].first_seen_at < rows[0].last_seen_at


async def test_a_fenced_owner_keeps_and_closes_nothing(rig: Rig) -> None:
    """A zombie's records are not taken: the lease is another's."""
    claim = await rig.claim()
    zombie = replace(claim.fence, epoch=claim.fence.epoch - 1)
    await rig.ledger.quarantine.keep(claim.fence, [bad()], source=Source.PULL)
    (record,) = await rig.ledger.quarantine.open_records(claim.fence.account_id)
    with pytest.raises(Fenced):
        await rig.ledger.quarantine.keep(zombie, [bad(b"{}")], source=Source.PULL)
    with pytest.raises(Fenced):
        await rig.ledger.quarantine.close(zombie, [record.quarantine_id])
    assert len(await rig.ledger.quarantine.open_records(claim.fence.account_id)) == 1


async def test_the_owner_closes_what_healed_and_only_its_own(rig: Rig) -> None:
    """A closed record is in the ledger; seen bad again it is open again."""
    claim, other = await rig.claim(), await rig.claim()
    quarantine = rig.ledger.quarantine
    for each in (claim, other):
        await quarantine.keep(each.fence, [bad()], source=Source.PULL)
    (mine,) = await quarantine.open_records(claim.fence.account_id)
    (theirs,) = await quarantine.open_records(other.fence.account_id)
    assert mine.deal_id == "7"  # told though its JSON is broken
    await quarantine.close(claim.fence, [mine.quarantine_id, theirs.quarantine_id])
    assert await quarantine.open_records(claim.fence.account_id) == []
    assert len(await quarantine.open_records(other.fence.account_id)) == 1
    (shown,) = await rig.reader.page(
        claim.link_id, state=QuarantineState.REPLAYED, after=0, limit=9
    )
    assert shown.closed_at is not None
    await quarantine.keep(claim.fence, [bad()], source=Source.PULL)
    (again,) = await rig.reader.page(claim.link_id, state=QuarantineState.OPEN, after=0, limit=9)
    assert (again.quarantine_id, again.closed_at) == (mine.quarantine_id, None)


async def test_an_operators_word_outlasts_the_next_pull(rig: Rig) -> None:
    """A discarded record seen again stays discarded, with its note, and is not counted."""
    claim = await rig.claim()
    quarantine, reader = rig.ledger.quarantine, rig.reader
    await quarantine.keep(claim.fence, [bad()], source=Source.PULL)
    totals = await rig.ledger.totals(claim.fence.account_id)
    assert totals.quarantined == 1
    assert (await rig.registry.get(claim.link_id)).open_gaps == 1
    (record,) = await quarantine.open_records(claim.fence.account_id)
    discarded = await reader.discard(claim.link_id, record.quarantine_id, note="a test's")
    assert (discarded.state, discarded.note) == (QuarantineState.DISCARDED, "a test's")
    assert await reader.discard(claim.link_id, record.quarantine_id, note="again") is None
    assert await reader.ask_replay(claim.link_id, record.quarantine_id) is None
    await quarantine.keep(claim.fence, [bad()], source=Source.PULL)
    await quarantine.close(claim.fence, [record.quarantine_id])  # of a pull that began before
    after = await reader.read(claim.link_id, record.quarantine_id)
    assert (after.state, after.note, after.times) == (QuarantineState.DISCARDED, "a test's", 2)
    assert (await rig.ledger.totals(claim.fence.account_id)).quarantined == 0
    assert (await rig.registry.get(claim.link_id)).open_gaps == 0


async def test_a_replay_hands_the_raw_record_to_the_owner(rig: Rig) -> None:
    """Only then, for it may be large."""
    claim = await rig.claim()
    quarantine = rig.ledger.quarantine
    record = bad(b'{"id":"8","time":"2026-03-02T12:00:00Z"}', BadReason.MALFORMED)
    await quarantine.keep(claim.fence, [record], source=Source.PULL)
    (before,) = await quarantine.open_records(claim.fence.account_id)
    assert (before.deal_id, before.raw) == ("8", None)
    asked = await rig.reader.ask_replay(claim.link_id, before.quarantine_id)
    assert asked.replay_asked_at is not None
    (after,) = await quarantine.open_records(claim.fence.account_id)
    assert after.raw == record.raw


async def test_pages_follow_each_other_and_unknown_links_have_none(rig: Rig) -> None:
    """Keyset pages in the order of first sight; a record belongs to its link alone."""
    claim, other = await rig.claim(), await rig.claim()
    records = [bad(f'{{"id":{number}}}'.encode()) for number in range(5)]
    await rig.ledger.quarantine.keep(claim.fence, records, source=Source.PULL)
    first = await rig.reader.page(claim.link_id, state=None, after=0, limit=3)
    rest = await rig.reader.page(claim.link_id, state=None, after=first[-1].quarantine_id, limit=3)
    assert [each.record.deal_id for each in (*first, *rest)] == ["0", "1", "2", "3", "4"]
    assert await rig.reader.page(other.link_id, state=None, after=0, limit=3) == []
    assert await rig.reader.page(LinkId("nobody"), state=None, after=0, limit=3) is None
    assert await rig.reader.read(other.link_id, first[0].quarantine_id) is None


@pytest.mark.parametrize("rig_url", ["postgres"], indirect=True)
async def test_a_window_says_that_it_is_incomplete(rig: Rig) -> None:
    """By the record's time; one without a time may lie in any; closing it clears them."""
    claim = await rig.claim()
    fence = claim.fence
    day = timedelta(days=1)
    for at in range(3):
        start = NOON.replace(hour=0) + at * day
        await rig.ledger.close_window(fence, start=start, end=start + day)
    query = sa.text(
        "SELECT start, records FROM brokerd.incomplete_windows WHERE account_id = :a ORDER BY 1"
    )

    async def incomplete() -> list[int]:
        async with rig.database.statement() as connection:
            rows = (await connection.execute(query, {"a": fence.account_id})).all()
        return [(row.start.astimezone(UTC).day, row.records) for row in rows]

    assert await incomplete() == []
    timed = bad(b'{"id":1,"time":"2026-03-03T12:00:00Z"}')
    await rig.ledger.quarantine.keep(fence, [timed], source=Source.PULL)
    assert await incomplete() == [(3, 1)]
    await rig.ledger.quarantine.keep(fence, [bad(b"{}")], source=Source.PULL)
    assert [records for _, records in await incomplete()] == [1, 2, 1]
    records = await rig.ledger.quarantine.open_records(fence.account_id)
    await rig.ledger.quarantine.close(fence, [each.quarantine_id for each in records])
    assert await incomplete() == []


@pytest.mark.parametrize("rig_url", ["postgres"], indirect=True)
async def test_the_metric_counts_what_is_open(rig: Rig) -> None:
    """By reason, of all links; asked anew at each scrape."""
    metrics = Metrics(CollectorRegistry())
    size = QuarantineSize(rig.database, metrics=metrics)

    async def count() -> float:
        await size.refresh()
        return metrics.registry.get_sample_value("brokerd_quarantine_size", {"reason": "no_id"})

    before = await count()
    claim = await rig.claim()
    await rig.ledger.quarantine.keep(
        claim.fence, [bad(b"[1]", BadReason.NO_ID)], source=Source.PULL
    )
    assert await count() == before + 1
    (record,) = await rig.ledger.quarantine.open_records(claim.fence.account_id)
    await rig.ledger.quarantine.close(claim.fence, [record.quarantine_id])
    assert await count() == before
