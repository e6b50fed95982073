"""Accounts of our own on virtual time: bought once, deployed, refused, put away, and removed."""

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest
from money_world import PLACE, Killed, MoneyWorld, running_money

from brokerd.config.settings import ProvisioningSettings
from brokerd.connector.states import deadlines
from brokerd.domain import Desired, MetaApiRef, Phase, UserAction
from brokerd.errors import KnownBadCredentials
from brokerd.sandbox.facts import ConnectionStatus, ProvisioningState
from brokerd.sandbox.faults import Fault, StagedFault
from brokerd.sandbox.users import Quotas
from brokerd.sandbox.validation import ValidationCode

pytestmark = pytest.mark.looptime(noop_cycles=0)

MINUTES = 60.0
HOURS = 3600.0


async def until_created(world: MoneyWorld) -> None:
    """Register the login, submit its password, and wait until the link is live."""
    await world.put()
    await world.submit(world.password)
    await world.until_live(within=300)


# Buying.


async def test_an_account_is_created_once_and_its_password_erased():
    """Add and deployment are on the bill, and in our books, to the cent."""
    async with running_money() as world:
        await until_created(world)
        [account] = world.made
        assert account.state is ProvisioningState.DEPLOYED
        assert world.attempts == (1, 1, 0)
        assert world.spent == Decimal("2.172")
        assert world.waiting_passwords == 0
        record = await world.record()
        assert record is not None
        assert record.created_id == account.metaapi_id
        assert Phase.PROVISIONING in world.phases
        assert world.sample("brokerd_metaapi_chargeable_attempts_total", kind="add") == 1
        assert world.sample("brokerd_metaapi_chargeable_attempts_total", kind="deploy") == 1


async def test_without_a_password_nothing_is_bought():
    """The link waits for its user, and is created as soon as the password is there."""
    async with running_money() as world:
        await world.put()
        await world.until_phase(Phase.AUTH_FAILED)
        assert world.status.reason == "CredentialsMissing"
        assert world.status.user_action is UserAction.UPDATE_CREDENTIALS
        await asyncio.sleep(24 * HOURS)
        assert (world.attempts, world.port.calls) == ((0, 0, 0), [])
        await world.submit(world.password)
        await world.until_live(within=300)
        assert world.attempts == (1, 1, 0)


async def test_an_account_that_exists_already_is_not_bought_again():
    """Somebody created it: it is adopted, and given the password that waits."""
    async with running_money() as world:
        spec = world.account.spec
        world.broker.host(world.trading, spec=spec)
        await until_created(world)
        assert len(world.made) == 1
        assert world.attempts == (0, 1, 0)  # restarted, to use the password
        assert "create" not in world.port.calls


async def test_a_long_detection_is_polled_under_one_transaction():
    """F15: thirty minutes of 202, longer than our own deadline, and still one account."""
    async with running_money() as world:
        world.service.state.provisioner.rules.detection_seconds = 30 * MINUTES
        await world.put()
        await world.submit(world.password)
        await world.until_phase(Phase.BACKOFF, within=601)
        assert world.entered.reason == "ProvisionTimeout"
        await world.until_live(within=40 * MINUTES)
        assert len(set(world.transactions)) == 1
        assert world.attempts == (1, 1, 0)


async def test_an_answer_that_got_lost_after_the_creation_is_looked_up():
    """MetaApi made the account and answered 500, or nothing at all."""
    async with running_money() as world:
        world.faults.switch_on(Fault(kind=StagedFault.FAIL_AFTER_CREATE, limit=1, status=500))
        await until_created(world)
        assert (world.attempts, world.port.calls.count("create")) == ((1, 1, 0), 2)


# Refusals.


async def test_a_wrong_password_costs_one_attempt():
    """F28: refused from the start; never tried again by itself."""
    async with running_money() as world:
        await world.put()
        await world.submit("wrong")
        await world.until_phase(Phase.AUTH_FAILED, within=120)
        assert world.status.user_action is UserAction.UPDATE_CREDENTIALS
        assert world.status.next_attempt_at is None
        await asyncio.sleep(24 * HOURS)
        assert world.attempts == (0, 0, 1)
        assert world.spent == Decimal("0.105")
        assert world.waiting_passwords == 0


async def test_known_bad_credentials_cost_nothing_however_often_they_come():
    """F30: five hundred times, also under another link id: one attempt, the first."""
    async with running_money() as world:
        await world.put()
        await world.submit("wrong")
        await world.until_phase(Phase.AUTH_FAILED, within=120)
        for _ in range(500):
            with pytest.raises(KnownBadCredentials):
                await world.submit("wrong")
        await world.remove(with_account=False)
        await world.put(link_id="link-2")
        with pytest.raises(KnownBadCredentials):
            await world.submit("wrong", link_id="link-2")
        await asyncio.sleep(24 * HOURS)
        assert world.attempts == (0, 0, 1)


