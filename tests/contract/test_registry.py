"""Every registry keeps the same promises: one suite over memory and Postgres."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from brokerd.api.memory import MemoryRegistry
from brokerd.api.ports import Registry
from brokerd.api.postgres import PostgresRegistry
from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, QueueSettings, Secret
from brokerd.connector.link import NEVER_SECONDS
from brokerd.connector.ports import LeaseHandle
from brokerd.domain import (
    Backoff,
    Claim,
    Deal,
    DealId,
    Desired,
    Identity,
    LinkId,
    LinkSpec,
    LinkStatus,
    LinkWrite,
    MetaApiRef,
    Phase,
    Platform,
    Priority,
    Source,
    UserAction,
    UserId,
)
from brokerd.errors import Conflict, QueueFull, StaleVersion, StoreUnavailable
from brokerd.ledger.memory import MemoryLedgerStore
from brokerd.ledger.ports import LedgerStore, NumberedWrite
from brokerd.ledger.postgres import PostgresLedgerStore
from brokerd.pool.memory_leases import MemoryLeases
from brokerd.pool.memory_nodes import MemoryNodes
from brokerd.pool.ports import Nodes
from brokerd.pool.postgres_leases import PostgresLeases
from brokerd.pool.postgres_nodes import PostgresNodes
from brokerd.queue.memory import MemoryQueue
from brokerd.queue.ports import Queue
from brokerd.queue.postgres import PostgresQueue
from brokerd.store.engine import open_database
from brokerd.store.memory import MemoryState
from brokerd.telemetry import Metrics

PATIENCE = {Priority.HIGH: 5.0, Priority.NORMAL: 60.0, Priority.LOW: 600.0}
MAX_LENGTH = 8
A, B, C = LinkId("a"), LinkId("b"), LinkId("c")


def spec(login="5016", **changes):
    """Build a spec."""
    made = LinkSpec(
        user_id=UserId("u-17"),
        desired=Desired.LIVE,
        priority=Priority.NORMAL,
        metaapi=MetaApiRef(token="main", account_id=f"m-{login}", region="london"),
        identity=Identity(platform=Platform.MT5, login=login, server="Broker-Demo", currency="USD"),
        sync_from=datetime(2024, 1, 1, tzinfo=UTC),
        max_staleness_seconds=None,
        labels={"tier": "gold"},
    )
    return replace(made, **changes)


@dataclass
class Rig:
    """The registry, and the daemon's side of the same rows."""

    registry: Registry
    queue: Queue
    nodes: Nodes
    leases: LeaseHandle
    ledger: LedgerStore

    async def put(self, link_id, wanted=None, *, if_match=None, must_be_new=False):
        """Put a spec."""
        return await self.registry.put(
            link_id, wanted or spec(), if_match=if_match, must_be_new=must_be_new
        )

    async def claim(self, *, limit=1):
        """Claim as a new node does; the node keeps what it takes."""
        node = await self.nodes.register(f"n-{id(object())}", max_links=100)
        return await self.queue.claim(node, limit=limit)

    async def changed(self, claim: Claim):
        """Read what the owner of a claim would be told."""
        return await self.queue.changed(claim.fence.incarnation)

    async def report(self, claim: Claim, phase, **values):
        """Report as the owner does."""
        values = {"reason": "Told", "message": "", **values}
        status = LinkStatus(
            phase=phase,
            observed_generation=claim.generation,
            since=datetime.now(UTC),
            **values,
        )
        await self.leases.report(claim.fence, status)

    async def release(self, claim: Claim, *, delay_seconds=0.0, attempt=0):
        """Give the lease back."""
        backoff = Backoff(attempt=attempt, bound_seconds=float(attempt))
        await self.leases.release(claim.fence, backoff=backoff, delay_seconds=delay_seconds)


