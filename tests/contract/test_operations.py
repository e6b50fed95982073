"""Long work that is asked of links keeps the same promises in memory and in Postgres."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from brokerd.api.memory_operations import MemoryOperationRegistry
from brokerd.api.ports import OperationRegistry
from brokerd.api.postgres_operations import PostgresOperationRegistry
from brokerd.domain import Claim, Incarnation, LinkId, Proof
from brokerd.errors import Fenced
from brokerd.operations import (
    AuditResult,
    Difference,
    Findings,
    Operation,
    OperationFailure,
    OperationKind,
    OperationState,
    Progress,
)
from brokerd.pool.memory_operations import MemoryOperations
from brokerd.pool.ports import OperationStore
from brokerd.pool.postgres_operations import _FAIL, _FORGET, _OPEN, PostgresOperations

AUDIT = OperationKind.AUDIT
NOON = datetime(2026, 3, 2, 12, 0, 0, 123456, tzinfo=UTC)
FINDINGS = Findings(windows=3, inserted=1, revised=2, missing=4, false_receipts=5)
PROGRESS = Progress(
    until=NOON, read_through=NOON.replace(day=1), windows_left=7, findings=FINDINGS, note="half"
)
RESULT = AuditResult(
    proof=Proof.MISMATCH,
    detail="off",
    findings=FINDINGS,
    difference=Difference(balance=Decimal("-0.10"), credit=Decimal(0), currency="USD"),
)


@dataclass
class Rig:
    """Who asks, who carries out, and links that are claimed."""

    asking: OperationRegistry
    impatient: OperationRegistry
    store: OperationStore
    claim: Callable[[], Awaitable[Claim]]

    async def ask(self, claim: Claim) -> Operation:
        """Ask for an audit of a link."""
        return (await self.asking.ask(claim.link_id, AUDIT)).operation

    async def open_of(self, owner: Incarnation) -> list[str]:
        """Return the ids of what is open for a node's links."""
        return [each.operation_id for each in await self.store.open_of(owner)]


@pytest.fixture
def rig(fleet, add) -> Rig:
    """Give each implementation in turn."""

    async def claim() -> Claim:
        await add()
        node = await fleet.nodes.register(f"n{len(nodes)}", max_links=1)
        nodes.append(node)
        (made,) = await fleet.queue.claim(node, limit=1)
        return made

    nodes: list[Incarnation] = []
    if hasattr(fleet, "state"):
        return Rig(
            asking=MemoryOperationRegistry(fleet.state, expire_seconds=60.0),
            impatient=MemoryOperationRegistry(fleet.state, expire_seconds=0.0),
            store=MemoryOperations(fleet.state),
            claim=claim,
        )
    return Rig(
        asking=PostgresOperationRegistry(fleet.database, expire_seconds=60.0),
        impatient=PostgresOperationRegistry(fleet.database, expire_seconds=0.0),
        store=PostgresOperations(fleet.database),
        claim=claim,
    )


async def test_what_is_open_is_not_asked_again(rig: Rig) -> None:
    """However many ask at once: one operation, and another one only once it ended."""
    claim = await rig.claim()
    answers = await asyncio.gather(*(rig.asking.ask(claim.link_id, AUDIT) for _ in range(6)))
    assert sorted(answer.is_new for answer in answers) == [False] * 5 + [True]
    first = answers[0].operation
    assert {answer.operation.operation_id for answer in answers} == {first.operation_id}
    assert (first.state, first.kind, first.link_id) == ("pending", AUDIT, claim.link_id)
    assert (first.expires_at - first.asked_at).total_seconds() == pytest.approx(60, abs=1)
    assert await rig.store.finish(claim.fence, first.operation_id, RESULT)
    second = await rig.asking.ask(claim.link_id, AUDIT)
    assert second.is_new
    assert second.operation.operation_id != first.operation_id


async def test_a_link_that_is_not_there_cannot_be_asked(rig: Rig, alter) -> None:
    """Neither one that never was, nor one that is being deleted; nor is an unknown id read."""
    claim = await rig.claim()
    await alter(claim.fence.account_id, is_deleted=True)
    assert await rig.asking.ask(claim.link_id, AUDIT) is None
    assert await rig.asking.ask(LinkId("nobody"), AUDIT) is None
    assert await rig.asking.read("nothing") is None


async def test_a_node_finds_what_is_open_for_its_links_alone(rig: Rig) -> None:
    """In the order of asking; what ended, and what is asked of others' links, is not there."""
    mine, theirs = await rig.claim(), await rig.claim()
    operation = await rig.ask(mine)
    await rig.ask(theirs)
    assert await rig.open_of(mine.fence.incarnation) == [operation.operation_id]
    await rig.store.finish(mine.fence, operation.operation_id, RESULT)
    assert await rig.open_of(mine.fence.incarnation) == []


async def test_progress_is_kept_for_the_next_owner(rig: Rig) -> None:
    """What one owner noted, to the microsecond, is what the next one reads."""
    claim = await rig.claim()
    operation = await rig.ask(claim)
    assert operation.progress == Progress()
    assert await rig.store.advance(claim.fence, operation.operation_id, PROGRESS)
    first = await rig.asking.read(operation.operation_id)
    assert await rig.store.advance(claim.fence, operation.operation_id, PROGRESS)
    (found,) = await rig.store.open_of(claim.fence.incarnation)
    assert found == first
    assert (found.state, found.progress) == (OperationState.RUNNING, PROGRESS)
    assert found.started_at >= found.asked_at


