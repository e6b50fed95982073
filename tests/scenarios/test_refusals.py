"""MetaApi or its operator refuses, or somebody else's account answers."""

import asyncio
from dataclasses import replace

import pytest
from link_world import running_link

from brokerd.domain import Phase, UserAction
from brokerd.errors import (
    AccountDisabled,
    BadDeal,
    BudgetExhausted,
    Forbidden,
    NotFound,
    QuotaExceeded,
    TermsRequired,
    TlsInvalid,
    TopUpRequired,
    Unauthorized,
)
from brokerd.sandbox.facts import ProvisioningState

pytestmark = pytest.mark.looptime(noop_cycles=5)
RECHECK = 900

REFUSALS = [
    (Unauthorized("the token is unknown"), "Unauthorized", UserAction.FIX_TOKEN),
    (Forbidden("not yours"), "Forbidden", UserAction.CONTACT_OPERATOR),
    (NotFound("no such account"), "NotFound", UserAction.CONTACT_OPERATOR),
    (TopUpRequired("no money"), "TopUpRequired", UserAction.TOP_UP),
    (QuotaExceeded("too many accounts"), "QuotaExceeded", UserAction.CONTACT_OPERATOR),
    (TlsInvalid("expired"), "TlsInvalid", UserAction.CONTACT_OPERATOR),
    (TermsRequired("new password"), "TermsRequired", UserAction.ACCEPT_BROKER_TERMS),
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
        assert (status.reason, status.message) == (reason, str(failure))
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


async def test_an_account_that_is_not_deployed_says_what_to_do():
    """Undeployed: blocked with the deed to be done; deployed again, live by itself."""
    async with running_link() as world:
        world.account.set_state(ProvisioningState.UNDEPLOYED)
        await world.until_phase(Phase.BLOCKED)
        assert world.status.reason == "NotDeployed"
        assert world.status.user_action is UserAction.DEPLOY_ACCOUNT
        assert "deploy it in MetaApi" in world.status.message
        assert world.service.opened == []
        world.account.set_state(ProvisioningState.DEPLOYED)
        await world.until_live(within=RECHECK + 2)
        world.assert_exact()


async def test_an_account_undeployed_behind_our_back_ends_blocked():
    """The stream ends, the next dial finds the account undeployed."""
    async with running_link() as world:
        await world.until_live()
        world.account.set_state(ProvisioningState.UNDEPLOYED)
        await world.until_phase(Phase.BLOCKED, within=70)
        assert world.status.reason == "NotDeployed"


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
    async with running_link() as world:
        world.service.refusal = Unauthorized("revoked")
        await world.until_phase(Phase.BLOCKED)
        world.service.refusal = None
        spec = world.state.accounts[world.account_id].spec
        world.change(metaapi=replace(spec.metaapi, token="other"))
        world.state.leases[world.account_id] = replace(world.lease, not_before=None)
        await world.until_live(within=3)
        assert world.service.opened[-1].token == "other"
        assert world.status.observed_generation == 2