async def test_the_same_bad_password_submitted_while_it_is_tried_is_tried_once():
    """Five hundred submissions before the first answer: they are no news."""
    async with running_money() as world:
        await world.put()
        versions = {(await world.submit("wrong")).credential_version for _ in range(500)}
        await world.until_phase(Phase.AUTH_FAILED, within=120)
        assert versions == {1}
        assert world.attempts == (0, 0, 1)


async def test_the_right_password_after_a_wrong_one():
    """The correction is used at once."""
    async with running_money() as world:
        await world.put()
        await world.submit("wrong")
        await world.until_phase(Phase.AUTH_FAILED, within=120)
        await world.submit(world.password)
        await world.until_live(within=300)
        assert world.attempts == (1, 1, 1)
        assert world.spent == Decimal("2.277")


@pytest.mark.parametrize(
    ("code", "reason", "action", "charged"),
    [
        (ValidationCode.SERVER_TIMEZONE, "TimezoneUndetected", UserAction.CONTACT_OPERATOR, 1),
        (ValidationCode.OTP_REQUIRED, "OtpRequired", UserAction.ACCEPT_BROKER_TERMS, 0),
        (
            ValidationCode.PASSWORD_CHANGE_REQUIRED,
            "PasswordChangeRequired",
            UserAction.ACCEPT_BROKER_TERMS,
            0,
        ),
        (ValidationCode.TRADING_ACCOUNT_DISABLED, "AccountDisabled", UserAction.CONTACT_BROKER, 0),
        (ValidationCode.NO_SYMBOLS, "NoSymbols", UserAction.CONTACT_BROKER, 0),
    ],
)
async def test_what_the_broker_wants_of_its_user_is_not_asked_again_and_again(
    code, reason, action, charged
):
    """Once a day at most; at once when the same password is submitted after it was mended."""
    async with running_money() as world:
        world.trading.set_trouble(code)
        await world.put()
        await world.submit(world.password)
        await world.until_phase(Phase.BLOCKED, within=120)
        assert (world.status.reason, world.status.user_action) == (reason, action)
        await asyncio.sleep(23 * HOURS)
        assert world.port.calls.count("create") == 2  # the 202, and the refusal
        assert world.attempts == (0, 0, charged)
        world.trading.set_trouble(None)
        assert (await world.submit(world.password)).is_changed
        await world.until_live(within=300)


@pytest.mark.parametrize("way", ["deployed", "restarted"])
async def test_provisioning_ends_at_the_deadline_that_is_configured(way: str):
    """A deployment that never ends: `provisioning.timeout_seconds` since it began, then lost."""
    settings = ProvisioningSettings(timeout_seconds=90.0)
    async with running_money(provisioning=settings) as world:
        rules = world.service.state.provisioner.rules
        if way == "restarted":
            rules.deploy_seconds = 10.0
            await until_created(world)
            world.made[0].set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)
        rules.deploy_seconds = 24 * HOURS
        if way == "deployed":
            await world.put()
            await world.submit(world.password)
        await world.until_phase(Phase.PROVISIONING, within=2 * HOURS)
        began_at = world.entered.at
        await world.until_phase(Phase.BACKOFF, within=100)
        limit = deadlines(world.settings, provision_seconds=90.0)[Phase.PROVISIONING]
        took_seconds = (world.entered.at - began_at).total_seconds()
        assert took_seconds == pytest.approx(limit.seconds, abs=1)
        assert world.entered.reason == "ProvisionTimeout"


async def test_a_validation_lock_is_waited_for_even_with_the_right_password():
    """MetaApi looks at nothing for an hour: asking would prolong it, and never help."""
    async with running_money() as world:
        world.service.state.provisioner.rules.failures_before_lock = 2
        await world.put()
        for wrong in ("wrong", "wrong as well"):
            await world.submit(wrong)
            await world.until_phase(Phase.AUTH_FAILED, within=120)
        await world.submit(world.password)
        await world.until_phase(Phase.BLOCKED, within=120)
        assert world.status.reason == "ValidationLocked"
        calls = len(world.port.calls)
        await asyncio.sleep(58 * MINUTES)
        assert len(world.port.calls) == calls
        await world.until_live(within=10 * MINUTES)
        assert world.attempts == (1, 1, 2)


async def test_a_quota_blocks_the_link_and_is_asked_about_for_free():
    """F17: no account more is allowed; once it is, the link goes on by itself."""
    async with running_money() as world:
        user = world.service.state.users.default
        user.quotas = Quotas(accounts=1)
        await world.put()
        await world.submit(world.password)
        await world.until_phase(Phase.BLOCKED, within=120)
        assert world.status.reason == "Quota"
        assert world.spent == 0
        user.quotas = Quotas()
        await world.until_live(within=20 * MINUTES)
        assert world.attempts == (1, 1, 0)


