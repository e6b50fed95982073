"""Every store of intents keeps the same promises: one suite over memory and Postgres."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from decimal import Decimal

import pytest
from money_rig import (
    GENEROUS,
    MemoryMoneyRig,
    MoneyRig,
    Paid,
    Password,
    PostgresMoneyRig,
    bounded,
    call,
)

from brokerd.connector.provisioning.budgets import BudgetName, Spent
from brokerd.connector.provisioning.ports import (
    Auth,
    Charge,
    CredentialState,
    Intent,
    IntentKind,
    KnownCredentials,
    Outcome,
    Sealed,
    Standing,
)
from brokerd.domain import AccountId, Claim, Fence, Incarnation
from brokerd.errors import BudgetExhausted, Fenced
from brokerd.pool.ports import Nodes
from brokerd.queue.ports import Queue

Add = Callable[..., Awaitable[AccountId]]
DONE = Outcome(
    code="done",
    charge=Charge.ADD,
    usd=Decimal("2.172"),
    created_id="m-new",
    credentials=CredentialState.ACCEPTED,
    auth=Auth.OK,
)
REFUSED = Outcome(
    code="auth_failed",
    problem="E_AUTH",
    charge=Charge.AUTH,
    usd=Decimal("0.105"),
    credentials=CredentialState.REJECTED,
    auth=Auth.FAILED,
    remembers_seconds=60,
)


@pytest.fixture
def money(fleet: object) -> MoneyRig:
    """Give the intents of the same store as the fleet's."""
    if hasattr(fleet, "state"):
        return MemoryMoneyRig(fleet.state)
    return PostgresMoneyRig(fleet.database)


@pytest.fixture
async def claims(queue: Queue, nodes: Nodes, add: Add) -> Sequence[Claim]:
    """Claim two links."""
    for _ in range(2):
        await add()
    return await queue.claim(await nodes.register("a", max_links=10), limit=2)


@pytest.fixture
def fence(claims: Sequence[Claim]) -> Fence:
    """Give the fence of one of them."""
    return claims[0].fence


async def standing_of(money: MoneyRig, fence: Fence, *, generation: int = 1) -> Standing:
    """Read what is known of an account."""
    return await money.intents.standing(fence.account_id, generation=generation)


async def test_of_a_new_account_nothing_is_known(money: MoneyRig, fence: Fence) -> None:
    """No account of ours, no password, no intent, and the broker was not asked."""
    standing = await standing_of(money, fence)
    assert standing == Standing(now=standing.now)


async def test_an_intent_is_open_and_paid_for_before_the_call(
    money: MoneyRig, fence: Fence
) -> None:
    """What may be called is in the store, with the worst that it may cost."""
    intent = await money.intents.open(fence, call(), limits=GENEROUS)
    assert (await standing_of(money, fence)).intent == intent
    assert intent.kind is IntentKind.CREATE
    assert intent.transaction_id == "t" * 32
    assert await money.paid(fence.account_id) == [Paid("reserved", Decimal("2.172"))]


async def test_what_is_free_needs_no_budget(money: MoneyRig, fence: Fence) -> None:
    """Undeploying is an intent as well, and is done however much was spent."""
    free = call(IntentKind.UNDEPLOY, usd=None)
    await money.intents.open(fence, free, limits=bounded(fleet_attempts=0, fleet_usd=0))
    assert await money.paid(fence.account_id) == []


async def test_an_account_has_one_open_intent(money: MoneyRig, fence: Fence) -> None:
    """A second one is refused as if somebody else were at work, and costs nothing."""
    await money.intents.open(fence, call(), limits=GENEROUS)
    with pytest.raises(Fenced):
        await money.intents.open(fence, call(IntentKind.DEPLOY), limits=GENEROUS)
    assert len(await money.paid(fence.account_id)) == 1