@pytest.mark.parametrize("difference", [RESULT.difference, None], ids=["compared", "unknown"])
async def test_a_result_is_read_as_it_was_written(rig: Rig, difference) -> None:
    """With exact money; what it waited for is not said any more."""
    claim = await rig.claim()
    operation = await rig.ask(claim)
    result = replace(RESULT, difference=difference)
    await rig.store.advance(claim.fence, operation.operation_id, PROGRESS)
    assert await rig.store.finish(claim.fence, operation.operation_id, result)
    done = await rig.asking.read(operation.operation_id)
    assert (done.state, done.result, done.failure) == (OperationState.DONE, result, None)
    assert done.progress == replace(PROGRESS, note="")
    assert done.finished_at >= done.started_at


async def test_what_ended_cannot_be_carried_on(rig: Rig) -> None:
    """An owner that comes too late is told so, and changes nothing."""
    claim = await rig.claim()
    operation = await rig.ask(claim)
    await rig.store.finish(claim.fence, operation.operation_id, RESULT)
    done = await rig.asking.read(operation.operation_id)
    other = replace(RESULT, proof=Proof.PROVEN)
    assert not await rig.store.advance(claim.fence, operation.operation_id, PROGRESS)
    assert not await rig.store.finish(claim.fence, operation.operation_id, other)
    assert await rig.asking.read(operation.operation_id) == done


async def test_a_zombie_notes_and_finishes_nothing(rig: Rig) -> None:
    """Under another epoch."""
    claim = await rig.claim()
    operation = await rig.ask(claim)
    zombie = replace(claim.fence, epoch=claim.fence.epoch - 1)
    with pytest.raises(Fenced):
        await rig.store.advance(zombie, operation.operation_id, PROGRESS)
    with pytest.raises(Fenced):
        await rig.store.finish(zombie, operation.operation_id, RESULT)
    assert await rig.asking.read(operation.operation_id) == operation


async def test_a_fence_reaches_its_own_link_only(rig: Rig) -> None:
    """The owner of one link cannot touch what was asked of another."""
    claim, other = await rig.claim(), await rig.claim()
    operation = await rig.ask(claim)
    assert not await rig.store.finish(other.fence, operation.operation_id, RESULT)
    assert await rig.asking.read(operation.operation_id) == operation


async def test_what_is_past_its_time_fails(rig: Rig) -> None:
    """Pending or running; what is in time, or done, stays."""
    late, running, done, fresh = [await rig.claim() for _ in range(4)]
    ids = [
        (await rig.impatient.ask(each.link_id, AUDIT)).operation.operation_id
        for each in (late, running, done)
    ]
    in_time = await rig.ask(fresh)
    await rig.store.advance(running.fence, ids[1], PROGRESS)
    await rig.store.finish(done.fence, ids[2], RESULT)
    failed = await rig.store.sweep(keep_days=1)
    assert {each.operation_id for each in failed} == set(ids[:2])
    for each in failed:
        assert (each.state, each.failure) == (OperationState.FAILED, OperationFailure.EXPIRED)
        assert await rig.asking.read(each.operation_id) == each
    assert (await rig.asking.read(ids[2])).state is OperationState.DONE
    assert await rig.asking.read(in_time.operation_id) == in_time
    assert await rig.store.sweep(keep_days=1) == []


async def test_a_deleted_link_fails_what_was_asked_of_it(rig: Rig, alter) -> None:
    """Whether or not anybody still owns it."""
    claim, kept = await rig.claim(), await rig.claim()
    operation = await rig.ask(claim)
    await rig.ask(kept)
    await alter(claim.fence.account_id, is_deleted=True)
    (failed,) = await rig.store.sweep(keep_days=1)
    assert (failed.operation_id, failed.failure) == (
        operation.operation_id,
        OperationFailure.LINK_DELETED,
    )


async def test_what_ended_long_ago_is_forgotten(rig: Rig) -> None:
    """What is open never is."""
    ended, waiting = await rig.claim(), await rig.claim()
    old, still_open = await rig.ask(ended), await rig.ask(waiting)
    await rig.store.finish(ended.fence, old.operation_id, RESULT)
    await rig.store.sweep(keep_days=1)
    assert await rig.asking.read(old.operation_id) is not None
    await rig.store.sweep(keep_days=0)
    assert await rig.asking.read(old.operation_id) is None
    assert await rig.asking.read(still_open.operation_id) == still_open


@pytest.mark.parametrize("fleet_url", ["postgres"], indirect=True)
async def test_what_is_open_is_found_by_index_among_many_that_ended(fleet, rig: Rig) -> None:
    """A look each second of each node must not read what audits of a month left behind."""
    claim = await rig.claim()
    await rig.ask(claim)
    async with fleet.database.statement() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO brokerd.operations"
            " (kind, account_id, link_id, state, expires_at, finished_at)"
            " SELECT 'audit', n, 'l', 'done', now(), now() - make_interval(mins => n)"
            " FROM generate_series(1, 20000) n"
        )
        await connection.exec_driver_sql("ANALYZE brokerd.operations")
        for query, index in (
            (_OPEN, "operations_open"),
            (_FAIL, "operations_open"),
            (_FORGET, "operations_finished"),
        ):
            values = {"incarnation": claim.fence.incarnation, "keep_days": 30}
            compiled = str(query.compile(dialect=connection.dialect))
            named = {name: value for name, value in values.items() if f"({name})" in compiled}
            plan = await connection.exec_driver_sql(f"EXPLAIN {compiled}", named)
            lines = [line for (line,) in plan]
            assert any(index in line for line in lines), lines
            assert not any("Seq Scan on operations" in line for line in lines), lines