@pytest.fixture
async def rig(fleet_url: str | None) -> AsyncIterator[Rig]:
    """Give each implementation in turn."""
    queue_settings = QueueSettings(max_length=MAX_LENGTH, patience_seconds=PATIENCE)
    if fleet_url is None:
        state = MemoryState(clock=SystemClock())
        yield Rig(
            MemoryRegistry(state, settings=queue_settings),
            MemoryQueue(state),
            MemoryNodes(state),
            MemoryLeases(state, patience_seconds=PATIENCE),
            MemoryLedgerStore(state),
        )
        return
    settings_ = DatabaseSettings(url=Secret(fleet_url))
    async with open_database(settings_, metrics=Metrics(CollectorRegistry())) as database:
        yield Rig(
            PostgresRegistry(database, settings=queue_settings, clock=SystemClock()),
            PostgresQueue(database),
            PostgresNodes(database, heartbeats=database),
            PostgresLeases(database, patience_seconds=PATIENCE),
            PostgresLedgerStore(database),
        )


async def test_a_new_link_waits_in_the_queue(rig):
    """A PUT of an unknown link makes it, in generation 1, first in the queue."""
    put = await rig.put(A)
    assert (put.is_new, put.is_changed) == (True, True)
    record = await rig.registry.get(A)
    assert record is not None
    assert (record.link_id, record.spec, record.generation) == (A, spec(), 1)
    assert (record.status.phase, record.status.observed_generation) == (Phase.QUEUED, 1)
    assert (record.owner, record.owner_name, record.epoch, record.is_deleted) == (
        None,
        None,
        0,
        False,
    )
    assert (record.watermark, record.deals) == (None, 0)
    assert record.queue is not None
    assert record.queue.position == 1
    assert 0 <= record.queue.waiting_seconds < 60
    (claim,) = await rig.claim()
    assert (claim.link_id, claim.spec, claim.generation) == (A, spec(), 1)


async def test_an_identical_spec_changes_nothing(rig):
    """The same PUT again answers the same generation and keeps the place in the queue."""
    await rig.put(A)
    before = await rig.registry.get(A)
    put = await rig.put(A)
    assert (put.is_new, put.is_changed, put.record.generation) == (False, False, 1)
    after = await rig.registry.get(A)
    assert after.queued_at == before.queued_at


async def test_a_changed_spec_raises_the_generation_and_reaches_the_owner(rig):
    """A change is a new generation, which the owner of the lease is told, and a free link has."""
    await rig.put(A)
    changed = spec(labels={"tier": "silver"})
    put = await rig.put(A, changed)
    assert (put.is_new, put.is_changed, put.record.generation) == (False, True, 2)
    assert put.record.status.observed_generation == 2
    (claim,) = await rig.claim()
    await rig.report(claim, Phase.LIVE)
    assert await rig.changed(claim) == []
    put = await rig.put(A, spec(labels={}))
    assert put.record.status.observed_generation == 2
    (told,) = await rig.changed(claim)
    assert (told.generation, told.spec) == (3, spec(labels={}))
    assert told.fence == claim.fence


async def test_the_record_shows_owner_and_report(rig):
    """What the owner reported, and who it is, is what a reader gets."""
    await rig.put(A)
    (claim,) = await rig.claim()
    at = datetime.now(UTC)
    await rig.report(
        claim,
        Phase.BLOCKED,
        reason="NotDeployed",
        message="deploy it",
        next_attempt_at=at,
        attempt=3,
        user_action=UserAction.DEPLOY_ACCOUNT,
    )
    record = await rig.registry.get(A)
    assert (record.owner, record.epoch) == (claim.fence.incarnation, claim.fence.epoch)
    assert record.owner_name.startswith("n-")
    assert record.queue is None
    status = record.status
    assert (status.phase, status.reason, status.message) == (
        Phase.BLOCKED,
        "NotDeployed",
        "deploy it",
    )
    assert (status.next_attempt_at, status.attempt, status.user_action) == (
        at,
        3,
        UserAction.DEPLOY_ACCOUNT,
    )


async def test_an_identity_belongs_to_one_living_link(rig):
    """A second link for the same account is refused, and the refusal names the first."""
    await rig.put(A)
    with pytest.raises(Conflict, match="taken by link a"):
        await rig.put(B)
    assert await rig.registry.get(B) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"login": "1"},
        {"server": "Other"},
        {"platform": Platform.MT4},
        {"currency": "EUR"},
    ],
    ids=str,
)
async def test_an_identity_is_immutable(rig, changes):
    """A link never changes to another identity, nor its identity's currency."""
    await rig.put(A)
    with pytest.raises(Conflict, match="cannot change"):
        await rig.put(A, spec(identity=replace(spec().identity, **changes)))
    assert (await rig.registry.get(A)).generation == 1