@pytest.mark.parametrize("kind", [IntentKind.CREATE, IntentKind.UNDEPLOY])
async def test_whoever_lost_the_lease_opens_and_closes_nothing(
    money: MoneyRig, fence: Fence, kind: IntentKind
) -> None:
    """Neither an older epoch nor another owner may spend, nor say how a call ended."""
    usd = "2.172" if kind is IntentKind.CREATE else None
    strangers = (
        replace(fence, epoch=fence.epoch - 1),
        replace(fence, incarnation=Incarnation(fence.incarnation + 1)),
    )
    for stranger in strangers:
        with pytest.raises(Fenced):
            await money.intents.open(stranger, call(kind, usd=usd), limits=GENEROUS)
    intent = await money.intents.open(fence, call(kind, usd=usd), limits=GENEROUS)
    for stranger in strangers:
        with pytest.raises(Fenced):
            await money.intents.close(stranger, intent, DONE)
        with pytest.raises(Fenced):
            await money.intents.adopt(stranger, "m-stolen")
    standing = await standing_of(money, fence)
    assert (standing.intent, standing.created_id) == (intent, None)


async def test_success_settles_the_bill_and_erases_the_password(
    money: MoneyRig, fence: Fence
) -> None:
    """The created account is known, its price stands, and nothing sealed is left."""
    version = await money.submit(fence.account_id, digest="good")
    intent = await money.intents.open(fence, call(version=version), limits=GENEROUS)
    assert await money.intents.sealed(fence.account_id, version=version) == Sealed(
        key_id="k", box=b"good"
    )
    await money.intents.close(fence, intent, DONE)
    standing = await standing_of(money, fence)
    assert (standing.created_id, standing.intent, standing.refusal) == ("m-new", None, None)
    assert standing.deployed_at is not None
    assert standing.credentials == KnownCredentials(version=1, state=CredentialState.ACCEPTED)
    assert await money.paid(fence.account_id) == [Paid("add", Decimal("2.172"))]
    assert await money.passwords(fence.account_id) == [Password(1, "accepted", is_sealed=False)]
    assert await money.intents.sealed(fence.account_id, version=version) is None


async def test_refused_credentials_are_known_for_every_account(
    money: MoneyRig, claims: Sequence[Claim]
) -> None:
    """The very same are known bad wherever they turn up again; others are not."""
    first, second = (claim.fence for claim in claims)
    version = await money.submit(first.account_id, digest="bad")
    intent = await money.intents.open(first, call(version=version), limits=GENEROUS)
    await money.intents.close(first, intent, REFUSED)
    standing = await standing_of(money, first)
    assert standing.auth is Auth.FAILED
    assert standing.refusal is not None
    assert (standing.refusal.code, standing.refusal.problem) == ("auth_failed", "E_AUTH")
    assert await money.passwords(first.account_id) == [Password(1, "rejected", is_sealed=False)]
    for digest, is_known_bad in (("bad", True), ("good", False)):
        version = await money.submit(second.account_id, digest=digest)
        standing = await standing_of(money, second)
        assert standing.credentials == KnownCredentials(
            version=version, state=CredentialState.WAITING, is_known_bad=is_known_bad
        )


async def test_known_bad_credentials_are_forgotten_in_the_end(
    money: MoneyRig, fence: Fence
) -> None:
    """After the time that the operator chose they may be tried again."""
    await money.submit(fence.account_id, digest="bad")
    intent = await money.intents.open(fence, call(), limits=GENEROUS)
    await money.intents.close(fence, intent, replace(REFUSED, remembers_seconds=0.05))
    await asyncio.sleep(0.1)
    await money.submit(fence.account_id, digest="bad")
    credentials = (await standing_of(money, fence)).credentials
    assert credentials is not None
    assert not credentials.is_known_bad


async def test_a_refusal_of_credentials_does_not_stick_to_newer_ones(
    money: MoneyRig, fence: Fence
) -> None:
    """A password that came while the older one was tried is not blamed, and the older erased."""
    await money.submit(fence.account_id, digest="old")
    intent = await money.intents.open(fence, call(version=1), limits=GENEROUS)
    await money.submit(fence.account_id, digest="new")
    await money.intents.close(fence, intent, REFUSED)
    standing = await standing_of(money, fence)
    assert (standing.auth, standing.refusal) == (Auth.OK, None)
    assert await money.passwords(fence.account_id) == [
        Password(1, "rejected", is_sealed=False),
        Password(2, "waiting", is_sealed=True),
    ]


