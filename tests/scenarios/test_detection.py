"""A session that died without a word, or carries nothing, is noticed within seconds."""

import asyncio
from datetime import timedelta

import pytest
from link_world import running_link, subsequence

from brokerd.config.settings import MarketHours
from brokerd.connector.ports import Gap
from brokerd.domain import Phase
from brokerd.health.calendar import calendar_of
from brokerd.sandbox.facts import ConnectionStatus
from brokerd.sandbox.faults import FaultKind

pytestmark = pytest.mark.looptime(noop_cycles=0)
DETECTION = "brokerd_link_detection_seconds"


async def settled(world):
    """Let a link become live and learn how often its stream beats."""
    await world.until_live()
    await asyncio.sleep(25)
    assert world.phase is Phase.LIVE


async def test_a_stream_that_goes_silent_is_suspect_in_20_and_lost_in_25_seconds():
    """Its terminal answers over REST, so it is the stream that is dead: a new session."""
    async with running_link() as world:
        await settled(world)
        world.switch_on(FaultKind.MUTE)
        missed = world.trade(3)
        suspect_after = await world.until_phase(Phase.SUSPECT, within=21)
        assert 9 < suspect_after <= 20.01
        assert world.entered.reason == "Silent"
        decided_after = suspect_after + await world.until_phase(Phase.BACKOFF, within=5)
        assert decided_after <= 25
        assert world.entered.reason == "LinkLost"
        assert "the terminal answers over REST" in world.losses[-1]
        await asyncio.sleep(100)
        world.switch_off(FaultKind.MUTE)
        await world.until_live(within=2 * world.settings.backoff_ceiling_seconds)
        assert set(missed) <= set(world.ledger)
        assert world.sample(f"{DETECTION}_count", signal="silence") == 1
        assert world.sample(f"{DETECTION}_sum", signal="decision") < 25
        world.assert_exact()


async def test_a_black_hole_is_decided_in_25_seconds():
    """Neither the stream nor REST says a word: the look is given up after its limit."""
    async with running_link() as world:
        await settled(world)
        world.switch_on(FaultKind.MUTE)
        world.switch_on(FaultKind.DELAY, seconds=600.0)
        missed = world.trade(3)
        suspect_after = await world.until_phase(Phase.SUSPECT, within=21)
        decided_after = suspect_after + await world.until_phase(Phase.BACKOFF, within=5)
        assert suspect_after <= 20.01
        assert suspect_after + 3.9 < decided_after <= 25
        assert "no answer over REST either" in world.losses[-1]
        world.switch_off(FaultKind.MUTE)
        world.switch_off(FaultKind.DELAY)
        await world.until_live(within=660)
        assert set(missed) <= set(world.ledger)
        world.assert_exact()


async def test_a_black_hole_is_noticed_in_the_middle_of_a_pull():
    """The pull hangs in the same hole; nobody waits for its end."""
    async with running_link() as world:
        await settled(world)
        asked = len(world.service.history_asked_at)
        world.switch_on(FaultKind.DELAY, seconds=600.0)
        await asyncio.sleep(world.settings.rolling_interval_seconds)
        assert len(world.service.history_asked_at) == asked + 1
        world.switch_on(FaultKind.MUTE)
        waited = await world.until_phase(Phase.SUSPECT, within=21)
        waited += await world.until_phase(Phase.BACKOFF, within=5)
        assert waited <= 25


async def test_a_suspect_that_speaks_again_keeps_its_session():
    """A heartbeat while we look is enough: live on the same session, nothing was lost."""
    async with running_link() as world:
        await settled(world)
        world.switch_on(FaultKind.MUTE)
        world.switch_delay(3.5)
        await world.until_phase(Phase.SUSPECT, within=21)
        world.switch_off(FaultKind.MUTE)
        world.trade()
        await world.until_live(within=4)
        assert world.reasons[-1] == "Live"
        assert len(world.service.opened) == 1
        await asyncio.sleep(600)
        assert world.phase is Phase.LIVE
        world.assert_exact()


async def test_a_silent_stream_whose_broker_is_away_is_waited_for():
    """REST says that the broker is away: no new session, looks ever more rarely, back at once."""
    hours = MarketHours(time_zone="UTC", open=("Thu 00:00-Mon 12:00",))  # the world starts then
    async with running_link(calendar=calendar_of({"*": hours})) as world:
        await settled(world)
        world.service.information_asked_at.clear()
        world.switch_on(FaultKind.MUTE)
        world.account.set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)
        await world.until_phase(Phase.SUSPECT, within=21)
        await world.until_phase(Phase.SYNCING, within=5)
        assert world.entered.reason == "BrokerDisconnected"
        await asyncio.sleep(24 * 3_600)
        assert len(world.service.information_asked_at) < 24 * 4 + 10
        made = world.book(is_quiet=True)
        world.switch_off(FaultKind.MUTE)
        world.account.set_connection(ConnectionStatus.CONNECTED)
        await world.until_live(within=15)
        assert len(world.service.opened) == 1
        assert made in world.ledger
        world.assert_exact()


