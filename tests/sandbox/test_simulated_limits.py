"""The service's limits and conditions in process: what a link is told, and what it hears."""

import asyncio
from random import Random

import pytest
from link_world import START, VirtualClock

from brokerd.connector.ports import Connected, Disconnected
from brokerd.domain import MetaApiRef
from brokerd.errors import Forbidden, RemoteUnavailable, Throttled
from brokerd.sandbox.faults import Faults
from brokerd.sandbox.limits import CreditLimits, Window
from brokerd.sandbox.simulated import SimulatedMetaApi
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.trading import AccountSpec
from brokerd.sandbox.truth import Broker
from brokerd.sandbox.users import TopUp

pytestmark = pytest.mark.looptime


class World:
    """A service in process with an account in New York and one in London."""

    def __init__(self):
        random = Random(1)
        self.broker = Broker(clock=VirtualClock(), random=random)
        server = open_server(self.broker, ServerSpec())
        self.service = SimulatedMetaApi(self.broker, faults=Faults(random=random))
        self.refs = [
            MetaApiRef(
                token="main",
                account_id=self.broker.add_account(
                    AccountSpec(server=server, region=region)
                ).metaapi_id,
                region=region,
            )
            for region in ("new-york", "london")
        ]


async def test_credits_throttle_with_their_scope_and_wait():
    """As over HTTP: the scope that ran out, and when enough will have come back."""
    world = World()
    world.service.state.limits.credits = CreditLimits(
        per_user=(), per_server=(), per_account=(Window(seconds=100, credits=100),)
    )
    mine, other = world.refs
    for _ in range(2):
        await world.service.account_information(mine)
    with pytest.raises(Throttled) as throttled:
        await world.service.account_information(mine)
    assert throttled.value.scope == "account"
    assert throttled.value.retry_after_seconds == pytest.approx(50, abs=1)
    await world.service.account_information(other)
    await asyncio.sleep(throttled.value.retry_after_seconds)
    await world.service.deals_by_ticket(mine, deal_id="1")


async def test_a_region_that_is_down_answers_no_client():
    """Its sessions are lost until it is back; the other region notices nothing."""
    world = World()
    mine, other = world.refs
    sessions = [
        await world.service.open(
            ref, account=await world.service.account(ref), synced_through=START
        )
        for ref in world.refs
    ]
    for session in sessions:
        assert isinstance((await session.receive())[0], Connected)
    world.service.state.conditions.down_regions = ("new-york",)
    assert Disconnected() in await sessions[0].receive()
    with pytest.raises(RemoteUnavailable):
        await world.service.account_information(mine)
    await world.service.account_information(other)
    await asyncio.sleep(60)
    assert Disconnected() not in await sessions[1].receive()
    world.service.state.conditions.down_regions = ()
    async with asyncio.timeout(5):
        assert Connected() in await sessions[0].receive()


async def test_a_user_who_must_pay_is_refused_everything():
    """Where MetaApi refuses more than what costs."""
    world = World()
    world.service.users.default.top_up = TopUp.ALL
    with pytest.raises(Forbidden, match="top up"):
        await world.service.account_information(world.refs[0])