async def test_a_user_is_immutable(rig):
    """A living link stays with its user: its deals carry the user."""
    await rig.put(A)
    with pytest.raises(Conflict, match="another user"):
        await rig.put(A, spec(user_id=UserId("u-18")))


async def test_where_the_history_starts_cannot_change(rig):
    """The ledger's windows and proofs rest on syncFrom: not while it lives, not afterwards."""
    await rig.put(A)
    for start in (None, datetime(2023, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)):
        with pytest.raises(Conflict, match="begun with syncFrom 2024-01-01"):
            await rig.put(A, spec(sync_from=start))
    assert await rig.registry.delete(A)
    with pytest.raises(Conflict, match="begun with syncFrom 2024-01-01"):
        await rig.put(B, spec(sync_from=None))
    assert (await rig.put(B)).is_new


async def test_preconditions(rig):
    """If-Match lets only the generation named pass, If-None-Match only what is new."""
    with pytest.raises(StaleVersion):
        await rig.put(A, if_match=1)
    await rig.put(A, must_be_new=True)
    with pytest.raises(StaleVersion):
        await rig.put(A, must_be_new=True)
    with pytest.raises(StaleVersion):
        await rig.put(A, spec(labels={}), if_match=2)
    assert (await rig.put(A, spec(labels={}), if_match=1)).record.generation == 2


async def test_delete_of_a_waiting_link_ends_it_at_once(rig):
    """A link that nobody runs is gone when DELETE returns, and is never claimed."""
    await rig.put(A)
    assert await rig.registry.delete(A)
    assert await rig.registry.get(A) is None
    assert not await rig.registry.delete(A)
    assert await rig.claim() == []


async def test_delete_of_an_owned_link_waits_for_its_owner(rig):
    """A link shows that it is being deleted until its owner, who is told, gave it back."""
    await rig.put(A)
    (claim,) = await rig.claim()
    await rig.report(claim, Phase.LIVE)
    assert await rig.registry.delete(A)
    assert await rig.registry.delete(A)
    record = await rig.registry.get(A)
    assert record.is_deleted
    assert [each.link_id for each in await _page(rig)] == [A]
    (told,) = await rig.changed(claim)
    assert told.is_deleted
    await rig.release(claim)
    assert await rig.registry.get(A) is None
    assert await _page(rig) == []
    assert not await rig.registry.delete(A)
    assert await rig.claim() == []


async def test_an_identity_registered_again_continues_its_ledger(rig):
    """The row, its deals and its watermark go on under a new link id, one generation further."""
    await rig.put(A)
    (claim,) = await rig.claim()
    await _trade(rig, claim, "1")
    await rig.ledger.close_window(
        claim.fence, start=datetime(2024, 1, 1, tzinfo=UTC), end=datetime(2024, 3, 1, tzinfo=UTC)
    )
    await _trade(rig, claim, "2", at=datetime(2024, 4, 1, tzinfo=UTC))
    await rig.registry.delete(A)
    await rig.release(claim, attempt=5)
    again = await rig.put(B, spec(user_id=UserId("u-18"), labels={}))
    assert again.is_new
    record = again.record
    assert record.generation == claim.generation + 2  # the DELETE was one
    assert (record.deals, record.watermark) == (2, datetime(2024, 3, 1, tzinfo=UTC))
    assert record.status.phase is Phase.QUEUED
    assert record.status.attempt == 0
    (second,) = await rig.claim()
    assert second.fence.account_id == claim.fence.account_id
    assert second.fence.epoch == claim.fence.epoch + 1
    assert (second.link_id, second.is_deleted, second.backoff) == (B, False, Backoff())


async def test_an_identity_comes_back_under_its_old_id_while_it_drains(rig):
    """The owner learns that the link is wanted after all; another id must wait for it."""
    await rig.put(A)
    (claim,) = await rig.claim()
    await rig.report(claim, Phase.LIVE)
    await rig.registry.delete(A)
    with pytest.raises(Conflict, match="still drains"):
        await rig.put(B)
    assert (await rig.put(A)).is_new
    (told,) = await rig.changed(claim)
    assert not told.is_deleted
    await rig.release(claim)
    assert (await rig.registry.get(A)).queue.position == 1