async def test_a_service_that_beats_slowly_is_not_suspected():
    """How often MetaApi beats is nowhere written: half a minute is learnt, and then normal."""
    async with running_link(status_seconds=30.0) as world:
        await world.until_live()
        await asyncio.sleep(3_600)
        assert Phase.SUSPECT not in world.phases
        world.switch_on(FaultKind.MUTE)
        waited = await world.until_phase(Phase.SUSPECT, within=60)
        assert 16 <= waited <= 47


async def test_a_stream_of_unknown_pace_gets_the_longest_limit():
    """Muted before its second heartbeat, a stream has the minute that MetaApi itself allows."""
    async with running_link() as world:
        await world.until_live()
        world.switch_on(FaultKind.MUTE)
        waited = await world.until_phase(Phase.SUSPECT, within=61)
        assert 49 <= waited <= 60.1


async def test_the_pace_is_remembered_over_sessions():
    """A link that dials again need not learn it a second time."""
    async with running_link() as world:
        await settled(world)
        world.service.kill(world.account.metaapi_id)
        await world.until_live()
        world.switch_on(FaultKind.MUTE)
        assert await world.until_phase(Phase.SUSPECT, within=21) <= 20.1


async def test_our_own_sleep_is_no_silence_of_the_stream():
    """A process that stood still for a minute suspects nobody when it wakes."""
    async with running_link() as world:
        await settled(world)
        world.clock.jump(60.0)
        await asyncio.sleep(120)
        assert Phase.SUSPECT not in world.phases
        world.clock.jump(60.0)
        world.switch_on(FaultKind.MUTE)
        await world.until_phase(Phase.SUSPECT, within=41)


async def test_an_interruption_is_noticed_in_the_middle_of_a_pull():
    """A pull that takes its time does not keep a lost session looking live."""
    async with running_link() as world:
        await settled(world)
        world.switch_on(FaultKind.DELAY, seconds=60.0, limit=1)
        asked = len(world.service.history_asked_at)
        await world.until(lambda: world.faults.injected[FaultKind.DELAY], within=301)
        world.service.drop(world.account.metaapi_id)
        missed = world.trade(2)
        assert await world.until_phase(Phase.SYNCING, within=1) < 0.1
        await world.until_live()
        assert set(missed) <= set(world.ledger)
        assert len(world.service.history_asked_at) > asked
        world.assert_exact()


async def test_a_stream_that_beats_and_carries_nothing_is_dialled_again():
    """Pulls bring what it should have brought, several times in a row: a new session, said why."""
    async with running_link() as world:
        await settled(world)
        world.switch_on(FaultKind.LOSE_PACKETS)
        lost = world.trade(5)
        await world.until_phase(Phase.BACKOFF, within=world.settings.rolling_interval_seconds + 10)
        assert world.entered.reason == "StreamDeaf"
        assert set(lost) <= set(world.ledger)
        world.switch_off(FaultKind.LOSE_PACKETS)
        await world.until_live()
        heard = world.trade()
        await asyncio.sleep(0.1)
        assert set(heard) <= set(world.ledger)
        assert len(world.service.opened) == 2
        assert 0 < world.sample(f"{DETECTION}_sum", signal="deaf") < 330
        world.assert_exact()


async def test_late_deals_do_not_make_a_stream_deaf():
    """What the broker books with an old time is no proof against a stream that carries the new."""
    async with running_link() as world:
        await settled(world)
        await asyncio.sleep(1_000)
        for _ in range(20):
            world.trade()
            await asyncio.sleep(100)
            for age in range(5):
                world.book(age=timedelta(minutes=2 + age), is_quiet=True)
        await asyncio.sleep(700)
        assert len(world.service.opened) == 1
        assert not subsequence([Phase.LIVE, Phase.BACKOFF], world.phases)
        world.assert_exact()


async def test_a_pull_that_is_faster_than_the_stream_proves_nothing():
    """Deals that the pull sees first and the stream brings a moment later are no deafness."""
    async with running_link() as world:
        await settled(world)
        session = world.session
        held = []
        tell, session._tell_deal = session._tell_deal, held.append
        for _ in range(30):
            world.service.before_page = lambda: world.trade(4)
            await world.until(lambda: held, within=301)
            world.service.before_page = None
            await asyncio.sleep(2)
            for deal in held:
                tell(deal)
            held.clear()
            await asyncio.sleep(10)
        assert len(world.service.opened) == 1
        world.assert_exact()


async def test_a_gap_is_pulled_within_five_seconds_and_measured():
    """What the stream admits to have lost is there at once, and shows in the metric."""
    async with running_link() as world:
        await settled(world)
        world.switch_delay(3.0)
        lost = world.book(is_quiet=True)
        world.session._tell(Gap(reason="sequence"))
        assert await world.until(lambda: lost in world.ledger, within=5) < 5
        await asyncio.sleep(1)
        assert 3 < world.sample(f"{DETECTION}_sum", signal="gap") < 5