async def test_budgets_refuse_before_they_are_overdrawn():
    """With one attempt a day the second password waits for tomorrow, and costs nothing today."""
    async with running_money(budgets={"link_attempts": 1}) as world:
        await world.put()
        await world.submit("wrong")
        await world.until_phase(Phase.AUTH_FAILED, within=120)
        await world.submit(world.password)
        await world.until_phase(Phase.BLOCKED, within=10)
        assert world.status.reason == "BudgetExhausted"
        assert world.status.next_attempt_at - world.clock.now() > timedelta(hours=23)
        assert world.attempts == (0, 0, 1)
        await world.until_live(within=24 * HOURS + 300)
        assert world.attempts == (1, 1, 1)


# Passwords that change.


async def test_a_password_changed_at_the_broker_costs_two_attempts():
    """F29: the second, a quarter of an hour later, is the last; then the new one is used."""
    async with running_money() as world:
        await until_created(world)
        world.trading.change_password("changed")
        await world.put(Desired.STOPPED)
        await world.until(lambda: not world.lease.has_errand and world.lease.owner is None)
        await world.put(Desired.LIVE)
        await world.until_phase(Phase.AUTH_SUSPECT, within=120)
        assert world.status.user_action is UserAction.NONE
        waited = await world.until_phase(Phase.AUTH_FAILED, within=20 * MINUTES)
        assert waited >= 14.9 * MINUTES
        await asyncio.sleep(24 * HOURS)
        assert world.attempts == (1, 1, 2)
        await world.submit("changed")
        await world.until_live(within=300)
        assert world.attempts == (1, 2, 2)


async def test_a_live_link_whose_password_was_changed_is_found_out():
    """F29: thrown out by its broker alone, it is asked about after an hour: two attempts in all."""
    async with running_money() as world:
        await until_created(world)
        world.trading.change_password("changed")
        waited = await world.until_phase(Phase.AUTH_SUSPECT, within=2 * HOURS)
        assert waited >= HOURS
        await world.until_phase(Phase.AUTH_FAILED, within=20 * MINUTES)
        assert world.status.user_action is UserAction.UPDATE_CREDENTIALS
        await asyncio.sleep(24 * HOURS)
        assert world.attempts == (1, 1, 2)
        await world.submit("changed")
        await world.until_live(within=300)


@pytest.mark.parametrize("minutes", [50, 600])
async def test_a_broker_that_is_away_costs_one_restart_at_most(minutes: int):
    """An hour alone without its broker raises the doubt, once; less does not."""
    async with running_money() as world:
        await until_created(world)
        [account] = world.made
        account.set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)
        await asyncio.sleep(minutes * MINUTES)
        account.set_connection(ConnectionStatus.CONNECTED)
        await world.until(lambda: world.phase is Phase.LIVE, within=400)
        deployments = 1 if minutes < 60 else 2
        assert world.attempts == (1, deployments, 0)


async def test_a_broker_that_reboots_refuses_nobody_for_good():
    """F31: the confirmation succeeds, and nobody is told that credentials expired."""
    async with running_money() as world:
        await until_created(world)
        await world.put(Desired.STOPPED)
        await world.until(lambda: not world.lease.has_errand and world.lease.owner is None)
        world.faults.switch_on(Fault(kind=StagedFault.REFUSE_AUTH, limit=1))
        await world.put(Desired.LIVE)
        await world.until_phase(Phase.AUTH_SUSPECT, within=120)
        await world.until_live(within=20 * MINUTES)
        assert Phase.AUTH_FAILED not in world.phases
        assert world.attempts == (1, 2, 1)


async def test_a_live_link_takes_a_new_password_into_use():
    """Updated, undeployed, deployed: one deployment, and the link is live with it."""
    async with running_money() as world:
        await until_created(world)
        world.trading.change_password("changed")
        await world.submit("changed")
        await world.until_phase(Phase.PROVISIONING, within=10)
        await world.until_live(within=300)
        assert world.attempts == (1, 2, 0)
        assert world.port.calls[-3:] == ["update", "undeploy", "deploy"]
        assert world.waiting_passwords == 0


# Putting away.


