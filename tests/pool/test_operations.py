"""One look finds for all links of a node what was asked of them, and wakes those it concerns."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokerd.config.settings import OperationSettings
from brokerd.domain import AccountId, Fence, Incarnation, LinkId, Proof
from brokerd.errors import StoreUnavailable
from brokerd.operations import (
    AuditResult,
    Findings,
    Operation,
    OperationFailure,
    OperationId,
    OperationKind,
    OperationState,
    Progress,
)
from brokerd.pool.operations import OperationDesk
from brokerd.telemetry import Metrics

pytestmark = pytest.mark.looptime
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
FENCE = Fence(account_id=AccountId(1), incarnation=Incarnation(7), epoch=1)
OPERATION = Operation(
    operation_id=OperationId("one"),
    kind=OperationKind.AUDIT,
    account_id=AccountId(1),
    link_id=LinkId("l-1"),
    state=OperationState.PENDING,
    asked_at=NOON,
    expires_at=NOON + timedelta(days=1),
)
READ_TWO = Progress(until=NOON, findings=Findings(windows=2))
RESULT = AuditResult(proof=Proof.PROVEN, detail="", findings=Findings(), difference=None)


class LoopClock:
    """Virtual time."""

    def monotonic(self):
        """Return the loop's time."""
        return asyncio.get_running_loop().time()


class Store:
    """An `OperationStore` that answers as told."""

    def __init__(self):
        self.found = [OPERATION]
        self.overdue = []
        self.is_open = True
        self.is_away = False
        self.looks = 0
        self.sweeps = 0

    async def open_of(self, incarnation):
        """Return what is to be found."""
        assert incarnation == FENCE.incarnation
        if self.is_away:
            raise StoreUnavailable("away")
        self.looks += 1
        return self.found

    async def advance(self, fence, operation_id, progress):
        """Say whether it is open."""
        assert (fence, operation_id) == (FENCE, OPERATION.operation_id)
        return self.is_open and progress is not None

    async def finish(self, fence, operation_id, result):
        """Say whether it is open."""
        assert (fence, operation_id) == (FENCE, OPERATION.operation_id)
        return self.is_open and result is not None

    async def sweep(self, *, keep_days):
        """Fail what is to be failed."""
        assert keep_days == OperationSettings().keep_days
        self.sweeps += 1
        overdue, self.overdue = self.overdue, []
        return overdue


@pytest.fixture
def store():
    """Give a store."""
    return Store()


@pytest.fixture
def metrics():
    """Give metrics of its own."""
    return Metrics(CollectorRegistry())


@pytest.fixture
def desk(store, metrics):
    """Give a desk over it."""
    return OperationDesk(
        FENCE.incarnation,
        store=store,
        settings=OperationSettings(),
        clock=LoopClock(),
        metrics=metrics,
    )


async def test_a_look_wakes_whom_something_new_concerns_once(desk, store):
    """Not again for what it knows, not for others, not after they left."""
    woken = []
    with desk.followed(AccountId(1), lambda: woken.append(1)):
        with desk.followed(AccountId(2), lambda: woken.append(2)):
            await desk.look()
            await desk.look()
            assert woken == [1]
            assert desk.asked(AccountId(1)) == OPERATION
            assert desk.asked(AccountId(2)) is None
        store.found = [replace(OPERATION, operation_id=OperationId("two"))]
        await desk.look()
        assert woken == [1, 1]
    store.found = [replace(OPERATION, operation_id=OperationId("three"))]
    await desk.look()
    assert woken == [1, 1]


async def test_a_link_that_returns_is_not_forgotten_by_its_predecessor(desk):
    """The next session of an account follows before the last one let go."""
    woken = []
    earlier = desk.followed(AccountId(1), lambda: woken.append("earlier"))
    earlier.__enter__()
    with desk.followed(AccountId(1), lambda: woken.append("later")):
        earlier.__exit__(None, None, None)
        await desk.look()
    assert woken == ["later"]


async def test_a_look_that_was_under_way_brings_no_older_progress(desk, store):
    """What was noted meanwhile stands; an owner that begins sees it."""
    await desk.look()
    assert await desk.advance(FENCE, OPERATION.operation_id, READ_TWO)
    await desk.look()
    assert desk.asked(AccountId(1)).progress == READ_TWO
    further = replace(READ_TWO, findings=Findings(windows=3))
    store.found = [replace(OPERATION, progress=further)]
    await desk.look()
    assert desk.asked(AccountId(1)).progress == further


@pytest.mark.parametrize("is_open", [True, False])
async def test_what_ended_is_not_asked_any_more(desk, store, is_open):
    """Finished by us, or found to be closed when a step was noted."""
    await desk.look()
    store.is_open = is_open
    if is_open:
        assert await desk.finish(FENCE, OPERATION.operation_id, RESULT)
    else:
        assert not await desk.advance(FENCE, OPERATION.operation_id, READ_TWO)
    assert desk.asked(AccountId(1)) is None


async def test_it_looks_at_its_pace_and_sooner_when_told(desk, store):
    """Each second, at once after a hint, and through an outage with what it knew."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(desk.run())
        await asyncio.sleep(9.5)
        assert store.looks == 10
        desk.wake.set()
        await asyncio.sleep(0.1)
        assert store.looks == 11
        store.is_away = True
        store.found = []
        await asyncio.sleep(30)
        assert store.looks == 11
        assert desk.asked(AccountId(1)) == OPERATION
        store.is_away = False
        await asyncio.sleep(1.1)
        assert desk.asked(AccountId(1)) is None
        running.cancel()


async def test_what_fails_is_counted_and_said(desk, store, metrics):
    """Every ten seconds it sweeps; each failure is a warning and a count."""
    failure = OperationFailure.EXPIRED
    store.overdue = [replace(OPERATION, state=OperationState.FAILED, failure=failure)]
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(desk.run())
            await asyncio.sleep(35)
            running.cancel()
    assert store.sweeps == 4
    (entry,) = [each for each in logs if each["event"] == "operation.failed"]
    assert (entry["link_id"], entry["reason"], entry["log_level"]) == ("l-1", failure, "warning")
    labels = {"kind": "audit", "outcome": "expired"}
    assert metrics.registry.get_sample_value("brokerd_operations_total", labels) == 1
