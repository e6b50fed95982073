"""A link between a broker's truth and a ledger, all in one process and on virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from random import Random

from prometheus_client import CollectorRegistry
from simulated_money import SimulatedPort, build_provisioner

from brokerd.api.memory_operations import MemoryOperationRegistry
from brokerd.config.settings import (
    HealthSettings,
    LedgerSettings,
    LinkSettings,
    OperationSettings,
)
from brokerd.connector.link import Link
from brokerd.connector.ports import AccountInformation, DealsPage, LinkPorts, RemoteAccount
from brokerd.connector.provisioning.memory import MemoryIntents, MemoryMoney
from brokerd.connector.wire import deals_from_json
from brokerd.domain import (
    AccountId,
    Backoff,
    Claim,
    Deal,
    DealId,
    Desired,
    Fence,
    Identity,
    Incarnation,
    LinkId,
    LinkSpec,
    LinkStatus,
    MetaApiRef,
    Phase,
    Platform,
    Priority,
    UserId,
    WriteOutcome,
)
from brokerd.errors import BrokerdError, Fenced, StoreUnavailable
from brokerd.health.calendar import Calendar
from brokerd.health.desk import IncidentDesk
from brokerd.ledger.content import receipt_of
from brokerd.ledger.memory import MemoryLedgerStore
from brokerd.ledger.memory_windows import MemoryWindows
from brokerd.ledger.ports import NumberedWrite
from brokerd.ledger.writer import Writer
from brokerd.operations import Operation, OperationId, OperationKind
from brokerd.pool.memory_leases import MemoryLeases
from brokerd.pool.memory_nodes import MemoryNodes
from brokerd.pool.memory_operations import MemoryOperations
from brokerd.pool.operations import OperationDesk
from brokerd.queue.memory import MemoryQueue
from brokerd.sandbox import dealing, wire
from brokerd.sandbox.dealing import At
from brokerd.sandbox.facts import TruthDeal
from brokerd.sandbox.faults import Fault, FaultKind, Faults
from brokerd.sandbox.habits import Past
from brokerd.sandbox.market import Market
from brokerd.sandbox.simulated import SimulatedMetaApi
from brokerd.sandbox.simulated_session import (
    SimulatedSession,
    SimulatedSettings,
    domain_deal,
)
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.truth import AccountSpec, Broker, TruthAccount
from brokerd.store.memory import AccountRow, LeaseRow, MemoryState, TransitionRow
from brokerd.telemetry import Metrics

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
DAY_SECONDS = 86_400.0
PATIENCE = {Priority.HIGH: 5.0, Priority.NORMAL: 60.0, Priority.LOW: 600.0}


class VirtualClock:
    """The loop's time from a fixed beginning; outside a loop, the beginning."""

    def __init__(self) -> None:
        self._jumped_seconds = 0.0

    def now(self) -> datetime:
        """Return the wall clock."""
        return START + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Return the loop's time."""
        try:
            return asyncio.get_running_loop().time() + self._jumped_seconds
        except RuntimeError:
            return 0.0

    def jump(self, seconds: float) -> None:
        """Let time pass in which the process does not run."""
        self._jumped_seconds += seconds

    def boottime(self) -> float:
        """Return the loop's time."""
        return self.monotonic()


class ShiftedClock(VirtualClock):
    """A clock whose hands are ahead of everybody else's; it runs as fast."""

    def __init__(self, clock: VirtualClock, *, ahead_seconds: float) -> None:
        super().__init__()
        self._clock = clock
        self._ahead = timedelta(seconds=ahead_seconds)

    def now(self) -> datetime:
        """Return the wall clock."""
        return self._clock.now() + self._ahead

    def monotonic(self) -> float:
        """Return the loop's time."""
        return self._clock.monotonic()


