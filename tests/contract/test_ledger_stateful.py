"""Any interleaving of what brokers, streams, pulls, crashes and takeovers do ends in the truth.

Two processes with a writer each share two accounts. A broker trades, amends, re-dates and takes
back deals. Copies of what it said stay around: stream packets and answers of pulls are delivered
late, twice, in any order, by either process, whether or not the account is still its own.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from ledger_rig import DAY, MemoryRig, PostgresRig, Rig, check_ledger, deal
from prometheus_client import CollectorRegistry

from brokerd.clock import SystemClock
from brokerd.config.settings import DatabaseSettings, LedgerSettings, Secret
from brokerd.domain import (
    AccountId,
    Book,
    Deal,
    DealId,
    Fence,
    Incarnation,
    LinkId,
    LinkWrite,
    Source,
    UserId,
    WriteOutcome,
)
from brokerd.errors import Fenced, StoreUnavailable
from brokerd.ledger.content import content_hash
from brokerd.ledger.ports import LedgerStore, NumberedWrite
from brokerd.ledger.writer import Writer
from brokerd.store.engine import open_database
from brokerd.telemetry import Metrics

ACCOUNTS, PROCESSES = range(2), range(2)
ORIGIN = DAY
METRICS = Metrics(CollectorRegistry())  # nobody reads them: one for all
new_accounts = (AccountId(number) for number in itertools.count(1))
new_incarnations = (Incarnation(number) for number in itertools.count(1))


class FaultyStore:
    """A store whose next commit fails as told, before or after it happened."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self.fault = ""
        self.is_hanging = asyncio.Event()

    def __getattr__(self, name: str) -> Callable:
        return getattr(self._store, name)

    async def commit(self, writes: Sequence[NumberedWrite]) -> Mapping[AccountId, WriteOutcome]:
        """Commit, or not, and answer, or not."""
        fault, self.fault = self.fault, ""
        if fault == "away":
            raise StoreUnavailable("away")
        if fault == "crash before":
            await self._hang()
        done = await self._store.commit(writes)
        if fault == "answer lost":
            raise StoreUnavailable("the answer was lost")
        if fault == "crash after":
            await self._hang()
        return done

    async def _hang(self) -> None:
        self.is_hanging.set()
        await asyncio.Event().wait()


class Process:
    """A writer with its store, and the leases it believes to hold."""

    def __init__(self, rig: Rig, random: Random) -> None:
        self.incarnation = next(new_incarnations)
        self.fences: dict[AccountId, Fence] = {}
        self.store = FaultyStore(rig.store)
        self.writer = Writer(
            self.store,
            settings=LedgerSettings(
                batch_deals=4,
                link_batch_deals=4,
                batch_age_seconds=0.001,
                buffer_deals=8,
                retry_ceiling_seconds=0.001,
            ),
            clock=SystemClock(),
            random=random,
            metrics=METRICS,
        )
        self._task = asyncio.get_running_loop().create_task(self.writer.run())

    async def end(self) -> None:
        """Cut it off, whatever it is doing."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What the stream or a pull said, on its way to the ledger."""

    account_id: AccountId
    deals: tuple[Deal, ...]
    removals: tuple[DealId, ...] = ()
    fetched_at: datetime | None = None
    source: Source = Source.STREAM

    def under(self, fence: Fence) -> LinkWrite:
        """Address it under a fence."""
        return LinkWrite(
            fence=fence,
            link_id=LinkId(f"link-{self.account_id}"),
            user_id=UserId("u"),
            source=self.source,
            deals=self.deals,
            removals=self.removals,
            fetched_at=self.fetched_at,
        )


@dataclass
class Account:
    """One account at the broker, and everything that was ever said of it."""

    account_id: AccountId = field(default_factory=lambda: next(new_accounts))
    truth: dict[DealId, Deal] = field(default_factory=dict)
    gone: list[Deal] = field(default_factory=list)
    parcels: list[Parcel] = field(default_factory=list)
    owner: int | None = None
    epoch: int = 0
    pulled_at: datetime = ORIGIN  # the latest pull that is known to be written

    def say(self, each: Deal) -> None:
        """Let the broker hold this deal, and stream it."""
        self.truth[each.deal_id] = each
        self.parcels.append(Parcel(account_id=self.account_id, deals=(each,)))

    def pick(self, number: int) -> Deal:
        """Choose one of its deals."""
        return tuple(self.truth.values())[number % len(self.truth)]


