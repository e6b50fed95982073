"""Stopped links, removed accounts and submitted passwords: one suite over memory and Postgres."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from brokerd.api.memory import MemoryRegistry
from brokerd.api.ports import CredentialBook, Registry, SubmitResult, SubmittedPassword
from brokerd.api.postgres import PostgresRegistry
from brokerd.clock import SystemClock
from brokerd.config.settings import BudgetSettings, DatabaseSettings, QueueSettings, Secret
from brokerd.connector.ports import LeaseHandle
from brokerd.connector.provisioning.budgets import limits_of
from brokerd.connector.provisioning.memory import MemoryIntents, MemoryMoney
from brokerd.connector.provisioning.ports import (
    Auth,
    Call,
    Charge,
    CredentialState,
    Intent,
    IntentKind,
    Intents,
    KnownCredentials,
    Outcome,
    Sealed,
    Standing,
)
from brokerd.connector.provisioning.postgres import PostgresIntents
from brokerd.domain import (
    Backoff,
    Claim,
    Desired,
    Identity,
    Incarnation,
    LinkId,
    LinkSpec,
    LinkStatus,
    MetaApiPlace,
    MetaApiRef,
    Phase,
    Platform,
    Priority,
    UserId,
)
from brokerd.errors import Conflict, Fenced, KnownBadCredentials
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
A, B = LinkId("a"), LinkId("b")
NAMED = MetaApiRef(token="main", account_id="m-1", region="london")
PLACE = MetaApiPlace(token="main", region="london")
IDENTITY = Identity(platform=Platform.MT5, login="5016", server="Broker-Demo", currency="USD")
LIMITS = limits_of(BudgetSettings())


def spec(desired: Desired = Desired.LIVE, *, metaapi=NAMED, **changes: object) -> LinkSpec:
    """Build a spec."""
    made = LinkSpec(
        user_id=UserId("u-17"),
        desired=desired,
        priority=Priority.NORMAL,
        metaapi=metaapi,
        identity=IDENTITY,
    )
    return replace(made, **changes)


def password(text: str = "pass", *, identity: Identity = IDENTITY) -> SubmittedPassword:
    """Build a submitted password; its digest under an older key is known as well."""
    return SubmittedPassword(
        identity=identity,
        digest=f"k2:{text}",
        digests=[f"k1:{text}", f"k2:{text}"],
        sealed=Sealed(key_id="k2", box=text.encode()),
    )


@dataclass
class Rig:
    """A registry, and the daemon's side of the same rows."""

    registry: Registry
    book: CredentialBook
    queue: Queue
    nodes: Nodes
    leases: LeaseHandle
    intents: Intents
    incarnation: Incarnation | None = None

    async def put(self, wanted: LinkSpec, link_id: LinkId = A) -> None:
        """Put a spec."""
        await self.registry.put(link_id, wanted, if_match=None, must_be_new=False)

    async def claim(self, *, limit: int = 1, errands: int = 1, slots: int = 10) -> list[Claim]:
        """Claim as a new node does."""
        self.incarnation = await self.nodes.register(f"n-{id(object())}", max_links=slots)
        return list(await self.queue.claim(self.incarnation, limit=limit, errands=errands))

    async def submit(self, text: str = "pass", link_id: LinkId = A) -> SubmitResult | None:
        """Submit a password."""
        return await self.book.submit(link_id, password(text))

    async def standing(self, claim: Claim) -> Standing:
        """Read what is known of the account."""
        return await self.intents.standing(claim.fence.account_id, generation=claim.generation)

    async def release(self, claim: Claim, *, delay_seconds: float = 0.0) -> None:
        """Give the lease back."""
        await self.leases.release(claim.fence, backoff=Backoff(), delay_seconds=delay_seconds)

    async def open(self, claim: Claim, *, version: int, kind: IntentKind) -> Intent:
        """Open an intent."""
        call = Call(
            kind=kind,
            transaction_id="t",
            generation=claim.generation,
            credential_version=version,
            reserve_usd=None,
        )
        return await self.intents.open(claim.fence, call, limits=LIMITS)

    async def close(self, claim: Claim, intent: Intent, **outcome: object) -> None:
        """Close an intent."""
        await self.intents.close(claim.fence, intent, Outcome(**{"code": "done", **outcome}))