async def test_a_link_id_is_free_for_another_identity_once_deleted(rig):
    """A deleted link's id may name another account; the old row is left alone."""
    await rig.put(A)
    (claim,) = await rig.claim()
    await rig.registry.delete(A)
    other = await rig.put(A, spec("9"))
    assert (other.is_new, other.record.generation) == (True, 1)
    assert not (await rig.registry.get(A)).is_deleted
    assert [record.spec.identity.login for record in await _page(rig)] == ["9"]
    await rig.release(claim)
    assert (await rig.registry.get(A)).spec.identity.login == "9"


async def test_a_paused_link_waits_for_nothing(rig):
    """Paused, a link leaves the queue; wanted again, it joins at the end."""
    await rig.put(A)
    await rig.put(B, spec("2"))
    paused = (await rig.put(A, spec(desired=Desired.PAUSED))).record
    assert (paused.status.phase, paused.queue) == (Phase.PAUSED, None)
    assert (await rig.registry.get(B)).queue.position == 1
    wanted = (await rig.put(A)).record
    assert (wanted.status.phase, wanted.queue.position) == (Phase.QUEUED, 2)
    assert [claim.link_id for claim in await rig.claim(limit=2)] == [B, A]


async def test_a_link_may_be_registered_paused(rig):
    """Nothing is queued for it."""
    record = (await rig.put(A, spec(desired=Desired.PAUSED))).record
    assert (record.status.phase, record.status.reason) == (Phase.PAUSED, "Paused")
    assert await rig.claim() == []


async def test_pausing_an_owned_link_tells_its_owner(rig):
    """The phase stays as reported until the owner has closed the session."""
    await rig.put(A)
    (claim,) = await rig.claim()
    await rig.report(claim, Phase.LIVE)
    record = (await rig.put(A, spec(desired=Desired.PAUSED))).record
    assert record.status.phase is Phase.LIVE
    (told,) = await rig.changed(claim)
    assert told.spec.desired is Desired.PAUSED


async def test_priority_decides_the_place_and_keeps_the_time_waited(rig):
    """A waiting link that gets a higher priority overtakes; it has waited since it first did."""
    await rig.put(A)
    await rig.put(B, spec("2"))
    before = (await rig.registry.get(B)).queued_at
    record = (await rig.put(B, spec("2", priority=Priority.HIGH))).record
    assert (record.queue.position, record.queued_at) == (1, before)
    assert (await rig.registry.get(A)).queue.position == 2


async def test_positions_count_from_one_in_the_order_of_claims(rig):
    """Those who wait have positions 1, 2, 3 …, and are claimed in that order."""
    for number, link_id in enumerate((C, A, B)):
        await rig.put(link_id, spec(str(number)))
    page = await _page(rig)
    assert {record.link_id: record.queue.position for record in page} == {C: 1, A: 2, B: 3}
    assert [claim.link_id for claim in await rig.claim(limit=3)] == [C, A, B]


async def test_a_link_in_backoff_has_no_place_until_its_time(rig):
    """Released with a delay it waits outside the queue; a new MetaApi account ends the wait."""
    await rig.put(A)
    (claim,) = await rig.claim()
    await rig.report(claim, Phase.BACKOFF, attempt=4)
    await rig.release(claim, delay_seconds=900.0, attempt=4)
    record = await rig.registry.get(A)
    assert (record.queue, record.status.phase) == (None, Phase.BACKOFF)
    assert record.not_before > datetime.now(UTC) + timedelta(seconds=800)
    labelled = (await rig.put(A, spec(labels={}))).record
    assert (labelled.queue, labelled.status.phase) == (None, Phase.BACKOFF)
    assert labelled.status.observed_generation == 2
    elsewhere = replace(spec().metaapi, account_id="other")
    redialled = (await rig.put(A, spec(labels={}, metaapi=elsewhere))).record
    assert (redialled.queue.position, redialled.status.phase) == (1, Phase.QUEUED)
    (again,) = await rig.claim()
    assert again.backoff == Backoff()