class World:
    """What the rules act on; one per example."""

    def __init__(self, rig: Rig, random: Random) -> None:
        self.rig = rig
        self.random = random
        self.accounts = [Account() for _ in ACCOUNTS]
        self.processes = [Process(rig, random) for _ in PROCESSES]
        self.now = ORIGIN + timedelta(hours=1)
        self.has_crashed = False
        self.claimed: dict[AccountId, list[tuple[str, DealId]]] = {
            account.account_id: [] for account in self.accounts
        }

    async def claim(self, account: Account, process: int) -> None:
        """Move the lease, as the queue's claim does: a new epoch, a new owner."""
        account.owner, account.epoch = process, account.epoch + 1
        fence = Fence(
            account_id=account.account_id,
            incarnation=self.processes[process].incarnation,
            epoch=account.epoch,
        )
        await self.rig.lease(fence)
        self.processes[process].fences[account.account_id] = fence

    async def fetch(self, account: Account) -> Parcel:
        """Read the broker's whole history at this moment, and what the ledger has beyond it."""
        self.now += timedelta(seconds=1)
        span = {"start": ORIGIN - timedelta(days=9), "end": self.now + timedelta(days=9)}
        held = await self.rig.store.held(account.account_id, **span)
        return Parcel(
            account_id=account.account_id,
            deals=tuple(account.truth.values()),
            removals=tuple(held.keys() - account.truth.keys()),
            fetched_at=self.now,
            source=self.random.choice((Source.PULL, Source.AUDIT)),
        )

    async def send(self, process: int | None, parcel: Parcel) -> bool:
        """Write under the lease this process (None: the owner) believes in; say if it did."""
        if process is None:
            process = next(a.owner for a in self.accounts if a.account_id == parcel.account_id)
        if process is None:
            return False
        fence = self.processes[process].fences.get(parcel.account_id)
        if fence is None:
            return False
        account = next(a for a in self.accounts if a.account_id == parcel.account_id)
        is_owner = account.owner == process and account.epoch == fence.epoch
        try:
            done = await self.processes[process].writer.write(parcel.under(fence))
        except Fenced:
            assert not is_owner
            return False
        assert is_owner or not (parcel.deals or parcel.removals)
        self._claim_events(parcel.account_id, done)
        account.pulled_at = max(account.pulled_at, parcel.fetched_at or ORIGIN)
        return True

    def _claim_events(self, account_id: AccountId, done: WriteOutcome) -> None:
        claimed = self.claimed[account_id]
        claimed += [("deal.added", each) for each in done.inserted]
        claimed += [("deal.revised", each) for each in done.revised]
        claimed += [("deal.removed", each) for each in done.removed]

    async def sync(self, account: Account) -> None:
        """Do what the link's keeper does: pull everything, then close the window behind it."""
        assert account.owner is not None
        pull = await self.fetch(account)
        account.parcels.append(pull)
        if not await self.send(account.owner, pull):
            raise AssertionError("the owner was fenced")
        process = self.processes[account.owner]
        fence = process.fences[account.account_id]
        start = await process.writer.watermark(account.account_id) or ORIGIN
        await process.writer.close_window(
            fence, start=start - timedelta(minutes=15), end=pull.fetched_at
        )

    async def crash(self, process: int, parcels: Sequence[Parcel], fault: str) -> None:
        """Kill a process in the middle of a commit, before or after it happened."""
        self.has_crashed = True
        dying = self.processes[process]
        dying.store.fault = fault
        async with asyncio.TaskGroup() as group:
            for parcel in parcels:
                group.create_task(self._try_to_send(process, parcel))
            hanging = group.create_task(dying.store.is_hanging.wait())
            if any(p.account_id in dying.fences for p in parcels):
                await hanging
            hanging.cancel()
            await dying.end()
        for account in self.accounts:
            if account.owner == process:
                account.owner = None  # its lease still names the dead incarnation
        self.processes[process] = Process(self.rig, self.random)

    async def _try_to_send(self, process: int, parcel: Parcel) -> None:
        with suppress(StoreUnavailable):  # nobody knows whether it was committed
            await self.send(process, parcel)

    async def settle(self) -> None:
        """Let everything be well again, and each account be pulled once more."""
        for account in self.accounts:
            await self.claim(account, 0)
            await self.sync(account)
            rows = await self.rig.rows(account.account_id)
            present = {d: row.deal for d, row in rows.items() if not row.is_removed}
            assert hashes(present) == hashes(account.truth)
            windows = await self.rig.windows(account.account_id)
            assert windows[0].start == ORIGIN - timedelta(minutes=15)
            assert windows[-1].end == self.now
            totals = await self.rig.store.totals(account.account_id)
            amounts = [d.amount for d in account.truth.values() if d.book is Book.BALANCE]
            assert totals.balance == sum(amounts, Decimal(0))

    async def check(self) -> None:
        """Hold every ledger against itself, and against what its writers were told."""
        for account in self.accounts:
            await check_ledger(self.rig, account.account_id)
            told = [(e.type, e.deal_id) for e in await self.rig.events(account.account_id)]
            for claim in self.claimed[account.account_id]:
                told.remove(claim)  # fails when two writes claim one event
            assert self.has_crashed or not told  # only a crash may leave an event unclaimed

    async def end(self) -> None:
        """Leave no task behind."""
        for process in self.processes:
            await process.end()