class WarpedMetaApi(SimulatedMetaApi):
    """The simulated service, whose answers a test can warp.

    `hidden` deals are left out of history answers though the broker has them, and are not found by
    ticket unless `finds_hidden`; `refusal` is raised by every request, `history_failure` by the
    next history pages; `is_history_shuffled` gives pages out of the order of time; `before_page`
    runs while a page is asked for, `between_pages` when it was read, `before_reading` before the
    account information is read.
    """

    def __init__(
        self, broker: Broker, *, faults: Faults, settings: SimulatedSettings | None = None
    ) -> None:
        super().__init__(broker, faults=faults, settings=settings)
        self.hidden: set[DealId] = set()
        self.finds_hidden = True
        self.refusal: BrokerdError | None = None
        self._refusals: list[BrokerdError] = []
        self.history_failures: list[BrokerdError] = []
        self.before_page: Callable[[], None] | None = None
        self.between_pages: Callable[[], None] | None = None
        self.before_reading: Callable[[], None] | None = None
        self.information_changes: dict[str, object] = {}
        self.record_changes: dict[str, object] = {}
        self.is_history_shuffled = False
        self.told: Callable[[str], None] = lambda _what: None
        self.accounts_asked_at: list[float] = []
        self.history_asked_at: list[float] = []
        self.information_asked_at: list[float] = []
        self.history_asked_from: list[datetime] = []
        self.opened: list[MetaApiRef] = []
        self.opened_from: list[datetime] = []

    async def account(self, remote: MetaApiRef) -> RemoteAccount:
        """Read the account, or refuse."""
        self.accounts_asked_at.append(self.broker.clock.monotonic())
        self.told("asks account")
        self._refuse_as_told()
        return replace(await super().account(remote), **self.record_changes)

    async def account_information(self, remote: MetaApiRef) -> AccountInformation:
        """Read what the terminal shows, or what a test says it shows."""
        self.information_asked_at.append(self.broker.clock.monotonic())
        self.told("asks information")
        self._refuse_as_told()
        if self.before_reading is not None:
            self.before_reading()
        return replace(await super().account_information(remote), **self.information_changes)

    async def deals(
        self, remote: MetaApiRef, *, start: datetime, end: datetime, offset: int
    ) -> DealsPage:
        """Read a page without what is hidden."""
        self._refuse_as_told()
        self.history_asked_at.append(self.broker.clock.monotonic())
        self.told(f"asks deals {offset}")
        self.history_asked_from.append(start)
        if self.history_failures:
            raise self.history_failures.pop(0)
        if self.before_page is not None:
            self.before_page()
        page = await super().deals(remote, start=start, end=end, offset=offset)
        if self.is_history_shuffled:
            first, *middle, last = page.deals
            page = replace(page, deals=(first, *reversed(middle), last))
        if self.between_pages is not None:
            self.between_pages()
        if any(deal.warp for deal in self.broker.account(remote.account_id).deals()):
            return self._written(page, remote)
        return replace(page, deals=tuple(d for d in page.deals if d.deal_id not in self.hidden))

    async def deals_by_ticket(self, remote: MetaApiRef, *, deal_id: DealId) -> DealsPage:
        """Find a deal unless it is hidden here too."""
        self.told("asks ticket")
        self._refuse_as_told()
        page = await super().deals_by_ticket(remote, deal_id=deal_id)
        is_blind = deal_id in self.hidden and not self.finds_hidden
        return replace(page, deals=()) if is_blind else page

    async def open(self, remote: MetaApiRef, *, account: RemoteAccount, synced_through: datetime):
        """Note who was opened, and open."""
        self.opened.append(remote)
        self.told("opens")
        self.opened_from.append(synced_through)
        return await super().open(remote, account=account, synced_through=synced_through)

    def _written(self, page: DealsPage, remote: MetaApiRef) -> DealsPage:
        """Read the page again as it goes over the wire, spoilt records and all."""
        account = self.broker.account(remote.account_id)
        records = [
            wire.deal(account.deal(deal.deal_id), server=account.server) for deal in page.deals
        ]
        return deals_from_json(b"[" + b",".join(records) + b"]")

    def refuse_once(self, refusal: BrokerdError) -> None:
        """Refuse the next request."""
        self._refusals.append(refusal)

    def forgive(self) -> None:
        """Refuse nothing any more."""
        self.refusal = None
        self._refusals.clear()

    def _refuse_as_told(self) -> None:
        if self._refusals:
            raise self._refusals.pop(0)
        if self.refusal is not None:
            raise self.refusal