@pytest.fixture
async def rig(fleet_url: str | None) -> AsyncIterator[Rig]:
    """Give each implementation in turn."""
    queue = QueueSettings(patience_seconds=PATIENCE)
    if fleet_url is None:
        state = MemoryState(clock=SystemClock())
        money = MemoryMoney(state=state)
        registry = MemoryRegistry(state, settings=queue, money=money)
        yield Rig(
            registry,
            registry,
            MemoryQueue(state),
            MemoryNodes(state),
            MemoryLeases(state, patience_seconds=PATIENCE),
            MemoryIntents(money),
        )
        return
    settings = DatabaseSettings(url=Secret(fleet_url))
    async with open_database(settings, metrics=Metrics(CollectorRegistry())) as database:
        opened = PostgresRegistry(database, settings=queue, clock=SystemClock())
        yield Rig(
            opened,
            opened,
            PostgresQueue(database),
            PostgresNodes(database, heartbeats=database),
            PostgresLeases(database, patience_seconds=PATIENCE),
            PostgresIntents(database),
        )


# Stopping.


async def test_a_stopped_link_is_no_part_of_the_queue_but_an_errand(rig: Rig) -> None:
    """Whoever waits for a slot does not wait behind it; it is claimed where no slot is free."""
    await rig.put(spec())
    await rig.put(spec(Desired.STOPPED))
    depth = await rig.queue.depth()
    assert (depth.ready, depth.in_backoff, depth.errands) == (0, 0, 1)
    record = await rig.registry.get(A)
    assert record is not None
    assert (record.has_errand, record.queue, record.status.phase) == (True, None, Phase.STOPPED)
    assert await rig.claim(errands=0) == []
    [claim] = await rig.claim(limit=0, slots=0)
    assert claim.spec.desired is Desired.STOPPED
    assert (await rig.queue.depth()).errands == 0


async def test_an_errand_that_is_done_rests(rig: Rig) -> None:
    """Nobody claims the link again, until it is wanted."""
    await rig.put(spec(Desired.STOPPED))
    [claim] = await rig.claim()
    await rig.leases.finish(claim.fence, generation=claim.generation)
    assert await rig.claim() == []
    record = await rig.registry.get(A)
    assert record is not None
    assert (record.has_errand, record.owner) == (False, None)
    await rig.put(spec())
    [again] = await rig.claim()
    assert again.fence.epoch == claim.fence.epoch + 1


async def test_an_errand_that_changed_meanwhile_is_not_done(rig: Rig) -> None:
    """The account was undeployed, and is now to be removed: somebody else does that."""
    await rig.put(spec(Desired.STOPPED))
    [claim] = await rig.claim()
    await rig.registry.delete(A, removes_remote=True)
    [told] = await rig.queue.changed(rig.incarnation)
    assert (told.is_deleted, told.removes_remote) == (True, True)
    await rig.leases.finish(claim.fence, generation=claim.generation)
    [removal] = await rig.claim()
    assert (removal.is_deleted, removal.removes_remote) == (True, True)
    await rig.leases.finish(removal.fence, generation=removal.generation)
    assert await rig.claim() == []


async def test_an_errand_is_fenced_like_everything_else(rig: Rig) -> None:
    """Whoever lost it does not say that it is done."""
    await rig.put(spec(Desired.STOPPED))
    [claim] = await rig.claim()
    with pytest.raises(Fenced):
        await rig.leases.finish(
            replace(claim.fence, epoch=claim.fence.epoch + 1), generation=claim.generation
        )
    assert (await rig.registry.get(A)).has_errand


async def test_a_failed_errand_waits_its_time(rig: Rig) -> None:
    """And is claimed again after it."""
    await rig.put(spec(Desired.STOPPED))
    [claim] = await rig.claim()
    await rig.release(claim, delay_seconds=0.2)
    assert (await rig.queue.depth()).errands == 0
    assert await rig.claim() == []
    await asyncio.sleep(0.3)
    assert (await rig.queue.depth()).errands == 1
    assert len(await rig.claim()) == 1


async def test_the_oldest_errands_come_first_and_beside_the_links(rig: Rig) -> None:
    """They take nothing from those who wait for a slot, which come first in the answer."""
    for number in range(3):
        wanted = replace(IDENTITY, login=str(number))
        await rig.put(spec(Desired.STOPPED, identity=wanted), LinkId(f"stopped-{number}"))
    await rig.put(spec())
    claims = await rig.claim(limit=5, errands=2)
    assert [claim.link_id for claim in claims] == ["a", "stopped-0", "stopped-1"]


async def test_a_link_that_was_never_provisioned_has_nothing_to_stop(rig: Rig) -> None:
    """Registered stopped, without an account: nobody need do anything."""
    await rig.put(spec(Desired.STOPPED, metaapi=PLACE))
    assert await rig.claim() == []
    assert (await rig.registry.get(A)).status.phase is Phase.STOPPED


async def test_stopping_does_not_wait_for_a_backoff(rig: Rig) -> None:
    """What is refused for an hour goes on costing until it is undeployed."""
    await rig.put(spec())
    [claim] = await rig.claim()
    await rig.release(claim, delay_seconds=3600)
    await rig.put(spec(Desired.STOPPED))
    assert len(await rig.claim()) == 1