async def test_a_stopped_link_is_undeployed_and_gives_everything_back():
    """No slot, no place in the queue, and no hour billed; live again, it is deployed again."""
    async with running_money() as world:
        await until_created(world)
        await world.put(Desired.STOPPED)
        await world.until(lambda: world.made[0].state is ProvisioningState.UNDEPLOYED)
        await world.until(lambda: world.phase is Phase.STOPPED)
        assert not world.lease.has_errand
        assert not world.lease.is_wanted
        depth = await world.queue.depth()
        assert (depth.ready, depth.in_backoff, depth.errands) == (0, 0, 0)
        claims = len(world.claims)
        await asyncio.sleep(24 * HOURS)
        assert len(world.claims) == claims
        await world.put(Desired.LIVE)
        await world.until_live(within=300)
        assert world.attempts == (1, 2, 0)


async def test_a_link_is_removed_with_its_account():
    """Undeployed, removed, and only then gone; registered again it is bought again."""
    async with running_money() as world:
        await until_created(world)
        await world.remove(with_account=True)
        record = await world.record()
        assert record is not None
        assert record.is_deleted
        for _ in range(600):
            if await world.record() is None:
                break
            await asyncio.sleep(1)
        assert world.made == []
        assert await world.record() is None
        assert world.port.calls[-2:] == ["undeploy", "delete"]
        await until_created(world)
        assert world.attempts == (2, 2, 0)


async def test_a_deleted_link_leaves_its_account_alone_unless_told():
    """The account stays as it is; registered again, it is found and not bought again."""
    async with running_money() as world:
        await until_created(world)
        await world.remove(with_account=False)
        await world.until(lambda: world.lease.owner is None)
        await asyncio.sleep(HOURS)
        assert world.made[0].state is ProvisioningState.DEPLOYED
        await world.put()
        await world.until_live(within=60)
        assert world.attempts == (1, 1, 0)


async def test_an_account_removed_behind_our_back_is_bought_again_only_with_a_password():
    """F20: its password was erased, so its user is asked; then it is created anew, once."""
    async with running_money() as world:
        await until_created(world)
        world.service.state.provisioner.delete(
            world.service.state.users.default, world.made[0].metaapi_id
        )
        await world.until_phase(Phase.AUTH_FAILED, within=10 * MINUTES)
        assert world.status.reason == "CredentialsMissing"
        await asyncio.sleep(24 * HOURS)
        assert world.attempts == (1, 1, 0)
        await world.submit(world.password)
        await world.until_live(within=300)
        assert world.attempts == (2, 2, 0)


async def test_a_named_account_that_vanished_is_its_clients_business():
    """F20: nobody buys another in its place."""
    async with running_money() as world:
        named = MetaApiRef(token="main", account_id="gone", region=PLACE.region)
        await world.put(metaapi=named)
        await world.submit(world.password)
        await world.until_phase(Phase.BLOCKED)
        assert world.status.reason == "NotFound"
        await asyncio.sleep(24 * HOURS)
        assert (world.attempts, world.port.calls) == ((0, 0, 0), [])


async def test_an_account_undeployed_behind_our_back_is_deployed_again():
    """F20: live is what the client wants, and what it pays for."""
    async with running_money() as world:
        await until_created(world)
        world.service.state.provisioner.undeploy(
            world.service.state.users.default, world.made[0].metaapi_id
        )
        await world.until_phase(Phase.PROVISIONING, within=5 * MINUTES)
        await world.until_live(within=5 * MINUTES)
        assert world.attempts == (1, 2, 0)


# Dying.


async def _live_through(kill_at: int | None) -> MoneyWorld:
    """Create, change the password, stop, start and remove, with one death on the way."""
    async with running_money(kill_at=kill_at) as world:
        await until_created(world)
        world.trading.change_password("changed")
        await world.submit("changed")
        await world.until(
            lambda: world.money.credentials[world.account_id, 2].state == "accepted", within=600
        )
        await world.until(lambda: world.phase is Phase.LIVE, within=600)
        await world.put(Desired.STOPPED)
        await world.until(
            lambda: not world.lease.has_errand and world.lease.owner is None, within=600
        )
        assert world.made[0].state is ProvisioningState.UNDEPLOYED
        await world.put(Desired.LIVE)
        await world.until(lambda: world.phase is Phase.LIVE, within=600)
        await world.remove(with_account=True)
        await world.until(
            lambda: not world.lease.has_errand and world.lease.owner is None, within=600
        )
        return world


async def test_killed_at_any_step_nothing_is_bought_twice():
    """Before and after each call and each commit: one account, the deployments that were meant."""
    whole = await _live_through(None)
    assert whole.attempts == (1, 3, 0)
    for step in range(1, whole.steps + 1):
        world = await _live_through(step)
        assert world.steps > step or step == whole.steps, step
        assert world.attempts == (1, 3, 0), step
        assert world.made == [], step
        assert world.waiting_passwords == 0, step
        assert all(row.closed_at for row in world.money.intents.values()), step
    assert issubclass(Killed, BaseException)
    assert whole.steps >= 30