@dataclass
class Wire:
    """The way to Postgres. `report_seconds` are taken, one each, by the coming reports."""

    is_cut: bool = False
    refused: int = 0
    reports_to_fail: int = 0
    report_seconds: list[float] = field(default_factory=list)
    commit_seconds: float = 0.0

    def send(self) -> None:
        """Reach the store, or not."""
        if self.is_cut:
            self.refused += 1
            raise StoreUnavailable("cut")


class WiredLedger(MemoryLedgerStore):
    """The ledger at the other end of a wire."""

    def __init__(self, state: MemoryState, wire: Wire) -> None:
        super().__init__(state)
        self._wire = wire

    async def commit(self, writes: Sequence[NumberedWrite]) -> Mapping[AccountId, WriteOutcome]:
        """Commit if the store can be reached, as slowly as told."""
        await asyncio.sleep(self._wire.commit_seconds)
        self._wire.send()
        return await super().commit(writes)

    async def close_window(
        self, fence: Fence, *, start: datetime, end: datetime, is_continuation: bool = False
    ) -> None:
        """Close if the store can be reached."""
        self._wire.send()
        await super().close_window(fence, start=start, end=end, is_continuation=is_continuation)


class WiredLeases(MemoryLeases):
    """The leases at the other end of a wire."""

    def __init__(self, state: MemoryState, wire: Wire) -> None:
        super().__init__(state, patience_seconds=PATIENCE)
        self._wire = wire
        self.cancellations_seen: list[int] = []
        self.messages: list[str] = []

    async def report(self, fence: Fence, status: LinkStatus) -> None:
        """Report if the store can be reached, as late as told."""
        self._wire.send()
        if self._wire.reports_to_fail:
            self._wire.reports_to_fail -= 1
            raise StoreUnavailable("no room for a report")
        if self._wire.report_seconds:
            await asyncio.sleep(self._wire.report_seconds.pop(0))
        await super().report(fence, status)
        if status.message and status.message not in self.messages[-1:]:
            self.messages.append(status.message)

    async def release(self, fence: Fence, *, backoff: Backoff, delay_seconds: float) -> None:
        """Release if the store can be reached."""
        self._wire.send()
        await super().release(fence, backoff=backoff, delay_seconds=delay_seconds)

    async def save_backoff(self, fence: Fence, backoff: Backoff) -> None:
        """Save if the store can be reached."""
        self._wire.send()
        self.cancellations_seen.append(asyncio.current_task().cancelling())
        await super().save_backoff(fence, backoff)

    async def record_modes(self, fence: Fence, *, margin_mode: str, trade_mode: str) -> bool:
        """Record if the store can be reached."""
        self._wire.send()
        return await super().record_modes(fence, margin_mode=margin_mode, trade_mode=trade_mode)