def hashes(deals: Mapping[DealId, Deal]) -> dict[DealId, int]:
    """Reduce deals to what brokers can change of them."""
    return {deal_id: content_hash(each) for deal_id, each in deals.items()}


accounts = st.sampled_from([0, 0, 0, 1])  # deep into one, with a neighbour beside it
processes = st.sampled_from(PROCESSES)
numbers = st.integers(0, 5)
profits = st.sampled_from(["1.00", "-2.5", "0.00000001", "7"])
types = st.sampled_from(["DEAL_TYPE_BUY", "DEAL_TYPE_CREDIT", "ODD"])
faults = st.sampled_from(["", "", "away", "answer lost"])
parcels = st.lists(st.tuples(accounts, numbers), min_size=1, max_size=5)


class LedgerMachine(RuleBasedStateMachine):
    """The rules; the runner's loop keeps the writers' tasks alive between them.

    All examples share a database, with accounts of their own; without one each has its own memory.
    """

    def __init__(self, runner: asyncio.Runner, rig: Rig | None) -> None:
        super().__init__()
        self.run = runner.run
        self.is_checked_often = rig is None
        self.rig = rig or MemoryRig()

    @initialize(seed=st.integers(0, 9))
    def begin(self, seed: int) -> None:
        """Open two accounts with some history, each owned by a process of its own."""

        async def make() -> World:
            world = World(self.rig, Random(seed))
            for number, account in enumerate(world.accounts):
                await world.claim(account, number)
                for each in range(6):
                    account.say(deal(each, hour=each / 10))
                await world.sync(account)
            return world

        self.world = self.run(make())
        self.deal_numbers = itertools.count(100)

    @rule(account=accounts, profit=profits, type_=types, late_hours=st.integers(0, 30))
    def trade(self, account: int, profit: str, type_: str, late_hours: int) -> None:
        """Let a deal happen; some are dated hours back."""
        self.world.now += timedelta(minutes=7)
        each = deal(next(self.deal_numbers), profit=profit, type=type_)
        self.world.accounts[account].say(
            replace(each, time=self.world.now - timedelta(hours=late_hours))
        )

    @rule(account=accounts, number=numbers, profit=profits, hours=st.sampled_from([0, 0, -5, 5]))
    def amend(self, account: int, number: int, profit: str, hours: int) -> None:
        """Change a deal's profit at the broker, and perhaps its time."""
        broker = self.world.accounts[account]
        if broker.truth:
            old = broker.pick(number)
            moved = old.time + timedelta(hours=hours)
            broker.say(replace(old, profit=Decimal(profit), time=moved))

    @rule(account=accounts, number=numbers)
    def take_back(self, account: int, number: int) -> None:
        """Remove a deal at the broker; copies of it are still on their way."""
        broker = self.world.accounts[account]
        if broker.truth:
            broker.gone.append(broker.truth.pop(broker.pick(number).deal_id))

    @rule(account=accounts)
    def give_back(self, account: int) -> None:
        """Let the broker have a removed deal again."""
        broker = self.world.accounts[account]
        if broker.gone:
            broker.say(broker.gone.pop())

    @rule(account=accounts)
    def fetch(self, account: int) -> None:
        """Read for a pull; what it read is delivered whenever."""
        broker = self.world.accounts[account]
        broker.parcels.append(self.run(self.world.fetch(broker)))

    @rule(picks=parcels, fault=faults)
    def deliver(self, picks: list[tuple[int, int]], fault: str) -> None:
        """Let the owners write old and new parcels at once."""
        self.write(None, self.choose(picks), fault)

    @rule(account=accounts, number=numbers, fault=faults)
    def deliver_slow_pull(self, account: int, number: int, fault: str) -> None:
        """Let the owner write a pull that began some pulls ago."""
        pulls = [p for p in self.world.accounts[account].parcels if p.fetched_at is not None]
        if pulls:
            self.write(None, [pulls[-1 - number % len(pulls)]], fault)

    @rule(process=processes, picks=parcels, fault=faults)
    def deliver_anyhow(self, process: int, picks: list[tuple[int, int]], fault: str) -> None:
        """Let one process write parcels, whether or not the accounts are still its own."""
        self.write(process, self.choose(picks), fault)

    def write(self, process: int | None, chosen: list[Parcel], fault: str) -> None:
        """Write parcels, and see that no row changes that none of them may change."""

        async def send() -> None:
            self.world.processes[process or 0].store.fault = fault
            before = {a.account_id: await self.rig.rows(a.account_id) for a in self.world.accounts}
            pulled_at = {a.account_id: a.pulled_at for a in self.world.accounts}
            done = await asyncio.gather(*(self.world.send(process, each) for each in chosen))
            for account_id, rows in before.items():
                after = await self.rig.rows(account_id)
                mine = [
                    (parcel, is_done)
                    for parcel, is_done in zip(chosen, done, strict=True)
                    if parcel.account_id == account_id
                ]
                if not any(is_done for _, is_done in mine):
                    assert after == rows  # fenced, or not asked
                elif all(
                    parcel.fetched_at is None or parcel.fetched_at < pulled_at[account_id]
                    for parcel, _ in mine
                ):  # the stream and stale pulls only add
                    assert {d: after[d] for d in rows} == rows

        self.run(send())

    @rule(account=accounts, process=processes)
    def sync(self, account: int, process: int) -> None:
        """Let the owner, or a new one, pull everything and close the window."""
        broker = self.world.accounts[account]
        if broker.owner is None:
            self.run(self.world.claim(broker, process))
        self.run(self.world.sync(broker))

    @rule(process=processes, picks=parcels, fault=st.sampled_from(["crash before", "crash after"]))
    def crash(self, process: int, picks: list[tuple[int, int]], fault: str) -> None:
        """Kill a process in the middle of a commit; it starts anew, owning nothing."""
        chosen = [each for each in self.choose(picks) if each.deals or each.removals]
        if chosen:
            self.run(self.world.crash(process, chosen, fault))

    @rule(account=accounts, process=processes)
    def claim(self, account: int, process: int) -> None:
        """Let a process take an account over; who had it does not know."""
        self.run(self.world.claim(self.world.accounts[account], process))

    @rule(account=accounts)
    def pause(self, account: int) -> None:
        """Pause an account: nobody owns it, and late writes are fenced."""
        broker = self.world.accounts[account]
        broker.owner = None
        self.run(self.rig.release(broker.account_id))

    def choose(self, picks: list[tuple[int, int]]) -> list[Parcel]:
        """Choose among all that was ever said, the latest first."""
        return [
            said[-1 - number % len(said)]
            for account, number in picks
            if (said := self.world.accounts[account].parcels)
        ]

    @invariant()
    def is_consistent(self) -> None:
        """At any moment the ledger agrees with itself."""
        if self.is_checked_often:
            self.run(self.world.check())

    def teardown(self) -> None:
        """In the end the ledger is the broker's truth."""
        if not hasattr(self, "world"):
            return
        try:
            self.run(self.world.settle())
            self.run(self.world.check())
        finally:
            self.run(self.world.end())


@asynccontextmanager
async def opened(url: str | None) -> AsyncIterator[Rig | None]:
    """Open the database under test, if it is to be one."""
    if url is None:
        yield None
        return
    async with open_database(
        DatabaseSettings(url=Secret(url)), metrics=METRICS, max_connections=4
    ) as database:
        yield PostgresRig(database)


# in rounds, each short enough for the time limit of a test where a machine is slow
@pytest.mark.parametrize("_round", range(5))
@pytest.mark.parametrize(
    ("kind", "examples"), [pytest.param(k, n, id=k) for k, n in (("memory", 20), ("postgres", 6))]
)
def test_any_interleaving_ends_in_the_truth(
    request: pytest.FixtureRequest, kind: str, examples: int, _round: int
) -> None:
    """Receive, double, reorder, amend, remove, crash, take over, pause: ledger = truth, once."""
    url = None if kind == "memory" else request.getfixturevalue("database_url")
    with asyncio.Runner() as runner:
        manager = opened(url)
        rig = runner.run(manager.__aenter__())
        try:
            run_state_machine_as_test(
                lambda: LedgerMachine(runner, rig),
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=50,
                    derandomize=False,  # where CI is set, all rounds would be the same
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(manager.__aexit__(None, None, None))
