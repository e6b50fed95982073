"""The spec changes, the link is deleted, the node drains: in every phase of a life."""

import asyncio
from dataclasses import replace

import pytest
from link_world import running_link

from brokerd.domain import Desired, Phase
from brokerd.errors import RemoteUnavailable, Throttled, Unauthorized
from brokerd.sandbox.faults import FaultKind

pytestmark = pytest.mark.looptime(noop_cycles=0)


async def bring_to(world, phase):
    """Bring the link to a phase and keep it there."""
    match phase:
        case Phase.CONNECTING:
            world.switch_on(FaultKind.MUTE)
        case Phase.VERIFYING:
            world.switch_on(FaultKind.DELAY, seconds=10.0)
        case Phase.SYNCING:
            world.switch_on(FaultKind.SYNCHRONIZING)
        case Phase.BACKOFF:
            world.service.refusal = Throttled("wait", retry_after_seconds=20.0)
        case Phase.CLAIMED:
            world.wire.report_seconds = [5.0]
            await world.until(lambda: world.link is not None)
            return
    await world.until_phase(phase)
    await asyncio.sleep(1)


HELD = [Phase.CLAIMED, Phase.CONNECTING, Phase.VERIFYING, Phase.SYNCING, Phase.LIVE, Phase.BACKOFF]


@pytest.mark.parametrize("phase", HELD)
async def test_paused_gives_the_slot_back(phase):
    """Paused in any phase: session closed, slot free, said so; live again when wanted again."""
    async with running_link() as world:
        await bring_to(world, phase)
        world.change(desired=Desired.PAUSED)
        await world.until_phase(Phase.PAUSED, within=10)
        assert world.phases[-2:] == [Phase.DRAINING, Phase.PAUSED]
        await world.until(lambda: world.lease.owner is None, within=1)
        assert world.status.observed_generation == 2
        assert world.service.open_sessions == 0
        await asyncio.sleep(100)
        assert len(world.claims) == 1
        world.faults.switch_off_all()
        world.service.refusal = None
        world.change(desired=Desired.LIVE)
        await world.until_live(within=60)
        await asyncio.sleep(1)
        world.assert_exact()


@pytest.mark.parametrize("phase", HELD)
async def test_deleted_ends_the_link_and_keeps_the_ledger(phase):
    """Deleted in any phase: session closed, slot free, deals kept."""
    async with running_link() as world:
        await bring_to(world, phase)
        before = dict(world.ledger)
        world.delete()
        await world.until_phase(Phase.DELETING, within=10)
        await world.until(lambda: world.lease.owner is None, within=1)
        assert before.items() <= world.ledger.items()
        await asyncio.sleep(100)
        assert len(world.claims) == 1


@pytest.mark.parametrize("phase", HELD)
async def test_drained_goes_back_to_the_queue(phase):
    """A node that drains lets its links go in any phase; the next owner takes over at once."""
    async with running_link() as world:
        await bring_to(world, phase)
        world.link.drain()
        await world.until_phase(Phase.QUEUED, within=10)
        assert world.entered.reason == "NodeDrained"
        world.faults.switch_off_all()
        world.service.refusal = None
        await world.until_live(within=60)
        assert len(world.claims) == 2
        await asyncio.sleep(1)
        world.assert_exact()


@pytest.mark.parametrize("phase", HELD)
async def test_another_region_is_dialled_anew(phase):
    """Another region or token needs another session, in any phase; the claim is kept."""
    async with running_link() as world:
        await bring_to(world, phase)
        world.faults.switch_off_all()
        world.service.refusal = None
        spec = world.state.accounts[world.account_id].spec
        world.change(metaapi=replace(spec.metaapi, region="london"))
        await world.until(
            lambda: world.phase is Phase.LIVE and world.service.opened[-1].region == "london"
        )
        assert world.status.observed_generation == 2
        assert world.service.open_sessions == 1
        assert len(world.claims) == 1
        await asyncio.sleep(1)
        world.assert_exact()


@pytest.mark.parametrize("phase", HELD)
async def test_labels_are_taken_over_without_a_new_session(phase):
    """A change that touches no session is observed, and disturbs neither session nor wait."""
    async with running_link() as world:
        await bring_to(world, phase)
        dials = world.phases.count(Phase.CONNECTING)
        world.change(labels={"colour": "blue"})
        await world.until(lambda: world.status and world.status.observed_generation == 2)
        await asyncio.sleep(0.5)
        assert world.phases.count(Phase.CONNECTING) <= max(dials, 1)
        world.faults.switch_off_all()
        world.service.refusal = None
        await world.until(lambda: world.phase is Phase.LIVE, within=60)


async def test_changed_labels_do_not_cut_a_backoff_short():
    """Ten edits during a wait that MetaApi asked for cost not one request."""
    async with running_link() as world:
        world.service.refusal = Throttled("wait", retry_after_seconds=25.0)
        await world.until_phase(Phase.BACKOFF)
        for edit in range(10):
            await asyncio.sleep(1)
            world.change(labels={"edit": str(edit)})
        await world.until(lambda: world.status.observed_generation == 11)
        assert world.phases.count(Phase.CONNECTING) == 1
        assert world.phase is Phase.BACKOFF


async def test_an_order_that_comes_while_a_failure_is_noted_is_obeyed():
    """Pausing in the instant a link is refused pauses it; it does not end up blocked."""
    async with running_link() as world:
        await world.until_live()
        world.wire.report_seconds = [0.0, 0.0, 1.0]  # backoff, connecting, and blocked is slow
        world.service.refusal = Unauthorized("revoked")
        world.service.kill(world.account.metaapi_id)
        await asyncio.sleep(0.5)
        world.change(desired=Desired.PAUSED)
        await world.until_phase(Phase.PAUSED)
        await world.until(lambda: world.lease.owner is None, within=1)
        assert world.lease.not_before is None


async def test_wanted_again_while_it_leaves():
    """Paused and wanted again before the session closed: it leaves, and is claimed again."""
    async with running_link() as world:
        await world.until_live()
        world.change(desired=Desired.PAUSED)
        world.change(desired=Desired.LIVE)
        await world.until_live()
        assert len(world.claims) == 2
        assert world.status.observed_generation == 3


async def test_a_long_wait_gives_the_slot_back_and_a_short_one_keeps_it():
    """Up to `backoff_hold_seconds` the slot is held; a longer wait frees it for others."""
    async with running_link() as world:
        world.service.refusal = RemoteUnavailable("busy", retry_after_seconds=20.0)
        await world.until_phase(Phase.BACKOFF)
        await asyncio.sleep(1)
        assert world.lease.owner is not None
        assert world.lease.attempt == 1
        world.service.refusal = RemoteUnavailable("busy", retry_after_seconds=40.0)
        await world.until_phase(Phase.BACKOFF, within=60)
        await asyncio.sleep(1)
        assert world.lease.owner is None
        assert world.lease.attempt == 2