@pytest.mark.parametrize("removes_remote", [False, True])
async def test_a_deleted_link_is_shown_until_its_account_is_removed(
    rig: Rig, *, removes_remote: bool
) -> None:
    """Without an account to remove it is gone at once."""
    await rig.put(spec())
    assert await rig.registry.delete(A, removes_remote=removes_remote)
    record = await rig.registry.get(A)
    assert (record is not None) is removes_remote
    claims = await rig.claim()
    assert len(claims) == removes_remote
    for claim in claims:
        await rig.leases.finish(claim.fence, generation=claim.generation)
    assert await rig.registry.get(A) is None


async def test_an_identity_registered_again_is_not_removed_any_more(rig: Rig) -> None:
    """The client changed its mind: the account is wanted."""
    await rig.put(spec())
    await rig.registry.delete(A, removes_remote=True)
    await rig.put(spec(), B)
    [claim] = await rig.claim()
    assert (claim.link_id, claim.is_deleted, claim.removes_remote) == (B, False, False)
    assert (await rig.queue.depth()).errands == 0


async def test_what_was_created_belongs_to_its_token(rig: Rig) -> None:
    """Another token has another user at MetaApi, who does not have the account."""
    await rig.put(spec(metaapi=PLACE))
    [claim] = await rig.claim()
    await rig.intents.adopt(claim.fence, "m-created")
    await rig.put(spec(metaapi=PLACE, labels={"a": "b"}))
    [told] = await rig.queue.owned(rig.incarnation)
    assert told.created_id == "m-created"
    assert (await rig.registry.get(A)).created_id == "m-created"
    await rig.put(spec(metaapi=replace(PLACE, token="other")))
    [told] = await rig.queue.owned(rig.incarnation)
    assert told.created_id is None


# Passwords.


async def test_a_password_raises_version_and_generation_and_ends_a_backoff(rig: Rig) -> None:
    """Its owner is told; a link that waited for it is claimed at once."""
    await rig.put(spec(metaapi=PLACE))
    [claim] = await rig.claim()
    await rig.release(claim, delay_seconds=3e9)
    assert await rig.submit() == SubmitResult(credential_version=1, is_changed=True)
    record = await rig.registry.get(A)
    assert record is not None
    assert (record.generation, record.credential_version) == (2, 1)
    assert (record.status.phase, record.queue.position) == (Phase.QUEUED, 1)
    [claim] = await rig.claim()
    assert (claim.generation, claim.credential_version) == (2, 1)
    sealed = await rig.intents.sealed(claim.fence.account_id, version=1)
    assert sealed == Sealed(key_id="k2", box=b"pass")


async def test_the_owner_of_a_link_is_told_of_a_new_password(rig: Rig) -> None:
    """As of any other change of what is wanted."""
    await rig.put(spec())
    [claim] = await rig.claim()
    status = LinkStatus(
        phase=Phase.LIVE,
        reason="Live",
        message="",
        observed_generation=1,
        since=datetime.now(UTC),
    )
    await rig.leases.report(claim.fence, status)
    assert await rig.queue.changed(rig.incarnation) == []
    await rig.submit()
    [told] = await rig.queue.changed(rig.incarnation)
    assert (told.generation, told.credential_version) == (2, 1)


@pytest.mark.parametrize(
    ("state", "is_news"),
    [
        (None, False),
        (CredentialState.UPDATED, False),
        (CredentialState.ACCEPTED, False),
        (CredentialState.REJECTED, True),
    ],
)
async def test_the_same_password_is_news_only_if_it_is_of_no_use(
    rig: Rig, state: CredentialState | None, *, is_news: bool
) -> None:
    """One that waits or is used is not taken twice, also under a digest of another key."""
    await rig.put(spec())
    await rig.submit()
    [claim] = await rig.claim()
    if state is not None:
        intent = await rig.open(claim, version=1, kind=IntentKind.DEPLOY)
        await rig.close(claim, intent, credentials=state)
    result = await rig.submit()
    assert result == SubmitResult(credential_version=1 + is_news, is_changed=is_news)


async def test_the_same_password_is_news_after_a_refusal(rig: Rig) -> None:
    """The user may have mended what MetaApi complained about."""
    await rig.put(spec(metaapi=PLACE))
    await rig.submit()
    [claim] = await rig.claim()
    intent = await rig.open(claim, version=1, kind=IntentKind.CREATE)
    await rig.close(claim, intent, code="otp_required", problem="switch it off")
    assert (await rig.standing(claim)).refusal is not None
    assert (await rig.submit()).is_changed
    assert (await rig.standing(replace(claim, generation=3))).refusal is None