async def test_a_pause_does_not_cut_a_backoff_short(rig):
    """Who pauses and resumes a failing link does not make it dial earlier."""
    await rig.put(A)
    (claim,) = await rig.claim()
    await rig.release(claim, delay_seconds=900.0, attempt=4)
    await rig.put(A, spec(desired=Desired.PAUSED))
    record = (await rig.put(A)).record
    assert record.not_before is not None
    assert record.queue is None
    assert await rig.claim() == []


async def test_a_resumed_link_is_not_kept_waiting_for_ever(rig):
    """A wait that only its client can end is over when the client pauses and resumes."""
    await rig.put(A)
    (claim,) = await rig.claim()
    await rig.release(claim, delay_seconds=NEVER_SECONDS)
    assert await rig.claim() == []
    await rig.put(A, spec(desired=Desired.PAUSED))
    await rig.put(A)
    assert len(await rig.claim()) == 1


async def test_a_change_that_the_owner_did_not_see_ends_the_wait_it_begins(rig):
    """New credentials that arrive while the old ones are given up must not be parked with them."""
    await rig.put(A)
    (claim,) = await rig.claim()
    await rig.report(claim, Phase.AUTH_FAILED)
    elsewhere = replace(spec().metaapi, account_id="other")
    await rig.put(A, spec(metaapi=elsewhere))
    await rig.release(claim, delay_seconds=NEVER_SECONDS)
    assert (await rig.registry.get(A)).queue.position == 1
    (again,) = await rig.claim()
    assert again.spec.metaapi == elsewhere
    await rig.report(again, Phase.AUTH_FAILED)
    await rig.release(again, delay_seconds=NEVER_SECONDS)
    assert await rig.claim() == []


async def test_a_full_queue_refuses_who_would_join_it(rig):
    """At queue.max_length new waiters are refused; changes and paused links are not."""
    for number in range(MAX_LENGTH):
        await rig.put(LinkId(f"l{number}"), spec(str(number)))
    with pytest.raises(QueueFull):
        await rig.put(A, spec("77"))
    assert await rig.registry.get(A) is None
    await rig.put(LinkId("l0"), spec("0", labels={}))
    await rig.put(A, spec("77", desired=Desired.PAUSED))
    with pytest.raises(QueueFull):
        await rig.put(A, spec("77"))
    await rig.claim()
    assert (await rig.put(A, spec("77"))).record.queue.position == MAX_LENGTH


async def test_positions_in_a_long_queue_are_rounded_up(fleet_url):
    """Of a queue longer than a thousand every so many-th row is kept; nobody is told too little."""
    if fleet_url is None:
        pytest.skip("memory counts")
    settings_ = DatabaseSettings(url=Secret(fleet_url))
    async with open_database(settings_, metrics=Metrics(CollectorRegistry())) as database:
        registry = PostgresRegistry(
            database, settings=QueueSettings(patience_seconds=PATIENCE), clock=SystemClock()
        )
        async with database.transaction() as connection:
            await connection.execute(
                sa.text("""
                INSERT INTO brokerd.leases (account_id, is_wanted, deadline)
                SELECT 1000000 + n, true, now() - interval '1 hour' + n * interval '1 second'
                FROM generate_series(1, 2999) AS n""")
            )
        put = await registry.put(A, spec(), if_match=None, must_be_new=False)
        assert put.record.queue.position == 3000
        sooner = await registry.put(
            B, spec("2", priority=Priority.HIGH), if_match=None, must_be_new=False
        )
        assert sooner.record.queue.position == 3000
        async with database.transaction() as connection:
            await connection.execute(
                sa.text(
                    "UPDATE brokerd.leases SET deadline = now() - interval '2 hours'"
                    " WHERE account_id = 1"
                )
            )
        first = await registry.get(A)
        assert 1 <= first.queue.position <= 3
        assert first.queue.age_seconds > put.record.queue.age_seconds  # read once a second


async def test_a_store_out_of_reach(tmp_path):
    """Every method says so, in the time that acquiring may take."""
    url = Secret(f"postgresql://u:p@/x?host={tmp_path}")
    settings_ = DatabaseSettings(url=url, acquire_seconds=0.2)
    async with open_database(settings_, metrics=Metrics(CollectorRegistry())) as database:
        registry = PostgresRegistry(database, settings=QueueSettings(), clock=SystemClock())
        async with asyncio.timeout(10):
            for call in (
                registry.ping(),
                registry.get(A),
                registry.put(A, spec(), if_match=None, must_be_new=False),
                registry.page(user_id=None, after=None, limit=1),
                registry.delete(A),
            ):
                with pytest.raises(StoreUnavailable):
                    await call