async def test_a_refusal_is_remembered_for_its_spec_alone(money: MoneyRig, fence: Fence) -> None:
    """With another generation the question is a new one; what is free refuses nobody."""
    intent = await money.intents.open(fence, call(version=0), limits=GENEROUS)
    refusal = Outcome(code="server_not_found", problem="none such", charge=Charge.NONE)
    await money.intents.close(fence, intent, replace(refusal, usd=Decimal(0)))
    free = await money.intents.open(
        fence, call(IntentKind.UNDEPLOY, usd=None, version=0), limits=GENEROUS
    )
    await money.intents.close(fence, free, Outcome(code="not_found"))
    standing = await standing_of(money, fence)
    assert standing.refusal is not None
    assert (standing.refusal.code, standing.refusal.problem) == ("server_not_found", "none such")
    assert (await standing_of(money, fence, generation=2)).refusal is None
    assert await money.paid(fence.account_id) == [Paid("none", Decimal(0))]


async def test_what_an_outcome_does_not_name_stays(money: MoneyRig, fence: Fence) -> None:
    """An abandoned call keeps its reserve, its password and all that was known."""
    await money.submit(fence.account_id, digest="good")
    await money.intents.adopt(fence, "m-found")
    intent = await money.intents.open(fence, call(), limits=GENEROUS)
    await money.intents.close(fence, intent, Outcome(code="abandoned"))
    standing = await standing_of(money, fence)
    assert (standing.created_id, standing.auth, standing.refusal) == ("m-found", Auth.OK, None)
    assert await money.paid(fence.account_id) == [Paid("reserved", Decimal("2.172"))]
    assert await money.passwords(fence.account_id) == [Password(1, "waiting", is_sealed=True)]


async def test_closing_twice_is_closing_once(money: MoneyRig, fence: Fence) -> None:
    """An answer of the store that was lost may be asked for again; the first word stands."""
    intent = await money.intents.open(fence, call(), limits=GENEROUS)
    await money.intents.close(fence, intent, DONE)
    await money.intents.close(fence, intent, REFUSED)
    standing = await standing_of(money, fence)
    assert (standing.auth, standing.created_id) == (Auth.OK, "m-new")
    assert await money.paid(fence.account_id) == [Paid("add", Decimal("2.172"))]


async def test_locks_and_removals_are_told(money: MoneyRig, fence: Fence) -> None:
    """How long MetaApi looks at no credentials is kept; an account that is gone is forgotten."""
    await money.intents.adopt(fence, "m-found")
    assert (await standing_of(money, fence)).created_id == "m-found"
    await money.intents.adopt(fence, None)
    intent = await money.intents.open(fence, call(IntentKind.DELETE, usd=None), limits=GENEROUS)
    gone = Outcome(code="done", locked_seconds=3600)
    await money.intents.close(fence, intent, gone)
    standing = await standing_of(money, fence)
    assert standing.created_id is None
    assert standing.locked_until is not None
    assert 3590 < (standing.locked_until - standing.now).total_seconds() <= 3600