class World:
    """One account, one link that is claimed again whenever it may be, and what it wrote."""

    def __init__(
        self,
        *,
        platform: Platform = Platform.MT5,
        past: Past | None = None,
        settings: LinkSettings | None = None,
        sync_from: datetime | None = None,
        status_seconds: float = 10.0,
        calendar: Calendar | None = None,
        ahead_seconds: float = 0.0,
        poll_seconds: float = 5.0,
        seed: int = 1,
    ) -> None:
        self.clock = VirtualClock()
        ours = ShiftedClock(self.clock, ahead_seconds=ahead_seconds)
        self.state = MemoryState(clock=self.clock)
        self.settings = settings or LinkSettings()
        self.metrics = Metrics(CollectorRegistry())
        self.broker = Broker(clock=self.clock, random=Random(seed))
        self.faults = Faults(random=Random(seed + 1))
        self.market = Market(self.broker, random=Random(seed + 2))
        server = open_server(self.broker, ServerSpec(platform=platform))
        self.account = self.broker.add_account(AccountSpec(server=server))
        self.market.seed(self.account, past or Past(deals=40, days=20))
        self.service = WarpedMetaApi(
            self.broker,
            faults=self.faults,
            settings=SimulatedSettings(status_seconds=status_seconds),
        )
        self.wire = Wire()
        self.leases = WiredLeases(self.state, self.wire)
        self.queue = MemoryQueue(self.state)
        self.writer = Writer(
            WiredLedger(self.state, self.wire),
            settings=LedgerSettings(),
            clock=ours,
            random=Random(seed + 3),
            metrics=self.metrics,
        )
        self.operations = MemoryOperationRegistry(self.state, expire_seconds=3_600.0)
        self.desk = OperationDesk(
            Incarnation(1),
            store=MemoryOperations(self.state),
            settings=OperationSettings(poll_seconds=3_600.0),  # tests wake it
            clock=self.clock,
            metrics=self.metrics,
        )
        self.money = MemoryMoney(state=self.state)
        self.port = SimulatedPort(self.service, self.clock)
        self.ports = LinkPorts(
            rest=self.service,
            provisioning=build_provisioner(
                rest=self.service,
                port=self.port,
                intents=MemoryIntents(self.money),
                clock=self.clock,
                metrics=self.metrics,
                seed=seed + 5,
            ),
            stream=self.service,
            ledger=self.writer,
            windows=MemoryWindows(self.state),
            long_pulls=asyncio.Semaphore(self.settings.max_long_pulls),
            operations=self.desk,
            lease=self.leases,
            incidents=IncidentDesk(
                HealthSettings(),
                calendar=calendar or Calendar(),
                clock=ours,
                metrics=self.metrics,
            ),
            settings=self.settings,
            clock=ours,
            random=Random(seed + 4),
            metrics=self.metrics,
        )
        self.link: Link | None = None
        self._poll_seconds = poll_seconds
        self._life: asyncio.Task[None] | None = None
        self.claims: list[Claim] = []
        self.is_fenced = False
        self.entered: TransitionRow | None = None
        self._looked_at = 0
        self.account_id = AccountId(1)
        self._register(spec_of(self.account, sync_from=sync_from))

    # What a client and other nodes do.

    def change(self, **changes: object) -> None:
        """Change the spec, as a client does, and tell the link, as the pool does."""
        row = self.state.accounts[self.account_id]
        spec = replace(row.spec, **changes)
        self._put(replace(row, spec=spec, generation=row.generation + 1))

    def delete(self) -> None:
        """Delete the link."""
        row = self.state.accounts[self.account_id]
        self._put(replace(row, generation=row.generation + 1, deleted_at=self.clock.now()))

    async def ask_audit(self) -> OperationId:
        """Ask for an audit, as a client does, and hint at it; return its id."""
        asked = await self.operations.ask(LinkId("link-1"), OperationKind.AUDIT)
        self.desk.wake.set()
        return asked.operation.operation_id

    def steal(self) -> None:
        """Let another node take the lease."""
        lease = self.lease
        self.state.leases[self.account_id] = replace(
            lease, owner=Incarnation(99), epoch=lease.epoch + 1
        )

    def requeue(self) -> None:
        """End a wait, as the registry does when a link's credentials or account changed."""
        self.state.leases[self.account_id] = replace(self.lease, not_before=None)

    def die(self) -> None:
        """End the link's process: no word to the store, and another one takes over."""
        if self._life is not None:
            self._life.cancel()

    async def run(self) -> None:
        """Do what a pool does for one link: claim it when it waits, run it, again and again."""
        nodes = MemoryNodes(self.state)
        async with asyncio.TaskGroup() as group:
            while not self.is_fenced:
                self._life = group.create_task(self._live(nodes))
                await asyncio.wait({self._life})

    async def _live(self, nodes: MemoryNodes) -> None:
        incarnation = await nodes.register("node", max_links=1)
        self.link = None
        while not self.is_fenced:
            for claim in await self.queue.claim(incarnation, limit=1):
                self.claims.append(claim)
                self.link = Link(claim, ports=self.ports)
                try:
                    await self.link.run()
                except Fenced:
                    self.is_fenced = True
                self.link = None
            await asyncio.sleep(self._poll_seconds)

    # What the broker does.

    def trade(self, deals: int = 1) -> list[DealId]:
        """Let deals happen now; return their ids."""
        before = set(self.true_ids)
        self.market.trade(self.account, deals=deals)
        return [deal_id for deal_id in self.true_ids if deal_id not in before]

    def book(
        self,
        amount: str = "-7.25",
        *,
        type: str = "DEAL_TYPE_BALANCE",  # noqa: A002
        age: timedelta = timedelta(0),
        is_quiet: bool = False,
    ) -> DealId:
        """Book money, back-dated by an age, on the stream or behind its back."""
        now = self.broker.now()
        at = At(time=now - age, booked_at=now)
        booking = dealing.cash(self.account, at=at, type=type, amount=Decimal(amount))
        (self.account.book_quietly if is_quiet else self.account.book)(booking)
        return booking.deals[0].deal_id

    def book_many(self, count: int, *, age: timedelta = timedelta(days=3)) -> None:
        """Book as many deals with one and the same time."""
        for _ in range(count):
            self.book("1.00", age=age, is_quiet=True)

    def switch_on(self, kind: FaultKind, **options: object) -> None:
        """Switch a fault on."""
        self.faults.switch_on(Fault(kind=kind, **options))

    def switch_delay(self, seconds: float) -> None:
        """Let the next request take so long."""
        self.switch_on(FaultKind.DELAY, seconds=seconds, limit=1)

    def switch_off(self, kind: FaultKind) -> None:
        """Switch a fault off."""
        self.faults.switch_off(kind)

    def deal_aged(self, most: timedelta, *, least: timedelta = timedelta(hours=1)) -> TruthDeal:
        """Return a deal the broker has, neither older nor younger than that."""
        now = self.broker.now()
        return self.account.deals(start=now - most, end=now - least)[0]

    # What can be seen.

    @property
    def phase(self) -> Phase | None:
        """Return the stored phase."""
        return self.status.phase if self.status else None

    @property
    def status(self) -> LinkStatus | None:
        """Return the stored status."""
        return self.state.links.get(self.account_id)

    @property
    def session(self) -> SimulatedSession:
        """Return the one session that is open."""
        [session] = self.service._sessions[self.account.metaapi_id]
        return session

    @property
    def lease(self) -> LeaseRow:
        """Return the stored lease."""
        return self.state.leases[self.account_id]

    @property
    def phases(self) -> list[Phase]:
        """Return every phase the link went through, in order."""
        return [row.phase for row in self.state.transitions]

    @property
    def losses(self) -> list[str]:
        """Return what each failed attempt said, in order."""
        return self.leases.messages

    @property
    def reasons(self) -> list[str]:
        """Return the reason of each phase the link went through, in order."""
        return [row.reason for row in self.state.transitions]

    @property
    def watermark(self) -> datetime | None:
        """Return how far the ledger is complete."""
        head = self.state.heads.get(self.account_id)
        return head.watermark if head else None

    @property
    def true_ids(self) -> list[DealId]:
        """Return the ids of all deals of the broker."""
        return [deal.deal_id for deal in self.account.deals()]

    @property
    def truth(self) -> dict[DealId, Deal]:
        """Return all deals of the broker as we would read them."""
        return {
            deal.deal_id: domain_deal(deal, server=self.account.server)
            for deal in self.account.deals()
        }

    @property
    def ledger(self) -> dict[DealId, Deal]:
        """Return all deals of the ledger that are not removed."""
        return {
            deal_id: row.deal
            for (account_id, deal_id), row in self.state.deals.items()
            if account_id == self.account_id and row.removed_at is None
        }

    def operation(self, operation_id: OperationId) -> Operation:
        """Return a stored operation."""
        return self.state.operations[operation_id]

    async def until_ended(self, operation_id: OperationId, *, within: float = 30.0) -> Operation:
        """Wait until an operation is done or failed; return it."""
        await self.until(lambda: self.operation(operation_id).finished_at, within=within)
        return self.operation(operation_id)

    def events(self, deal_id: DealId) -> list[str]:
        """Return what consumers were told of a deal."""
        return [event.type for event in self.state.events if event.deal_id == deal_id]

    def sample(self, name: str, **labels: str) -> float:
        """Read a metric; 0 when it has never moved."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def until(self, is_met: Callable[[], bool], *, within: float = 30.0) -> float:
        """Wait until something is so; return after how many seconds, fail when it never is."""
        began_at = self.clock.monotonic()
        while not is_met():
            waited = self.clock.monotonic() - began_at
            assert waited <= within, f"not within {within} s; {self.status}"
            await asyncio.sleep(min(max(0.05, within / 1_200), 5.0))
        return self.clock.monotonic() - began_at

    async def until_phase(self, phase: Phase, *, within: float = 30.0) -> float:
        """Wait until the link entered a phase after the last one waited for; return the seconds."""
        began_at = self.clock.now()
        rows = self.state.transitions

        def is_met() -> bool:
            while self._looked_at < len(rows):
                self.entered = rows[self._looked_at]
                self._looked_at += 1
                if self.entered.phase is phase:
                    return True
            return False

        await self.until(is_met, within=within)
        return max(0.0, (self.entered.at - began_at).total_seconds())

    async def until_live(self, *, within: float = 30.0) -> float:
        """Wait until the link became live after the last phase waited for; return the seconds."""
        return await self.until_phase(Phase.LIVE, within=within)

    def assert_exact(self) -> None:
        """Check that the ledger is the truth, and that every change was told once and in order."""
        assert self.ledger == self.truth
        told = [event for event in self.state.events if event.account_id == self.account_id]
        assert [event.account_seq for event in told] == list(range(1, len(told) + 1))
        changes = [(event.deal_id, event.revision) for event in told if event.deal_id is not None]
        assert len(set(changes)) == len(changes)
        assert {deal_id for deal_id, _ in changes} >= set(self.truth)

    # Setting up.

    def _register(self, spec: LinkSpec) -> None:
        now = self.clock.now()
        self.state.accounts[self.account_id] = AccountRow(
            account_id=self.account_id,
            link_id=LinkId("link-1"),
            spec=spec,
            generation=1,
            created_at=now,
            updated_at=now,
        )
        self.state.leases[self.account_id] = LeaseRow(
            account_id=self.account_id, is_wanted=True, deadline=now, queued_at=now
        )

    def _put(self, row: AccountRow) -> None:
        self.state.accounts[self.account_id] = row
        is_wanted = row.spec.desired is Desired.LIVE and row.deleted_at is None
        self.state.leases[self.account_id] = replace(self.lease, is_wanted=is_wanted)
        if self.link is not None:
            self.link.update(
                replace(
                    self.claims[-1],
                    spec=row.spec,
                    generation=row.generation,
                    is_deleted=row.deleted_at is not None,
                )
            )


def spec_of(account: TruthAccount, *, sync_from: datetime | None = None) -> LinkSpec:
    """Return the spec a client would register the account with."""
    return LinkSpec(
        user_id=UserId("user-1"),
        desired=Desired.LIVE,
        priority=Priority.NORMAL,
        metaapi=MetaApiRef(token="main", account_id=account.metaapi_id, region="new-york"),
        identity=Identity(
            platform=account.platform,
            login=account.login,
            server=account.server.name,
            currency=account.spec.currency,
        ),
        sync_from=sync_from,
    )


def cut_windows(state: MemoryState, account_id: AccountId, *, parts: int, days: float) -> None:
    """Cut an account's one window in so many, the first of which ends in those days before."""
    (whole,) = state.windows[account_id]
    first = whole.end - timedelta(days=days)
    edges = [first + (whole.end - first) / parts * part for part in range(1, parts)]
    state.windows[account_id] = [
        replace(
            whole,
            start=start,
            end=end,
            receipt=receipt_of(
                row.deal
                for row in state.deals.values()
                if row.account_id == account_id and start <= row.deal.time < end
            ),
        )
        for start, end in pairwise([whole.start, *edges, whole.end])
    ]


def subsequence(phases: Iterable[Phase], within: Iterable[Phase]) -> bool:
    """Say whether phases occurred in that order, others between them or not."""
    rest = iter(within)
    return all(phase in rest for phase in phases)


@asynccontextmanager
async def running_link(**options: object) -> AsyncIterator[World]:
    """Run a link for the time of a test; it must leave no session and no count behind."""
    world = World(**options)
    async with asyncio.TaskGroup() as group:
        services = (world.writer.run(), world.desk.run(), world.run())
        tasks = [group.create_task(service) for service in services]
        yield world
        for task in reversed(tasks):
            task.cancel()
    assert world.service.open_sessions == 0
    assert all(world.sample("brokerd_links", phase=phase) == 0 for phase in Phase)
