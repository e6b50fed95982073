"""A region of MetaApi that is down, and a link that was registered in a region it is not in."""

import asyncio
import time

import pytest
from link_rig import running_rig, told

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]

DOWN_SECONDS = 8.0


async def test_f19_a_region_that_is_down_costs_the_others_nothing(tmp_path, database_url):
    """Its links wait and are back, in their own region; those of the other do not notice."""
    async with running_rig(
        tmp_path, database_url, deals_per_minute=30, regions=("london", "tokyo")
    ) as rig:
        since = time.time()
        knocked = len(rig.sandbox.sockets.attempts_at)
        rig.sandbox.state.conditions.down_regions = ("london",)
        await asyncio.sleep(DOWN_SECONDS)
        down = rig.moves(since=since)
        assert {link for link, *_ in down} == {"l-0", "l-1"}
        assert not [move for move in down if move[2] == "live"]
        attempts = len(rig.sandbox.sockets.attempts_at) - knocked
        rig.sandbox.state.conditions.down_regions = ()
        restored = time.time()
        last = {}
        while set(last.values()) != {"live"}:
            assert time.time() - restored < 60, rig.daemon.log
            await asyncio.sleep(0.1)
            last = {link: phase for link, _, phase, _ in rig.moves(since=since)}
        told(attempts=attempts, live_after_return=time.time() - restored)
        assert attempts <= 2 * DOWN_SECONDS
        assert set(last) == {"l-0", "l-1"}
        for link, region in (("l-0", "london"), ("l-2", "tokyo")):
            async with rig.daemon.client() as client:
                record = (await client.get(f"/v1/links/{link}")).json()
            assert record["spec"]["metaapi"]["region"] == region
        await rig.assert_exact()