async def test_many_at_once_never_pass_the_queue_s_length(rig):
    """However many register at the same time, exactly as many are taken as may wait."""
    answers = await asyncio.gather(
        *(rig.put(LinkId(f"l{n}"), spec(str(n))) for n in range(3 * MAX_LENGTH)),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, QueueFull)]
    assert len(refused) == 2 * MAX_LENGTH
    assert len(await _page(rig)) == MAX_LENGTH


async def test_one_of_many_gets_an_identity(rig):
    """Of links that claim one identity at the same time exactly one is made."""
    answers = await asyncio.gather(
        *(rig.put(LinkId(f"l{n}")) for n in range(6)), return_exceptions=True
    )
    assert sum(isinstance(answer, Conflict) for answer in answers) == 5
    assert len(await _page(rig)) == 1


async def test_one_of_many_makes_the_link(rig):
    """The same PUT many times at once makes one link in one generation."""
    answers = await asyncio.gather(*(rig.put(A) for _ in range(6)))
    assert sorted(answer.is_new for answer in answers) == [False] * 5 + [True]
    assert {answer.record.generation for answer in answers} == {1}


async def test_pages_follow_the_ids(rig):
    """Pages go on behind the last id, also when links come and go, and filter by user."""
    for number, link_id in enumerate("dbca"):
        user = UserId("odd" if number % 2 else "even")
        await rig.put(LinkId(link_id), spec(str(number), user_id=user))
    first = await _page(rig, limit=2)
    assert [record.link_id for record in first] == ["a", "b"]
    await rig.registry.delete(LinkId("a"))
    rest = await _page(rig, after=LinkId("b"))
    assert [record.link_id for record in rest] == ["c", "d"]
    odd = await _page(rig, user_id=UserId("odd"))
    assert [record.link_id for record in odd] == ["b"]
    assert await _page(rig, user_id=UserId("nobody")) == []


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["put", "pause", "delete"]),
            st.sampled_from(["x", "y"]),
            st.sampled_from(["101", "102"]),
        ),
        max_size=12,
    )
)
def test_memory_registry_never_breaks_its_invariants(steps):
    """Whatever is asked, an identity has one living link, and generations only rise."""

    async def play():
        state = MemoryState(clock=SystemClock())
        registry = MemoryRegistry(state, settings=QueueSettings(max_length=MAX_LENGTH))
        seen: dict[str, int] = {}
        for verb, link_id, login in steps:
            wanted = spec(login, desired=Desired.PAUSED if verb == "pause" else Desired.LIVE)
            if verb == "delete":
                await registry.delete(LinkId(link_id))
                continue
            try:
                put = await registry.put(LinkId(link_id), wanted, if_match=None, must_be_new=False)
            except Conflict:
                continue
            assert put.record.generation >= seen.get(login, 0) + put.is_changed
            seen[login] = put.record.generation
        living = [row.spec.identity for row in state.accounts.values() if not row.deleted_at]
        assert len(living) == len(set(living))
        assert len(state.accounts) <= 2

    asyncio.run(play())


async def _page(rig, *, user_id=None, after=None, limit=100):
    return list(await rig.registry.page(user_id=user_id, after=after, limit=limit))


async def _trade(rig, claim, number, *, at=datetime(2024, 2, 1, tzinfo=UTC)):
    deal = Deal(
        deal_id=DealId(number),
        type="DEAL_TYPE_BUY",
        entry="DEAL_ENTRY_IN",
        symbol="EURUSD",
        volume=Decimal(1),
        price=Decimal("1.1"),
        time=at,
        broker_time="2024-02-01 00:00:00.000",
        profit=Decimal("-1.25"),
        commission=Decimal(0),
        swap=Decimal(0),
        order_id="1",
        position_id="1",
        raw="{}",
    )
    write = LinkWrite(
        fence=claim.fence,
        link_id=claim.link_id,
        user_id=claim.spec.user_id,
        source=Source.STREAM,
        deals=(deal,),
    )
    await rig.ledger.commit([NumberedWrite(write_id=int(number), write=write)])
