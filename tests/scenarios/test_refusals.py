"""MetaApi or its operator refuses, or somebody else's account answers."""

import asyncio
from dataclasses import replace

import pytest
from link_world import running_link, subsequence

from brokerd.domain import Phase, UserAction
from brokerd.errors import (
    AccountDisabled,
    AuthFailed,
    AuthSuspected,
    BadDeal,
    BudgetExhausted,
    Forbidden,
    Held,
    NotFound,
    QuotaExceeded,
    TlsInvalid,
    TopUpRequired,
    Unauthorized,
)
from brokerd.sandbox.facts import ProvisioningState

pytestmark = pytest.mark.looptime(noop_cycles=0)
RECHECK = 900

REFUSALS = [
    (Unauthorized("the token is unknown"), "Unauthorized", UserAction.FIX_TOKEN),
    (Forbidden("not yours"), "Forbidden", UserAction.CONTACT_OPERATOR),
    (NotFound("no such account"), "NotFound", UserAction.CONTACT_OPERATOR),
    (TopUpRequired("no money"), "Billing", UserAction.TOP_UP),
    (QuotaExceeded("too many accounts"), "Quota", UserAction.CONTACT_OPERATOR),
    (TlsInvalid("expired"), "TlsInvalid", UserAction.CONTACT_OPERATOR),
    (AccountDisabled("closed"), "AccountDisabled", UserAction.CONTACT_BROKER),
    (BudgetExhausted("10 of 10 $"), "BudgetExhausted", UserAction.CONTACT_OPERATOR),
]


@pytest.mark.parametrize(("failure", "reason", "action"), REFUSALS)
async def test_a_refused_link_is_blocked_and_looked_at_again(failure, reason, action):
    """It says why and who must act, gives its slot back, and is live once the cause is gone."""
    async with running_link() as world:
        world.service.refusal = failure
        await world.until_phase(Phase.BLOCKED)
        status = world.status
        assert status.reason == reason
        assert status.message == str(failure) or isinstance(failure, NotFound)
        assert status.user_action is action
        assert (status.next_attempt_at - world.clock.now()).total_seconds() > RECHECK - 2
        assert world.lease.owner is None
        assert world.link is None
        await asyncio.sleep(2 * RECHECK)
        assert len(world.claims) == 3
        world.service.refusal = None
        await world.until_live(within=RECHECK + 2)
        assert world.status.user_action is UserAction.NONE
        assert world.status.message == ""
        world.assert_exact()


@pytest.mark.parametrize(("failure", "reason", "action"), REFUSALS)
async def test_a_live_link_that_is_refused_is_blocked(failure, reason, action):
    """A refusal of a rolling pull ends the session too: the account is not ours to read."""
    async with running_link() as world:
        await world.until_live()
        world.service.refusal = failure
        await world.until_phase(Phase.BLOCKED, within=302)
        assert (world.status.reason, world.status.user_action) == (reason, action)
        assert world.service.open_sessions == 0


async def test_an_account_that_only_its_user_can_finish_says_so():
    """A draft: blocked with the deed to be done; once it is deployed, live by itself."""
    async with running_link() as world:
        world.account.set_state(ProvisioningState.DRAFT)
        await world.until_phase(Phase.BLOCKED)
        assert world.status.reason == "NotDeployed"
        assert world.status.user_action is UserAction.DEPLOY_ACCOUNT
        assert "finish it in MetaApi" in world.status.message
        assert world.service.opened == []
        world.account.set_state(ProvisioningState.DEPLOYED)
        await world.until_live(within=RECHECK + 2)
        world.assert_exact()


@pytest.mark.parametrize(
    "changes", [{"login": "1"}, {"server": "Merged-Broker"}, {"platform": "mt4"}]
)
async def test_another_account_behind_the_id_is_quarantined(changes):
    """MetaApi's record shows another account: nothing is opened and not one row written."""
    async with running_link() as world:
        world.service.record_changes = changes
        await world.until_phase(Phase.QUARANTINED)
        assert world.status.reason == "IdentityMismatch"
        assert world.status.user_action is UserAction.FIX_IDENTITY
        assert next(iter(changes)) in world.status.message
        await asyncio.sleep(3 * RECHECK)
        assert world.service.opened == []
        assert not world.state.deals
        assert world.watermark is None


