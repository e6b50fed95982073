"""The bill: what is charged, when, how much; hours go by as the test likes."""

from decimal import Decimal
from random import Random

import pytest
from clocks import StillClock

from brokerd.sandbox.bill import Bill, ChargeKind, Payer, Prices
from brokerd.sandbox.facts import ProvisioningState as State
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.trading import AccountSpec
from brokerd.sandbox.truth import Broker

PAYER = Payer(owner="sandbox", account_id=None, server="Sandbox-Demo", login="1")


class World:
    """A broker, a bill and a clock."""

    def __init__(self, **prices):
        self.clock = StillClock()
        self.broker = Broker(clock=self.clock, random=Random(1))
        self.server = open_server(self.broker, ServerSpec())
        self.bill = Bill(self.broker, prices=Prices(**prices))

    def go_to(self, *, hours):
        """Let it be so many hours after the start."""
        self.clock.seconds = hours * 3_600

    def open(self, state=State.DEPLOYED, **spec):
        """Open an account by the control's way."""
        return self.broker.add_account(AccountSpec(server=self.server, state=state, **spec))

    def charges(self, **owner):
        """Return kind and amount of every item that is not nothing."""
        items = self.bill.items(**owner)
        return {item.kind: item.charge.amount for item in items if item.charge.amount}


def test_a_start_pays_for_six_hours_at_once():
    """The deployment's price is the minimum: by the hour it goes on only after that."""
    world = World()
    account = world.open(State.UNDEPLOYED)
    account.set_state(State.DEPLOYING)
    assert world.charges() == {ChargeKind.DEPLOYMENT: Decimal("0.072")}
    account.set_state(State.DEPLOYED)
    world.go_to(hours=6)
    assert world.charges() == {ChargeKind.DEPLOYMENT: Decimal("0.072")}
    world.go_to(hours=10)
    expected = {
        ChargeKind.DEPLOYMENT: Decimal("0.072"),
        ChargeKind.DEPLOYED_HOURS: Decimal("0.048"),
    }
    assert world.charges() == expected
    account.set_state(State.UNDEPLOYING)
    world.go_to(hours=20)
    assert world.charges() == expected | {ChargeKind.UNDEPLOYED_HOURS: Decimal("0.0105")}


def test_the_minimum_may_be_a_charge_apart():
    """Nobody knows whether it is: then a start costs its price and six hours."""
    world = World(is_minimum_apart=True)
    account = world.open(State.UNDEPLOYED)
    account.set_state(State.DEPLOYED)
    world.go_to(hours=1)
    assert world.bill.total() == Decimal("0.144")
    world.go_to(hours=7)
    assert world.bill.total() == Decimal("0.072") + 7 * Decimal("0.012")


def test_a_redeploy_is_a_start():
    """Each costs the minimum anew, however short the last one was."""
    world = World()
    account = world.open(State.UNDEPLOYED)
    for _ in range(3):
        for state in (State.DEPLOYING, State.DEPLOYED, State.UNDEPLOYING):
            account.set_state(state)
    (item,) = (item for item in world.bill.items() if item.kind is ChargeKind.DEPLOYMENT)
    assert (item.charge.count, item.charge.amount) == (3, Decimal("0.216"))


@pytest.mark.parametrize(
    ("reliability", "slots", "extra"),
    [("regular", 1, 0), ("high", 1, 1), ("regular", 3, 2), ("high", 3, 5)],
)
def test_slots_count_twice_where_there_are_two_terminals(reliability, slots, extra):
    """All but one slot are billed by the hour."""
    world = World()
    account = world.open(State.UNDEPLOYED, reliability=reliability)
    account.hosting = type(account.hosting)(resource_slots=slots)
    account.set_state(State.DEPLOYED)
    world.go_to(hours=10)
    amount = world.charges().get(ChargeKind.SLOT_HOURS, 0)
    assert amount == extra * 10 * Decimal("0.006")


def test_accounts_of_the_control_are_metered_from_then_on():
    """Neither their adding nor their first start is charged."""
    world = World()
    world.open()
    assert world.charges() == {}
    world.go_to(hours=8)
    assert world.charges() == {ChargeKind.DEPLOYED_HOURS: 2 * Decimal("0.012")}


def test_accounts_that_were_there_first_are_metered_too():
    """A bill may be opened late."""
    world = World()
    world.open()
    bill = Bill(world.broker, prices=Prices())
    world.go_to(hours=7)
    assert bill.total() == Decimal("0.012")


def test_a_forgotten_account_stays_on_the_bill_and_costs_no_more():
    """Its meter stops."""
    world = World()
    account = world.open(State.UNDEPLOYED)
    world.bill.added(account)
    world.go_to(hours=2)
    world.broker.forget(account)
    owed = world.bill.total()
    assert owed == Decimal("2.10") + 2 * Decimal("0.00105")
    account.set_state(State.DEPLOYED)
    world.go_to(hours=100)
    assert world.bill.total() == owed


def test_failed_attempts_are_counted_by_payer():
    """Each one is charged, and they are found under whoever tried."""
    world = World()
    for _ in range(4):
        world.bill.failed(PAYER)
    (item,) = world.bill.items()
    assert (item.payer, item.charge.count, item.charge.amount) == (PAYER, 4, Decimal("0.420"))


def test_every_user_has_a_bill():
    """What one owes is not the other's."""
    world = World()
    mine, theirs = world.open(owner="a"), world.open(owner="b")
    world.bill.added(mine)
    assert world.bill.total(owner="a") == Decimal("2.10")
    assert world.bill.total(owner="b") == 0
    assert {item.payer.account_id for item in world.bill.items(owner="b")} == {theirs.metaapi_id}


def test_hours_may_go_by_faster_or_at_once():
    """What went by before is not touched."""
    world = World()
    world.go_to(hours=1)
    world.bill.clock.set_scale(Decimal(100))
    world.go_to(hours=2)
    assert world.bill.clock.hours() == 101
    world.bill.clock.advance(Decimal("0.5"))
    world.bill.clock.set_scale(Decimal(1))
    world.go_to(hours=3)
    assert world.bill.clock.hours() == Decimal("102.5")


def test_other_prices_hold_from_then_on():
    """A span is charged by the prices of its end."""
    world = World()
    world.open()
    world.bill.prices = Prices(deployed_hour=Decimal(1), minimum_hours=Decimal(0))
    world.go_to(hours=5)
    assert world.bill.total() == 5