async def _attempts(money: MoneyRig, fence: Fence, count: int, **settings: float) -> int:
    """Attempt so often, each settled at $0.105; return how many were let through."""
    for done in range(count):
        try:
            intent = await money.intents.open(
                fence, call(IntentKind.DEPLOY, usd="0.105"), limits=bounded(**settings)
            )
        except BudgetExhausted:
            return done
        await money.intents.close(
            fence, intent, replace(REFUSED, usd=Decimal("0.105"), remembers_seconds=None)
        )
    return count


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"link_attempts": 2}, 2),
        ({"link_usd": 0.25}, 2),
        ({"user_attempts": 3}, 3),
        ({"user_usd": 0.105}, 1),
        ({"day_attempts": 1}, 1),
        ({"day_usd": 0.22}, 2),
        ({"fleet_attempts": 2}, 2),
        ({"fleet_usd": 0.32}, 3),
        ({"link_attempts": 0}, 0),
        ({}, 4),
    ],
    ids=str,
)
async def test_every_budget_bounds_attempts_and_dollars(
    money: MoneyRig, fence: Fence, settings: dict[str, float], allowed: int
) -> None:
    """As many as allowed, and not one more; then it says which budget, and until when."""
    assert await _attempts(money, fence, 4, **settings) == allowed
    if allowed == 4:
        return
    with pytest.raises(BudgetExhausted, match=next(iter(settings)).split("_")[0]) as refused:
        await money.intents.open(
            fence, call(IntentKind.DEPLOY, usd="0.105"), limits=bounded(**settings)
        )
    wait = refused.value.retry_after_seconds
    days = 30 if "fleet" in next(iter(settings)) and allowed else 1
    assert wait is not None
    assert days * 86400 - 10 < wait <= days * 86400


async def test_budgets_of_links_and_users_are_their_own(
    money: MoneyRig, claims: Sequence[Claim]
) -> None:
    """What one link spends takes nothing from another of another user; the day's budget is one."""
    first, second = (claim.fence for claim in claims)
    assert await _attempts(money, first, 3, link_attempts=2, user_attempts=2) == 2
    assert await _attempts(money, second, 3, link_attempts=2, user_attempts=2) == 2
    assert await _attempts(money, second, 3, link_attempts=9, day_attempts=4) == 0


async def test_what_turned_out_to_be_free_is_given_back(money: MoneyRig, fence: Fence) -> None:
    """A refusal that MetaApi does not charge counts neither as an attempt nor in dollars."""
    for _ in range(5):
        intent = await money.intents.open(
            fence, call(), limits=bounded(link_attempts=1, link_usd=2.172)
        )
        free = Outcome(code="quota", charge=Charge.NONE, usd=Decimal(0))
        await money.intents.close(fence, intent, free)
    assert {row.charge for row in await money.paid(fence.account_id)} == {"none"}


async def test_the_spend_is_visible(money: MoneyRig, claims: Sequence[Claim]) -> None:
    """People see each budget's use, of links and users the largest, and what it was for."""
    first, second = (claim.fence for claim in claims)
    assert (await money.spend.spent(GENEROUS))[BudgetName.LINK] == Spent()
    await _attempts(money, first, 2)
    await _attempts(money, second, 1)
    intent = await money.intents.open(second, call(), limits=GENEROUS)
    await money.intents.close(second, intent, DONE)
    spent = await money.spend.spent(GENEROUS)
    assert spent == {
        BudgetName.LINK: Spent(attempts=2, usd=Decimal("2.277")),
        BudgetName.USER: Spent(attempts=2, usd=Decimal("2.277")),
        BudgetName.DAY: Spent(attempts=4, usd=Decimal("2.487")),
        BudgetName.FLEET: Spent(attempts=4, usd=Decimal("2.487")),
    }
    assert await money.spend.charges(window_seconds=60) == {
        Charge.AUTH: Spent(attempts=3, usd=Decimal("0.315")),
        Charge.ADD: Spent(attempts=1, usd=Decimal("2.172")),
    }


async def test_concurrent_intents_never_pass_a_budget(
    money: MoneyRig, queue: Queue, nodes: Nodes, add: Add
) -> None:
    """Twelve links ask at once for what suffices for five: five get it."""
    for _ in range(12):
        await add()
    claims = await queue.claim(await nodes.register("many", max_links=20), limit=12)

    async def attempt(claim: Claim) -> Intent | None:
        try:
            return await money.intents.open(claim.fence, call(), limits=bounded(day_attempts=5))
        except BudgetExhausted:
            return None

    opened = await asyncio.gather(*(attempt(claim) for claim in claims))
    assert sum(intent is not None for intent in opened) == 5
