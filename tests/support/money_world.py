"""A trading account that MetaApi does not know yet, its link, and the bill, on virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from decimal import Decimal

from link_world import World
from simulated_money import SECRETS, build_provisioner

from brokerd.api.memory import MemoryRegistry
from brokerd.api.ports import LinkRecord, SubmitResult, SubmittedPassword
from brokerd.config.settings import QueueSettings, Secret
from brokerd.connector.link import Link
from brokerd.connector.provisioning.errand import Errand, ErrandPorts, is_errand
from brokerd.connector.provisioning.memory import MemoryIntents
from brokerd.connector.provisioning.ports import Call, Intent, Outcome
from brokerd.connector.provisioning.sealing import Vault
from brokerd.domain import (
    AccountId,
    Claim,
    Desired,
    Fence,
    Identity,
    Incarnation,
    LinkId,
    LinkSpec,
    MetaApiPlace,
    MetaApiRef,
    Phase,
    Priority,
    UserId,
)
from brokerd.pool.memory_nodes import MemoryNodes
from brokerd.sandbox.bill import ChargeKind
from brokerd.sandbox.truth import TruthAccount

PLACE = MetaApiPlace(token="main", region="new-york")
IDLE_SECONDS = 60.0
"""The longest wait of a pool that finds nothing to do: looking each second proves no more."""


class Killed(BaseException):
    """The process dies here."""


class WatchedIntents(MemoryIntents):
    """A store that may not be reached, or whose answers may not reach us."""

    def __init__(self, world: "MoneyWorld") -> None:
        super().__init__(world.money)
        self._world = world

    async def open(self, fence: Fence, call: Call, **limits: object) -> Intent:
        """Open, with a step before and after."""
        self._world.step("store")
        intent = await super().open(fence, call, **limits)
        self._world.transactions.append(intent.transaction_id)
        self._world.step("store")
        return intent

    async def close(self, fence: Fence, intent: Intent, outcome: Outcome) -> None:
        """Close, with a step before and after."""
        self._world.step("store")
        await super().close(fence, intent, outcome)
        self._world.step("store")

    async def adopt(self, fence: Fence, created_id: str) -> None:
        """Adopt, with a step before and after."""
        self._world.step("store")
        await super().adopt(fence, created_id)
        self._world.step("store")


class MoneyWorld(World):
    """Like `World`, but its link is registered over the API, and errands are run as well.

    `kill_at` is the step of provisioning at which the process dies, once; `steps` counts them.
    """

    def __init__(self, *, kill_at: int | None = None, **options: object) -> None:
        budgets = options.pop("budgets", {})
        provisioning = options.pop("provisioning", None)
        super().__init__(**options)
        self.kill_at = kill_at
        self.steps = 0
        self.transactions: list[str] = []
        self.trading = self.broker.open_login(replace(self.account.spec, name="new"))
        self.password = self.trading.access.password
        self.port.before = self.port.after = self.step
        self.provisioner = build_provisioner(
            rest=self.service,
            port=self.port,
            intents=WatchedIntents(self),
            clock=self.clock,
            metrics=self.metrics,
            settings=provisioning,
            **budgets,
        )
        self.ports = replace(self.ports, provisioning=self.provisioner)
        self.registry = MemoryRegistry(self.state, settings=QueueSettings(), money=self.money)
        self.vault = Vault(SECRETS, random_bytes=self.random_bytes)
        self.incarnation = Incarnation(0)
        self._hint = asyncio.Event()

    def _register(self, spec: LinkSpec) -> None:
        """Leave that to the test."""

    def random_bytes(self, count: int) -> bytes:
        """Return bytes that are the same in every run."""
        return self.broker.random.randbytes(count)

    def step(self, _name: str) -> None:
        """Note a step of provisioning; die if it is the chosen one."""
        self.steps += 1
        if self.steps == self.kill_at:
            raise Killed

    # What a client does.

    @property
    def identity(self) -> Identity:
        """Return the identity of the trading account."""
        return Identity(
            platform=self.trading.platform,
            login=self.trading.login,
            server=self.trading.server.name,
            currency=self.trading.spec.currency,
        )

    async def put(
        self,
        desired: Desired = Desired.LIVE,
        *,
        link_id: str = "link-1",
        metaapi: MetaApiRef | MetaApiPlace = PLACE,
    ) -> None:
        """Put the link's spec."""
        spec = LinkSpec(
            user_id=UserId("user-1"),
            desired=desired,
            priority=Priority.NORMAL,
            metaapi=metaapi,
            identity=self.identity,
        )
        await self.registry.put(LinkId(link_id), spec, if_match=None, must_be_new=False)
        self._hint.set()
        self.account_id = next(
            account_id
            for account_id, row in self.state.accounts.items()
            if row.link_id == link_id and row.deleted_at is None
        )

    async def submit(self, password: str, *, link_id: str = "link-1") -> SubmitResult:
        """Submit a password."""
        secret = Secret(password)
        result = await self.registry.submit(
            LinkId(link_id),
            SubmittedPassword(
                identity=self.identity,
                digest=self.vault.digest(self.identity, secret),
                digests=self.vault.digests(self.identity, secret),
                sealed=self.vault.seal(secret, link_id=LinkId(link_id)),
            ),
        )
        assert result is not None
        self._hint.set()
        return result

    async def remove(self, *, with_account: bool) -> None:
        """Delete the link."""
        assert await self.registry.delete(LinkId("link-1"), removes_remote=with_account)
        self._hint.set()

    async def record(self) -> LinkRecord | None:
        """Read the link."""
        return await self.registry.get(LinkId("link-1"))

    # What can be seen.

    @property
    def made(self) -> list[TruthAccount]:
        """Return the MetaApi accounts of the login."""
        accounts = self.broker.accounts.values()
        return [account for account in accounts if account.login == self.trading.login]

    def billed(self, kind: ChargeKind) -> int:
        """Return how often MetaApi charged something."""
        return self.service.state.bill.count(kind)

    @property
    def attempts(self) -> tuple[int, int, int]:
        """Return the accounts added, the deployments and the failed attempts that were charged."""
        return (
            self.billed(ChargeKind.ACCOUNT_ADDED),
            self.billed(ChargeKind.DEPLOYMENT),
            self.billed(ChargeKind.FAILED_ATTEMPT),
        )

    @property
    def spent(self) -> Decimal:
        """Return what our own books say was spent."""
        return sum((row.usd for row in self.money.spend.values()), Decimal(0))

    @property
    def waiting_passwords(self) -> int:
        """Return how many sealed passwords there are."""
        return sum(row.sealed is not None for row in self.money.credentials.values())

    # What the pool does.

    async def run(self) -> None:
        """Claim the link, or its errand, and run it; a process that dies is started again."""
        while True:
            self.incarnation = await MemoryNodes(self.state).register("node", max_links=1)
            try:
                await self._live()
            except* Killed:
                await asyncio.sleep(1.0)

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as group:
            pause_seconds = 1.0
            while True:
                claims = await self.queue.claim(self.incarnation, limit=1, errands=1)
                for claim in claims:
                    self.claims.append(claim)
                    await self._serve(claim, group)
                pause_seconds = 1.0 if claims else min(2 * pause_seconds, IDLE_SECONDS)
                if await self._is_hinted(pause_seconds):
                    pause_seconds = 1.0

    async def _is_hinted(self, seconds: float) -> bool:
        """Wait that long, or until a client did something, as a node's hints tell it."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hint.wait(), seconds)
        is_hinted = self._hint.is_set()
        self._hint.clear()
        return is_hinted

    async def _serve(self, claim: Claim, group: asyncio.TaskGroup) -> None:
        link = self._build(claim)
        task = group.create_task(link.run())
        generation = claim.generation
        while not task.done():
            await asyncio.wait({task}, timeout=1.0)
            for newer in await self.queue.changed(self.incarnation):
                is_wanted = newer.spec.desired is Desired.LIVE and not newer.is_deleted
                if newer.fence == claim.fence and (newer.generation > generation or not is_wanted):
                    generation = newer.generation
                    link.update(newer)

    def _build(self, claim: Claim) -> Link | Errand:
        if not is_errand(claim):
            return Link(claim, ports=self.ports)
        ports = ErrandPorts(
            provisioner=self.provisioner,
            lease=self.leases,
            settings=self.settings,
            clock=self.clock,
            random=self.ports.random,
            metrics=self.metrics,
        )
        return Errand(claim, ports=ports)


@asynccontextmanager
async def running_money(
    prepare: Callable[[MoneyWorld], None] = lambda _: None, **options: object
) -> AsyncIterator[MoneyWorld]:
    """Run a world for the time of a test; it must leave no session behind."""
    world = MoneyWorld(**options)
    world.account_id = AccountId(1)
    prepare(world)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(world.writer.run()), group.create_task(world.run())]
        yield world
        for task in reversed(tasks):
            task.cancel()
    assert world.service.open_sessions == 0
    assert all(world.sample("brokerd_links", phase=phase) == 0 for phase in Phase)
