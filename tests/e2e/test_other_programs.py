"""F21: another program listens to the same MetaApi account, and neither disturbs the other."""

import asyncio
import time

import pytest
from link_rig import running_rig, told

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]


async def test_f21_the_same_account_in_another_program_costs_nothing(
    tmp_path, database_url, plain_sdk
):
    """The plain SDK synchronizes, hears every deal and leaves: our link stays as it is, exact."""
    async with running_rig(tmp_path, database_url, deals_per_minute=30) as rig:
        since, account = time.time(), rig.accounts[0]
        async with plain_sdk(rig.sandbox, account) as other:
            await other.synchronized()
            assert len(rig.sandbox.stream.registry.of_account(account.metaapi_id)) == 2
            before = {deal.deal_id for deal in account.deals()}
            for _ in range(20):
                rig.sandbox.market.trade(account)
                await asyncio.sleep(0.05)
            made = {deal.deal_id for deal in account.deals()} - before
            tickets = {deal.ticket for deal in account.deals() if deal.deal_id in made}
            await other.until(lambda: tickets <= other.seen(), seconds=10)
            while not made <= rig.held():
                assert time.time() - since < 60
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        told(deals=len(made), moves=len(rig.moves(since=since)))
        assert rig.moves(since=since) == []
        assert "brokerd_stream_gaps_total{" not in await rig.metrics()
        await rig.assert_exact()
