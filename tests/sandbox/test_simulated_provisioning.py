"""Provisioning in process, on virtual time: hours pass in no time, by the same rules as REST."""

import asyncio
from decimal import Decimal
from itertools import count
from random import Random

import msgspec
import pytest
from link_world import START, VirtualClock
from provisioning_client import order_for

from brokerd.connector.ports import Connected
from brokerd.domain import MetaApiRef
from brokerd.errors import Forbidden, NotFound, RemoteUnavailable, Throttled, Unauthorized
from brokerd.sandbox.bill import ChargeKind
from brokerd.sandbox.faults import Fault, FaultKind, Faults, StagedFault
from brokerd.sandbox.orders import AccountUpdate, NewAccount
from brokerd.sandbox.provisioner import Accepted, Created
from brokerd.sandbox.refusals import Refused
from brokerd.sandbox.simulated import SimulatedMetaApi
from brokerd.sandbox.simulated_provisioning import SimulatedProvisioning
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.trading import AccountSpec
from brokerd.sandbox.truth import Broker
from brokerd.sandbox.users import User

pytestmark = pytest.mark.looptime


class World:
    """A service in process and a login to add to it."""

    def __init__(self):
        self.faults = Faults(random=Random(1))
        self.broker = Broker(clock=VirtualClock(), random=Random(1))
        self.service = SimulatedMetaApi(self.broker, faults=self.faults)
        self.verbs = SimulatedProvisioning(self.service)
        self.login = self.broker.open_login(
            AccountSpec(server=open_server(self.broker, ServerSpec()))
        )
        self.numbers = count(1)

    async def create(self, *, owner="main", transaction_id=None, **changes):
        """Order until it is no longer under way; return what was made."""
        wanted = msgspec.convert(order_for(self.login, **changes), NewAccount)
        transaction_id = transaction_id or f"{next(self.numbers):032}"
        while True:
            made = await self.verbs.create(owner, wanted, transaction_id=transaction_id)
            if isinstance(made, Created):
                return made
            assert isinstance(made, Accepted)
            await asyncio.sleep(made.retry_after_seconds)

    def charged(self, kind):
        """Return how often something was charged."""
        items = self.service.state.bill.items()
        return sum(item.charge.count for item in items if item.kind is kind)


async def test_an_account_lives_its_life_in_real_durations(looptime):
    """Detected in a minute, deployed in ninety seconds more, and it streams then."""
    world = World()
    made = await world.create()
    assert 60 <= looptime <= 61
    remote = MetaApiRef(token="main", account_id=made.account_id, region="new-york")
    assert (await world.service.account(remote)).state == "DEPLOYING"
    await asyncio.sleep(90)
    (listed,) = await world.verbs.accounts("main")
    assert (listed.state, listed.connection_status) == ("DEPLOYED", "CONNECTED")
    session = await world.service.open(remote, account=listed, synced_through=START)
    assert isinstance((await session.receive())[0], Connected)
    await session.close()
    await world.verbs.undeploy("main", made.account_id)
    await asyncio.sleep(20)
    await world.verbs.deploy("main", made.account_id)
    await asyncio.sleep(90)
    await world.verbs.delete("main", made.account_id)
    await asyncio.sleep(10)
    with pytest.raises(NotFound):
        await world.service.account(remote)
    assert await world.verbs.accounts("main") == []
    assert world.charged(ChargeKind.DEPLOYMENT) == 2


async def test_a_lock_lasts_an_hour():
    """Three wrong passwords, and the right one is refused too until it has gone by."""
    world = World()
    for _ in range(3):
        with pytest.raises(Refused) as refused:
            await world.create(password="wrong")
        assert refused.value.code == "E_AUTH"
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await world.create()
        assert refused.value.status == 429
        await asyncio.sleep(1_700)
    await asyncio.sleep(300)
    await world.create()
    assert world.charged(ChargeKind.FAILED_ATTEMPT) == 3


async def test_a_changed_password_needs_update_and_redeploy():
    """The terminal takes what MetaApi was told only at its next start."""
    world = World()
    made = await world.create()
    await asyncio.sleep(90)
    account = world.broker.account(made.account_id)
    world.login.change_password("new")
    assert account.connection_status == "DISCONNECTED_FROM_BROKER"
    with pytest.raises(Refused) as refused:
        await world.verbs.redeploy("main", made.account_id)
    assert refused.value.code == "E_AUTH"
    await world.verbs.update("main", made.account_id, AccountUpdate(password="new"))
    await world.verbs.redeploy("main", made.account_id)
    await asyncio.sleep(111)
    assert account.connection_status == "CONNECTED"
    assert world.charged(ChargeKind.FAILED_ATTEMPT) == 1


async def test_a_month_has_its_price():
    """Added once, started once, and deployed for thirty days."""
    world = World()
    await world.create(reliability="regular")
    await asyncio.sleep(30 * 86_400)
    deployed = (30 * 24 - 6) * Decimal("0.012")
    expected = Decimal("2.10") + Decimal("0.072") + deployed
    assert world.service.state.bill.total() == pytest.approx(expected, abs=Decimal("0.001"))
    spent = Decimal(10_000) - await world.verbs.balance("main")
    assert spent == pytest.approx(expected, abs=Decimal("0.001"))


async def test_an_answer_that_was_lost_is_found_by_its_transaction():
    """In process a lost answer is a failure; the same id then names what was made."""
    world = World()
    world.faults.switch_on(Fault(kind=StagedFault.FAIL_AFTER_CREATE, limit=1))
    with pytest.raises(Refused) as refused:
        await world.create(transaction_id="e" * 32)
    assert refused.value.status == 500
    made = await world.create(transaction_id="e" * 32)
    assert [a.account_id for a in await world.verbs.accounts("main")] == [made.account_id]
    assert world.charged(ChargeKind.ACCOUNT_ADDED) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [(FaultKind.THROTTLE, Throttled), (FaultKind.SERVER_ERROR, RemoteUnavailable)],
)
async def test_the_networks_faults_strike_here_too(fault, error):
    """Before any rule is asked."""
    world = World()
    world.faults.switch_on(Fault(kind=fault))
    with pytest.raises(error):
        await world.create()


async def test_tokens_are_users():
    """A token that names a user is that one's; every other name is the first user's."""
    world = World()
    world.service.users.add(User(name="other", token="t"))
    mine = await world.create()
    theirs = await world.create(owner="other")
    assert [a.account_id for a in await world.verbs.accounts("main")] == [mine.account_id]
    assert [a.account_id for a in await world.verbs.accounts("other")] == [theirs.account_id]
    with pytest.raises(Refused) as refused:
        await world.verbs.deploy("other", mine.account_id)
    assert refused.value.status == 404
    with pytest.raises(NotFound):
        await world.service.account(
            MetaApiRef(token="other", account_id=mine.account_id, region="new-york")
        )
    world.service.users.get("other").is_revoked = True
    with pytest.raises(Unauthorized):
        await world.verbs.accounts("other")
    await world.verbs.accounts("main")
    world.service.users.default.is_forbidden = True
    with pytest.raises(Forbidden):
        await world.verbs.balance("main")
