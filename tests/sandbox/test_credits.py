"""CPU credits: who pays what, when a call is refused, and what the refusal says."""

from datetime import timedelta
from random import Random

import pytest
from clocks import NOON, StillClock

from brokerd.sandbox.credits import Call, Credits, Scope
from brokerd.sandbox.limits import CreditLimits, Limits, Window
from brokerd.sandbox.refusals import Refused
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.trading import AccountSpec
from brokerd.sandbox.truth import Broker


class World:
    """Two deployed accounts of one user, and their credits."""

    def __init__(self, **limits):
        self.clock = StillClock()
        broker = Broker(clock=self.clock, random=Random(1))
        server = open_server(broker, ServerSpec())
        self.accounts = [broker.add_account(AccountSpec(server=server)) for _ in range(2)]
        none = {"per_user": (), "per_server": (), "per_account": ()}
        self.credits = Credits(broker, limits=Limits(credits=CreditLimits(**{**none, **limits})))

    def call(self, method="getPositions", *, account=0, server="", **fields):
        """Return a call for an account."""
        account_id = self.accounts[account].metaapi_id
        return Call(method=method, owner="sandbox", account_id=account_id, server=server, **fields)

    def refusal(self, call):
        """Spend once too often; return what is said."""
        with pytest.raises(Refused) as refused:
            self.credits.spend(call)
        return refused.value

    def spend(self, times, **call):
        """Make calls."""
        for _ in range(times):
            self.credits.spend(self.call(**call))


def test_without_limits_everything_is_free():
    """Nothing is refused and nothing shown."""
    world = World()
    world.credits._limits.credits = None
    world.spend(1_000)
    assert world.credits.usage(world.call()) == {scope: [] for scope in Scope}


def test_a_user_has_more_for_every_deployed_account():
    """Two accounts, twice the credits; the refusal says so in both sets of fields."""
    world = World(per_user=(Window(seconds=60, credits=100),))
    world.spend(4)
    refused = world.refusal(world.call())
    assert refused.status == 429
    assert "The getPositions API allows 200 cpu credits per 1m" in str(refused)
    metadata = refused.hint.metadata
    assert (metadata["total"], metadata["available"], metadata["needed"]) == (200, 0, 50)
    assert (metadata["creditsUsed"], metadata["creditsAvailable"]) == (200, 0)
    assert (metadata["creditsRequired"], metadata["periodInSeconds"]) == (50, 60)
    assert metadata["resourceId"] == "user:sandbox"
    assert metadata["multiplierId"] == "accountCount:sandbox"
    assert (metadata["exceededConfig"], metadata["exceededPeriod"]) == ("perUser", "1m")


def test_the_hint_is_when_enough_will_have_come_back():
    """A bucket is refilled evenly: not sooner, not later."""
    world = World(per_account=(Window(seconds=10, credits=100),))
    world.spend(2)
    refused = world.refusal(world.call())
    assert refused.hint.retry_at == NOON + timedelta(seconds=5)
    world.clock.seconds = 4.9
    world.refusal(world.call())
    world.clock.seconds = 5.0
    world.spend(1)


def test_an_accounts_credits_are_its_own():
    """What one has used up the other has still."""
    world = World(per_account=(Window(seconds=10, credits=50),))
    world.spend(1)
    assert world.refusal(world.call()).hint.metadata["exceededConfig"] == "perAccount"
    world.spend(1, account=1)


def test_another_client_id_is_another_server():
    """So a server's credits can be had again at once."""
    world = World(per_server=(Window(seconds=1, credits=50),))
    world.spend(1, server="a")
    refused = world.refusal(world.call(server="a"))
    assert refused.hint.metadata["resourceId"] == "server:a"
    world.spend(1, server="b")


@pytest.mark.parametrize(
    ("method", "items", "cost"),
    [
        ("getSymbols", 0, 500),
        ("getPositions", 0, 50),
        ("getDealsByTicket", 0, 50),
        ("getDealsByTimeRange", 1000, 725),
        ("getHistoryOrdersByTimeRange", 0, 75),
    ],
)
def test_calls_cost_what_they_cost(method, items, cost):
    """History by time costs by its items too, taken after the answer."""
    world = World(per_account=(Window(seconds=10, credits=1_000),))
    call = world.call(method)
    world.credits.spend(call)
    world.credits.spend_on_items(call, items=items)
    (shown,) = world.credits.usage(call)[Scope.ACCOUNT]
    assert shown == {"period": 10, "total": 1_000, "available": pytest.approx(1_000 - cost)}


def test_items_may_lead_into_debt():
    """What was answered is paid for, later; nothing below zero is shown."""
    world = World(per_account=(Window(seconds=10, credits=100),))
    call = world.call("getDealsByTimeRange")
    world.credits.spend(call)
    world.credits.spend_on_items(call, items=100)
    assert world.credits.usage(call)[Scope.ACCOUNT][0]["available"] == 0
    assert world.refusal(call).hint.retry_at == NOON + timedelta(seconds=11.5)


def test_a_refused_call_takes_nothing():
    """Neither from the bucket that refused nor from the others."""
    world = World(
        per_user=(Window(seconds=60, credits=1_000),),
        per_account=(Window(seconds=10, credits=50),),
    )
    world.spend(1)
    for _ in range(5):
        world.refusal(world.call())
    assert world.credits.usage(world.call())[Scope.USER][0]["available"] == 1_950


def test_sockets_put_their_transport_before_the_name():
    """As in the texts that were seen in the wild."""
    world = World(per_account=(Window(seconds=3_600, credits=10),))
    world.spend(1)  # a full bucket lets in what costs more than it ever holds
    refused = world.refusal(world.call(is_on_socket=True))
    assert "The ws:getPositions API allows 10 cpu credits per 1h" in str(refused)