async def test_the_same_password_is_news_when_the_account_is_gone(rig: Rig) -> None:
    """It is needed again, and nobody has it any more."""
    await rig.put(spec(metaapi=PLACE))
    await rig.submit()
    [claim] = await rig.claim()
    intent = await rig.open(claim, version=1, kind=IntentKind.CREATE)
    await rig.close(claim, intent, credentials=CredentialState.ACCEPTED, created_id="m-created")
    assert not (await rig.submit()).is_changed
    await rig.intents.adopt(claim.fence, None)
    assert (await rig.submit()).is_changed


async def test_known_bad_credentials_are_refused_under_every_key(rig: Rig) -> None:
    """Nothing is stored, and nothing changes."""
    await rig.put(spec())
    await rig.submit("bad")
    [claim] = await rig.claim()
    intent = await rig.open(claim, version=1, kind=IntentKind.UPDATE)
    await rig.close(
        claim,
        intent,
        code="auth_failed",
        charge=Charge.AUTH,
        credentials=CredentialState.REJECTED,
        auth=Auth.FAILED,
        remembers_seconds=60,
    )
    with pytest.raises(KnownBadCredentials):
        await rig.submit("bad")
    older = replace(password("other"), digests=["k1:other", "k2:bad"])
    with pytest.raises(KnownBadCredentials):
        await rig.book.submit(A, older)
    assert (await rig.registry.get(A)).credential_version == 1


async def test_a_new_password_clears_the_refusal_of_the_old_one(rig: Rig) -> None:
    """The broker has said nothing of it yet."""
    await rig.put(spec())
    await rig.submit("bad")
    [claim] = await rig.claim()
    intent = await rig.open(claim, version=1, kind=IntentKind.UPDATE)
    await rig.close(
        claim, intent, code="auth_failed", credentials=CredentialState.REJECTED, auth=Auth.FAILED
    )
    assert (await rig.standing(claim)).auth is Auth.FAILED
    await rig.submit("good")
    standing = await rig.standing(claim)
    assert (standing.auth, standing.auth_at) == (Auth.OK, None)
    assert standing.credentials == KnownCredentials(version=2, state=CredentialState.WAITING)


async def test_another_account_at_metaapi_is_not_blamed_for_the_first(rig: Rig) -> None:
    """What the broker refused was about the account that the spec named before."""
    await rig.put(spec())
    [claim] = await rig.claim()
    intent = await rig.open(claim, version=0, kind=IntentKind.DEPLOY)
    await rig.close(claim, intent, code="auth_failed", auth=Auth.FAILED)
    await rig.put(spec(metaapi=replace(NAMED, account_id="m-2")))
    assert (await rig.standing(claim)).auth is Auth.OK


async def test_a_newer_password_erases_the_older_unless_a_call_needs_it(rig: Rig) -> None:
    """The one that is being tried must be at hand when its call is taken up again."""
    await rig.put(spec())
    await rig.submit("one")
    await rig.submit("two")
    [claim] = await rig.claim()
    account_id = claim.fence.account_id
    assert await rig.intents.sealed(account_id, version=1) is None
    intent = await rig.open(claim, version=2, kind=IntentKind.UPDATE)
    await rig.submit("three")
    assert await rig.intents.sealed(account_id, version=2) is not None
    await rig.close(claim, intent, code="abandoned")
    assert await rig.intents.sealed(account_id, version=2) is None
    assert await rig.intents.sealed(account_id, version=3) is not None


async def test_a_deleted_link_leaves_no_password(rig: Rig) -> None:
    """Nothing will ask for it."""
    await rig.put(spec(metaapi=PLACE))
    await rig.submit()
    [claim] = await rig.claim()
    await rig.registry.delete(A)
    assert await rig.intents.sealed(claim.fence.account_id, version=1) is None


async def test_a_password_of_nobody(rig: Rig) -> None:
    """No such link, a link that is gone, or one of another identity by now."""
    assert await rig.submit() is None
    await rig.put(spec())
    other = password(identity=replace(IDENTITY, login="5017"))
    with pytest.raises(Conflict):
        await rig.book.submit(A, other)
    await rig.registry.delete(A)
    assert await rig.submit() is None


async def test_a_paused_link_keeps_its_password_until_it_is_wanted(rig: Rig) -> None:
    """It does not join the queue because of it."""
    await rig.put(spec(Desired.PAUSED, metaapi=PLACE))
    await rig.submit()
    assert await rig.claim() == []
    assert (await rig.registry.get(A)).status.phase is Phase.PAUSED
    await rig.put(spec(metaapi=PLACE))
    [claim] = await rig.claim()
    assert claim.credential_version == 1