@pytest.mark.parametrize("changes", [{"login": "1"}, {"server": "Merged"}, {"currency": "EUR"}])
async def test_another_account_in_the_terminal_is_quarantined(changes):
    """The terminal is logged in elsewhere: its stream deals are not written either."""
    async with running_link() as world:
        world.trade(5)  # the stream replays them before anybody could be verified
        world.service.information_changes = changes
        world.service.before_reading = world.trade
        await world.until_phase(Phase.QUARANTINED)
        assert next(iter(changes)) in world.status.message
        assert not world.state.deals
        assert world.watermark is None
        assert world.lease.owner is None
        world.service.information_changes = {}
        world.service.before_reading = None
        await world.until_live(within=RECHECK + 2)
        await asyncio.sleep(1)
        world.assert_exact()


@pytest.mark.parametrize(
    "changes",
    [
        {"margin_mode": "ACCOUNT_MARGIN_MODE_EXCHANGE"},
        {"trade_mode": "ACCOUNT_TRADE_MODE_REAL"},
        {"currency": "EUR"},
        {"login": "1"},
    ],
)
async def test_an_account_that_changed_while_it_was_away_is_quarantined(changes):
    """After an interruption the account is verified again before anything is written."""
    async with running_link() as world:
        await world.until_live()
        await asyncio.sleep(100)
        rows, watermark = dict(world.state.deals), world.watermark
        world.service.drop(world.account.metaapi_id)
        world.service.information_changes = changes
        world.trade(5)
        world.service.before_reading = world.trade
        await world.until_phase(Phase.QUARANTINED)
        assert world.state.deals == rows
        assert world.watermark == watermark


async def test_deals_that_came_before_the_identity_are_not_forgotten():
    """What the stream brought while the account was verified is written right after."""
    async with running_link() as world:
        made = []
        world.service.before_reading = lambda: made.extend(world.trade(3))
        world.service.hidden.update(world.true_ids)
        await world.until_phase(Phase.SYNCING)
        world.service.hidden.update(made)  # history lags behind the stream
        world.service.before_reading = None
        await asyncio.sleep(0.05)
        assert made
        assert set(made) <= set(world.ledger)
        world.service.hidden.clear()


async def test_a_deal_that_cannot_be_stored_blocks_with_its_reason():
    """A poison record in history is an operator's business, and is not retried in a loop."""
    async with running_link() as world:
        world.service.history_failures = [BadDeal("deal 17: profit is NaN")]
        await world.until_phase(Phase.BLOCKED)
        assert world.status.message == "deal 17: profit is NaN"
        assert world.watermark is None
        await world.until_live(within=RECHECK + 2)
        world.assert_exact()


async def test_a_token_that_is_replaced_is_tried_at_once():
    """The client's correction frees a blocked link: the next claim uses it."""
    async with running_link(poll_seconds=1.0) as world:
        world.service.refusal = Unauthorized("revoked")
        await world.until_phase(Phase.BLOCKED)
        world.service.refusal = None
        spec = world.state.accounts[world.account_id].spec
        world.change(metaapi=replace(spec.metaapi, token="other"))
        world.state.leases[world.account_id] = replace(world.lease, not_before=None)
        await world.until_live(within=3)
        assert world.service.opened[-1].token == "other"
        assert world.status.observed_generation == 2


