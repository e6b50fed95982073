"""The fleet is counted now and then; while Postgres is away, what was known stays."""

import asyncio

import pytest
from structlog.testing import capture_logs

from brokerd.connector.governor.fleet import DEMAND_SECONDS, FEW_ACCOUNTS, Fleet
from brokerd.connector.governor.ports import Demand
from brokerd.errors import StoreUnavailable

pytestmark = pytest.mark.looptime(noop_cycles=0)


class Counted:
    """A census in the test's hands."""

    nodes = 2
    accounts = 3
    is_away = False
    looks = 0

    async def live_nodes(self):
        """Count nodes, or be away."""
        if self.is_away:
            raise StoreUnavailable("away")
        self.looks += 1
        return self.nodes

    async def demands(self):
        """Count accounts."""
        return [
            Demand(
                token="main",
                region=region,
                wanted=self.accounts,
                accounts=self.accounts,
                example_account_id="a",
            )
            for region in ("london", "tokyo")
        ]


async def test_nodes_are_counted_often_and_many_accounts_rarely():
    """A node that joins is seen within seconds; accounts, once there are many, within minutes."""
    census = Counted()
    census.accounts = FEW_ACCOUNTS
    fleet = Fleet(census, node_count_seconds=5.0)
    await fleet.prepare()
    running = asyncio.ensure_future(fleet.run())
    census.nodes, census.accounts = 5, FEW_ACCOUNTS + 1
    await asyncio.sleep(5.1)
    assert fleet.live_nodes == 5
    assert fleet.accounts("main") == 2 * FEW_ACCOUNTS
    await asyncio.sleep(DEMAND_SECONDS)
    assert fleet.accounts("main") == 2 * FEW_ACCOUNTS + 2
    assert census.looks == 62
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_fleet_that_starts_empty_is_not_held_to_the_budget_of_one_account():
    """The first accounts of a new daemon count within seconds."""
    census = Counted()
    census.accounts = 0
    fleet = Fleet(census, node_count_seconds=5.0)
    await fleet.prepare()
    running = asyncio.ensure_future(fleet.run())
    census.accounts = 250
    await asyncio.sleep(5.1)
    assert fleet.accounts("main") == 500
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_an_outage_changes_nothing_and_is_told_once():
    """Shares stay as they were; one warning, and counting goes on."""
    census = Counted()
    fleet = Fleet(census, node_count_seconds=5.0)
    await fleet.prepare()
    with capture_logs() as logs:
        running = asyncio.ensure_future(fleet.run())
        census.is_away, census.nodes = True, 7
        await asyncio.sleep(600)
        assert fleet.live_nodes == 2
        census.is_away = False
        await asyncio.sleep(5)
        assert fleet.live_nodes == 7
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    warned = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["event"] for entry in warned] == ["governor.census_delayed"]
    census.is_away = True
    with pytest.raises(StoreUnavailable):
        await fleet.prepare()
