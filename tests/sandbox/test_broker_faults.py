"""The broker's own faults: history that changes quietly, terminals that lose their broker."""

import asyncio
from datetime import timedelta
from random import Random

import pytest

from brokerd.clock import SystemClock
from brokerd.sandbox.broker_faults import BrokerFaults
from brokerd.sandbox.facts import ChangeKind, ConnectionStatus
from brokerd.sandbox.faults import Fault, FaultKind, Faults
from brokerd.sandbox.habits import Past
from brokerd.sandbox.market import Market
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.truth import AccountSpec, Broker, Change, TruthAccount

QUIET = [FaultKind.LATE_DEALS, FaultKind.EDITED_DEALS, FaultKind.DELETED_DEALS]


class World:
    """A broker with two accounts of forty deals each in the last two days, and its faults."""

    def __init__(self) -> None:
        self.broker = Broker(clock=SystemClock(), random=Random(1))
        self.faults = Faults(random=Random(2))
        server = open_server(self.broker, ServerSpec())
        market = Market(self.broker, random=Random(3))
        self.accounts = [self.broker.add_account(AccountSpec(server=server)) for _ in range(2)]
        for account in self.accounts:
            market.seed(account, Past(deals=40, days=2))
        self.acting = BrokerFaults(self.broker, faults=self.faults, random=Random(4))
        self.changes: list[Change] = []
        self.broker.listen(self.changes.append)

    def sums_hold(self) -> bool:
        """Say whether every account's sums equal its deals."""
        return all(_sums_hold(account) for account in self.accounts)


def _sums_hold(account: TruthAccount) -> bool:
    deals = account.deals()
    balance = sum(d.amount for d in deals if not d.is_credit)
    credit = sum(d.amount for d in deals if d.is_credit)
    return (account.balance, account.credit) == (balance, credit)


@pytest.mark.parametrize("kind", QUIET)
def test_nothing_changes_while_the_fault_is_off(kind: FaultKind) -> None:
    """A quiet act needs its switch."""
    world = World()
    assert not world.acting.act(kind)
    assert world.changes == []


@pytest.mark.parametrize("kind", QUIET)
def test_quiet_changes_are_never_streamed_and_the_sums_follow(kind: FaultKind) -> None:
    """Each act changes the truth, is counted, and is told as quiet."""
    world = World()
    world.faults.switch_on(Fault(kind=kind))
    for number in range(1, 16):
        before = [account.deals() for account in world.accounts]
        assert world.acting.act(kind)
        assert [account.deals() for account in world.accounts] != before
        assert world.sums_hold()
        assert world.faults.injected[kind] == number
    assert {change.kind for change in world.changes} == {ChangeKind.BOOKED_QUIETLY}


def test_late_deals_are_back_dated_within_the_age() -> None:
    """A late deal lies minutes to seventy hours before the time it was booked."""
    world = World()
    world.faults.switch_on(Fault(kind=FaultKind.LATE_DEALS))
    known = {d.deal_id for account in world.accounts for d in account.deals()}
    for _ in range(100):
        world.acting.act(FaultKind.LATE_DEALS)
    late = [d for a in world.accounts for d in a.deals() if d.deal_id not in known]
    ages = [deal.booked_at - deal.time for deal in late]
    assert len(ages) == 100
    assert min(ages) >= timedelta(minutes=1)
    assert timedelta(hours=60) < max(ages) <= timedelta(hours=70, seconds=1)


@pytest.mark.parametrize("kind", [FaultKind.EDITED_DEALS, FaultKind.DELETED_DEALS])
def test_old_deals_and_the_first_deposit_are_left_alone(kind: FaultKind) -> None:
    """Only deals younger than the age change, and the account's beginning never does."""
    world = World()
    max_age = timedelta(hours=12)
    world.faults.switch_on(Fault(kind=kind, max_age=max_age))
    border = world.broker.now() - max_age
    before = [account.deals(end=border) for account in world.accounts]
    for _ in range(60):
        world.acting.act(kind)
    assert [account.deals(end=border) for account in world.accounts] == before
    world.faults.switch_on(Fault(kind=kind, max_age=timedelta(days=30)))
    for _ in range(200):
        world.acting.act(kind)
    assert all(account.deals()[0] == before[i][0] for i, account in enumerate(world.accounts))


def test_only_the_accounts_in_scope_change() -> None:
    """A fault for one account leaves the other's history as it was."""
    world = World()
    chosen, other = world.accounts
    scope = frozenset({chosen.metaapi_id})
    world.faults.switch_on(Fault(kind=FaultKind.EDITED_DEALS, account_ids=scope))
    before = other.deals()
    for _ in range(20):
        assert world.acting.act(FaultKind.EDITED_DEALS)
    assert other.deals() == before


@pytest.mark.looptime
async def test_quiet_faults_strike_at_their_rate() -> None:
    """Thirty a minute are about thirty in a minute, and none after switching off."""
    world = World()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.acting.run())
        world.faults.switch_on(Fault(kind=FaultKind.LATE_DEALS, per_minute=30))
        await asyncio.sleep(60)
        struck = world.faults.injected[FaultKind.LATE_DEALS]
        assert 18 <= struck <= 42
        world.faults.switch_off(FaultKind.LATE_DEALS)
        await asyncio.sleep(60)
        assert world.faults.injected[FaultKind.LATE_DEALS] == struck
        task.cancel()


def test_a_terminal_is_without_its_broker_while_the_fault_is_on() -> None:
    """Accounts in scope lose the broker once and get it back when the fault goes."""
    world = World()
    chosen, other = world.accounts
    scope = frozenset({chosen.metaapi_id})
    world.faults.switch_on(Fault(kind=FaultKind.BROKER_DISCONNECT, account_ids=scope))
    with asyncio.Runner() as runner:
        runner.run(_ticks(world.acting))
        assert chosen.connection_status is ConnectionStatus.DISCONNECTED_FROM_BROKER
        assert other.is_reachable
        world.faults.switch_off(FaultKind.BROKER_DISCONNECT)
        runner.run(_ticks(world.acting))
    assert chosen.is_reachable
    assert world.faults.injected[FaultKind.BROKER_DISCONNECT] == 1
    assert [change.kind for change in world.changes] == [ChangeKind.CONNECTION] * 2


async def _ticks(acting: BrokerFaults) -> None:
    for _ in range(3):
        acting.tick()


async def test_a_terminal_is_let_in_again_only_with_the_right_password() -> None:
    """What changed at the broker while it was thrown out holds when the fault is over."""
    world = World()
    account = world.accounts[0]
    world.faults.switch_on(Fault(kind=FaultKind.BROKER_DISCONNECT))
    world.acting.tick()
    account.change_password("another")
    world.faults.switch_off(FaultKind.BROKER_DISCONNECT)
    world.acting.tick()
    assert account.connection_status is ConnectionStatus.DISCONNECTED_FROM_BROKER
    assert world.accounts[1].connection_status is ConnectionStatus.CONNECTED