async def test_an_account_that_vanished_is_looked_for_once_more():
    """404 for an account that was there a moment ago: one new dial, and only then blocked."""
    async with running_link() as world:
        await world.until_live()
        world.service.refusal = NotFound("no such account")
        await world.until_phase(Phase.BACKOFF, within=301)
        assert world.entered.reason == "LinkLost"
        await world.until_phase(Phase.BLOCKED, within=1)
        assert (world.status.reason, len(world.service.opened)) == ("NotFound", 1)
        world.service.refusal = None
        await world.until_live(within=RECHECK + 2)
        world.service.refuse_once(NotFound("redeployed just now"))
        await world.until_phase(Phase.BACKOFF, within=301)
        await world.until_live(within=1)
        world.assert_exact()


async def test_refused_credentials_are_never_tried_again():
    """The broker's refusal costs money each time: only new credentials or a new spec lead on."""
    async with running_link(poll_seconds=1.0) as world:
        world.service.refusal = AuthFailed("E_AUTH")
        await world.until_phase(Phase.AUTH_FAILED)
        assert world.status.reason == "AuthFailed"
        assert world.status.user_action is UserAction.UPDATE_CREDENTIALS
        assert world.status.next_attempt_at is None
        asked = len(world.service.accounts_asked_at)
        await asyncio.sleep(86_400)
        assert (asked, len(world.service.accounts_asked_at)) == (1, 1)
        assert world.lease.owner is None
        world.service.refusal = None
        spec = world.state.accounts[world.account_id].spec
        world.change(metaapi=replace(spec.metaapi, token="other"))
        world.state.leases[world.account_id] = replace(world.lease, not_before=None)
        await world.until_live(within=3)
        assert world.status.user_action is UserAction.NONE


async def test_credentials_that_worked_last_week_are_asked_about_once_more():
    """A broker that restarts refuses everybody: one confirmation ends live, nobody is blamed."""
    async with running_link() as world:
        await world.until_live()
        world.service.refusal = AuthSuspected("E_AUTH", retry_after_seconds=900.0)
        await world.until_phase(Phase.AUTH_SUSPECT, within=302)
        assert world.status.user_action is UserAction.NONE
        assert (world.status.next_attempt_at - world.clock.now()).total_seconds() > 898
        asked = len(world.service.accounts_asked_at)
        await asyncio.sleep(890)
        assert len(world.service.accounts_asked_at) == asked
        world.service.refusal = None
        await world.until_live(within=12)
        assert Phase.AUTH_FAILED not in world.phases
        world.assert_exact()


async def test_a_password_that_was_changed_ends_the_link_with_the_confirmation():
    """Refused twice, a quarter of an hour apart: it is the credentials."""
    async with running_link() as world:
        await world.until_live()
        world.service.refusal = AuthSuspected("E_AUTH", retry_after_seconds=900.0)
        await world.until_phase(Phase.AUTH_SUSPECT, within=302)
        world.service.refusal = AuthFailed("E_AUTH")
        await world.until_phase(Phase.AUTH_FAILED, within=902)
        assert subsequence([Phase.LIVE, Phase.AUTH_SUSPECT, Phase.AUTH_FAILED], world.phases)


async def test_what_the_governor_holds_for_a_refusal_is_blocked_with_its_reason():
    """No request was sent for this link, but what stops it is a human's business all the same."""
    async with running_link() as world:
        held = Held("an exhausted balance", retry_after_seconds=600.0, scope="x", cause="billing")
        held.user_action = UserAction.TOP_UP
        world.service.refusal = held
        await world.until_phase(Phase.BLOCKED)
        assert (world.status.reason, world.status.user_action) == ("Billing", UserAction.TOP_UP)
        world.service.refusal = None
        assert await world.until_live(within=610) >= 599


async def test_what_the_governor_holds_for_a_while_is_a_backoff():
    """Held for seconds is no refusal: the link waits where it is, with the reason shown."""
    async with running_link() as world:
        world.service.refusal = Held("later", retry_after_seconds=7.0, scope="x", cause="credits")
        await world.until_phase(Phase.BACKOFF)
        assert (world.status.reason, world.status.user_action) == ("Held", UserAction.NONE)
        world.service.refusal = None
        assert await world.until_live(within=10) >= 7
        assert len(world.claims) == 1
