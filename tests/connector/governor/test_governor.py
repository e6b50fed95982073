"""Calls on virtual time: who waits, who is put off, and what the fleet spends in all."""

import asyncio
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random

import pytest
from governing import LIMITLESS, fleet_of, new_governor
from link_world import VirtualClock
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokerd.connector.governor.buckets import Limit
from brokerd.connector.governor.credits import actual_cost
from brokerd.connector.governor.memory import MemoryPot
from brokerd.connector.governor.ports import Call, Service, Socket
from brokerd.domain import UserAction
from brokerd.errors import (
    Held,
    RemoteUnavailable,
    Throttled,
    TopUpRequired,
    Unauthorized,
    ValidationLocked,
)
from brokerd.store.memory import MemoryState
from brokerd.telemetry import Metrics

pytestmark = pytest.mark.looptime(noop_cycles=0)

DEALS = Call(
    service=Service.CLIENT, method="deals", token="main", region="london", account_id="a-1"
)


def of(account="a-1", **changes):
    """Build a call for an account's deals."""
    return replace(DEALS, account_id=account, **changes)


@dataclass
class Node:
    """A governor, and what it let through."""

    settings: object = LIMITLESS
    clock: VirtualClock = field(default_factory=VirtualClock)
    metrics: Metrics = field(default_factory=lambda: Metrics(CollectorRegistry()))
    pot: object = None
    live_nodes: int = 1
    sent: list = field(default_factory=list)

    def __post_init__(self):
        self.fleet = fleet_of(MemoryState(clock=self.clock))
        self.fleet.live_nodes = self.live_nodes
        self.governor = new_governor(
            clock=self.clock,
            metrics=self.metrics,
            settings=self.settings,
            fleet=self.fleet,
            pot=self.pot,
        )

    async def send(self, call=DEALS, *, failure=None, items=0, seconds=0.1, is_answered=True):
        """Send one call, which takes a while and may fail; note when and what it cost."""
        async with self.governor.passing(call) as passage:
            cost = actual_cost(call, settings=self.settings, items=items)
            self.sent.append((self.clock.monotonic(), call, cost))
            await asyncio.sleep(seconds)
            if is_answered:
                now = self.clock.now()
                passage.note_date(None, sent_at=now, received_at=now)
            if failure is not None:
                raise failure
            passage.note_items(items)

    async def fail(self, call=DEALS, *, failure, **options):
        """Send one call that fails; return what was raised."""
        with pytest.raises((type(failure), Held)) as raised:
            await self.send(call, failure=failure, **options)
        return raised.value

    def sample(self, name, **labels):
        """Read a metric."""
        return self.metrics.registry.get_sample_value(name, labels)


async def held(node, call=DEALS):
    """Return the refusal of a call that must not be sent."""
    sent = len(node.sent)
    with pytest.raises(Held) as raised:
        await node.send(call)
    assert len(node.sent) == sent
    return raised.value


# 429.


@pytest.mark.parametrize(
    ("named", "held_calls", "free_calls"),
    [
        ("user", [of(), of("a-2"), of("a-2", region="tokyo")], [of("b-1", token="other")]),
        (
            "server",
            [of(), of("a-2"), of("b-1", token="other")],
            [of("a-2", region="tokyo"), of("b-1", token="other", region="tokyo")],
        ),
        ("account", [of()], [of("a-2"), of("b-1", token="other")]),
        ("unknown", [of()], [of("a-2"), of("b-1", token="other")]),
    ],
)
async def test_f10_a_429_stops_only_the_scope_it_names(named, held_calls, free_calls):
    """Who shares the scope waits, everybody else goes on at once."""
    node = Node()
    await node.fail(failure=Throttled("429", retry_after_seconds=60.0, scope=named))
    for call in held_calls:
        refusal = await held(node, call)
        assert refusal.cause == "throttled"
        assert 59 <= refusal.retry_after_seconds <= 60
    began = node.clock.monotonic()
    for call in free_calls:
        await node.send(call, seconds=0)
    assert node.clock.monotonic() == began
    await asyncio.sleep(60)
    for call in held_calls:
        await node.send(call)
    assert node.sample("brokerd_metaapi_throttled_total", scope=named) == 1
    assert node.sample("brokerd_metaapi_held_total", cause="throttled") == len(held_calls)


async def test_a_short_hold_is_waited_for_in_line():
    """Three seconds are less than a request may wait: nothing fails, nothing is sent early."""
    node = Node()
    await node.fail(failure=Throttled("429", retry_after_seconds=3.0, scope="user"))
    hit_at = node.clock.monotonic()
    await asyncio.gather(*(node.send(of(f"a-{n}")) for n in range(5)))
    assert all(at >= hit_at + 3.0 for at, *_ in node.sent[1:])


async def test_unnamed_429s_of_two_accounts_hold_their_token():
    """One may be the account's own; two at the same time are not."""
    node, unnamed = Node(), Throttled("429", retry_after_seconds=60.0)
    await node.fail(of("a-1"), failure=unnamed)
    await node.send(of("a-3"))
    await node.fail(of("a-2"), failure=unnamed)
    await held(node, of("a-3"))
    await node.send(of("b-1", token="other"))


async def test_provisioning_is_held_by_itself():
    """A 429 of the provisioning service does not stop history, nor the other way round."""
    node = Node()
    record = Call(service=Service.PROVISIONING, method="account", token="main", account_id="a-1")
    await node.fail(record, failure=Throttled("429", retry_after_seconds=600.0))
    await held(node, replace(record, account_id="a-2"))
    await node.send()
    await node.send(replace(record, token="other"))


async def test_locked_credentials_hold_no_request():
    """One account's credentials are locked for an hour: its token's requests go on."""
    node = Node()
    update = Call(service=Service.PROVISIONING, method="update", token="main", account_id="a-1")
    locked = ValidationLocked("429", retry_after_seconds=3_600.0, scope="account")
    await node.fail(update, failure=locked)
    await node.send(replace(update, account_id="a-2"), seconds=0)
    await node.send(seconds=0)


async def test_f13_a_hold_of_hours_is_told_at_once():
    """Who asks is told how long; nobody waits in line for six hours."""
    node = Node()
    await node.fail(failure=Throttled("429", retry_after_seconds=21_600.0, scope="user"))
    began = node.clock.monotonic()
    refusals = await asyncio.gather(
        *(node.send(of(f"a-{n}")) for n in range(50)), return_exceptions=True
    )
    assert node.clock.monotonic() == began
    assert {type(refusal) for refusal in refusals} == {Held}
    assert min(refusal.retry_after_seconds for refusal in refusals) > 21_590
    assert len(node.sent) == 1


# Credits.


def most_in_a_span(sent, seconds):
    """Return the most credits that were spent in any span of so many seconds."""
    return max(sum(c for at, _, c in sent if t <= at < t + seconds) for t, *_ in sent)


async def test_a_tokens_credits_are_never_passed():
    """Forty callers at once, a minute's credits: the rest is told when, and comes then."""
    settings = replace(LIMITLESS, user_credits_per_second=1_000, user_credits_per_minute=6_000)
    node, causes, random = Node(settings=settings), set(), Random(1)

    async def keep_asking(number):
        while node.clock.monotonic() < 300:
            try:
                await node.send(of(f"a-{number}"), items=100)
            except Held as refusal:
                causes.add(refusal.cause)
                await asyncio.sleep(refusal.retry_after_seconds + random.uniform(0, 5))

    await asyncio.gather(*(keep_asking(number) for number in range(40)))
    assert most_in_a_span(node.sent, 1.0) <= 1_000
    assert most_in_a_span(node.sent, 60.0) <= 6_000
    assert len(node.sent) > 150  # of the 190 that five minutes and a slice of each allow
    assert causes == {"credits"}


async def test_what_a_page_did_not_cost_is_given_back():
    """725 credits are set aside for a page, 75 are spent: a second holds thirteen, not one."""
    node = Node(settings=replace(LIMITLESS, user_credits_per_second=1_000))
    for _ in range(4):  # 300 are spent then, and 725 fit
        await node.send(seconds=0)
    assert node.clock.monotonic() == 0
    await node.send(seconds=0)
    assert 1.0 <= node.clock.monotonic() <= 1.1


async def test_one_account_out_of_credits_stops_no_other():
    """Its line is its own."""
    settings = replace(LIMITLESS, account_credits_per_ten_seconds=800, longest_wait_seconds=20.0)
    node = Node(settings=settings)
    await node.send(items=1000, seconds=0)
    waiting = asyncio.ensure_future(node.send(seconds=0))
    await asyncio.sleep(0.1)
    await node.send(of("a-2"), seconds=0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_who_leaves_the_line_takes_nothing_along():
    """A cancelled caller gives back what it took on its way, and lets the next one through."""
    node = Node(settings=replace(LIMITLESS, account_credits_per_ten_seconds=800))
    await node.fail(of("x"), failure=Throttled("429", retry_after_seconds=9, scope="server"))
    waiting = asyncio.ensure_future(node.send())
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    began = node.clock.monotonic()
    await node.send(of(region="tokyo"), seconds=0)  # needs 725 of the 800
    assert node.clock.monotonic() == began
    assert len(node.sent) == 2


async def test_first_come_first_served():
    """In one line, nobody overtakes."""
    node = Node(settings=replace(LIMITLESS, user_credits_per_second=750))
    await asyncio.gather(*(node.send(of(f"a-{n}"), items=1000) for n in range(5)))
    assert [call.account_id for _, call, _ in node.sent] == [f"a-{n}" for n in range(5)]


async def test_idle_lines_are_forgotten():
    """A thousand accounts that were asked for once leave few lines behind."""
    node = Node(settings=replace(LIMITLESS, account_credits_per_ten_seconds=5_000))
    for number in range(1_000):
        await node.send(of(f"a-{number}"), seconds=0.1)
    assert len(node.governor._lines) < 400


# The fleet.


class LossyPot(MemoryPot):
    """One node's view of a pot, which it loses by itself."""

    def __init__(self, clock, shared):
        super().__init__(clock)
        self.shared = shared
        self._pots, self._probes = shared._pots, shared._probes


@pytest.mark.parametrize("seed", range(6))
async def test_the_fleet_never_spends_more_than_its_budget(seed):
    """Two nodes, uneven demand, a pot that each of them loses for a while, and that is flushed.

    In any second and any minute all nodes together stay within the limit.
    """
    settings = replace(
        LIMITLESS,
        user_credits_per_second=1_000,
        user_credits_per_minute=9_000,
        longest_wait_seconds=5.0,
    )
    random, clock = Random(seed), VirtualClock()
    shared = MemoryPot(clock)
    nodes = [
        Node(settings=settings, clock=clock, pot=LossyPot(clock, shared), live_nodes=2)
        for _ in range(2)
    ]

    async def ask(node, callers):
        while clock.monotonic() < 400:
            try:
                call = of(f"a-{random.randrange(callers)}", method="account_information")
                await node.send(call, seconds=random.random() / 5)
            except Held as refusal:
                await asyncio.sleep(min(refusal.retry_after_seconds, 5.0))
            await asyncio.sleep(random.expovariate(8))

    async def disturb():
        while clock.monotonic() < 400:
            await asyncio.sleep(random.uniform(5, 40))
            for node in nodes:
                node.pot.is_away = random.random() < 0.4
            if random.random() < 0.2:
                shared._pots.clear()

    busy = [ask(nodes[0], 9) for _ in range(9)] + [ask(nodes[1], 2) for _ in range(2)]
    await asyncio.gather(*busy, disturb())
    everything = sorted((e for node in nodes for e in node.sent), key=lambda entry: entry[0])
    assert most_in_a_span(everything, 1.0) <= 1_000
    assert most_in_a_span(everything, 60.0) <= 9_000
    assert len(everything) > 500


async def test_the_pot_serves_who_needs_more_than_its_share():
    """One node asks, the other does not: it gets its half of the half, and all of the pot."""
    settings = replace(LIMITLESS, user_credits_per_minute=6_000)
    clock = VirtualClock()
    pot = MemoryPot(clock)
    node = Node(settings=settings, clock=clock, pot=pot, live_nodes=2)
    limit = Limit(period_seconds=60.0, units=3_000)
    await pot.draw("user:main", limits=[limit], cost=1)
    await asyncio.sleep(61)  # the pot must have counted for its period first
    for _ in range(300):
        try:
            await node.send(of(method="account_information"), seconds=0)
        except Held:
            break
    assert sum(cost for *_, cost in node.sent) == 4_500
    pot.is_away = True
    await asyncio.sleep(70)
    node.sent.clear()
    for _ in range(300):
        try:
            await node.send(of(method="account_information"), seconds=0)
        except Held:
            break
    assert sum(cost for *_, cost in node.sent) == 1_500


# Breakers.


async def test_a_bad_token_is_probed_once_in_fifteen_minutes():
    """Twenty links, an hour: four requests, each link told when; other tokens do not notice."""
    node, refusal = Node(), Unauthorized("401")
    with capture_logs() as logs:

        async def keep_asking(account):
            while node.clock.monotonic() < 3_500:
                failure = await node.fail(of(account), failure=refusal)
                wait = failure.retry_after_seconds if isinstance(failure, Held) else 900.0
                if isinstance(failure, Held):
                    assert failure.user_action is UserAction.FIX_TOKEN
                    assert failure.cause == "unauthorized"
                await asyncio.sleep(wait)

        async def keep_working():
            for _ in range(70):
                await node.send(of("b-1", token="other"))
                await asyncio.sleep(50)

        await asyncio.gather(keep_working(), *(keep_asking(f"a-{n}") for n in range(20)))
    at = [at for at, call, _ in node.sent if call.token == "main"]
    first = [moment for moment in at if moment < 1]
    assert len(at) - len(first) == 3  # those that were under way when the first answer came
    assert all(
        later - earlier >= 899
        for earlier, later in zip(at[len(first) - 1 :], at[len(first) :], strict=False)
    )
    assert sum(call.token == "other" for _, call, _ in node.sent) == 70
    assert [entry["event"] for entry in logs] == ["governor.breaker_opened"]
    assert logs[0]["log_level"] == "error"
    await node.governor.refresh()
    assert node.sample("brokerd_breaker_state", cause="unauthorized", scope="user") >= 1
    assert node.sample("brokerd_breaker_opens_total", cause="unauthorized", scope="user") == 1


async def test_a_token_that_was_mended_resumes_with_the_next_probe():
    """The first probe that succeeds lets everybody through, who waited for it too."""
    node = Node()
    await node.fail(failure=Unauthorized("401"))
    await asyncio.sleep(900)
    with capture_logs() as logs:
        await asyncio.gather(*(node.send(of(f"a-{n}"), seconds=2) for n in range(10)))
    times = [at for at, *_ in node.sent[1:]]
    assert [round(at - times[0]) for at in times] == [0] + [2] * 9
    assert [entry["event"] for entry in logs] == ["governor.breaker_closed"]


async def test_a_probe_that_was_cancelled_is_free_again():
    """Its caller left; the next one probes."""
    node = Node()
    await node.fail(failure=Unauthorized("401"))
    await asyncio.sleep(900)
    probing = asyncio.ensure_future(node.send(seconds=100))
    await asyncio.sleep(1)
    waiting = asyncio.ensure_future(node.send(of("a-2"), seconds=0))
    await asyncio.sleep(1)
    assert not waiting.done()
    probing.cancel()
    await asyncio.gather(probing, return_exceptions=True)
    await asyncio.wait_for(waiting, 0.1)


async def test_f14_an_outage_opens_half_opens_and_closes():
    """Five accounts meet 503: their region is left alone, probed, and everybody comes back."""
    node, outage = Node(), RemoteUnavailable("503")
    for number in range(5):
        await node.fail(of(f"a-{number}"), failure=outage, seconds=0)
    refusal = await held(node, of("a-6"))
    assert (refusal.cause, refusal.scope) == ("server", "client:london")
    assert refusal.user_action is UserAction.NONE
    await node.send(of("a-6", region="tokyo"), seconds=0)
    probes = []
    while node.clock.monotonic() < 130:
        failure = await node.fail(of("a-1"), failure=outage, seconds=0)
        if failure is outage:
            probes.append(node.clock.monotonic())
        else:
            await asyncio.sleep(failure.retry_after_seconds)
    gaps = [round(later - earlier) for earlier, later in pairwise(probes)]
    assert gaps == [2, 4, 8, 16, 32, 60]
    await asyncio.sleep(60)
    await node.send(of("a-1"), seconds=0)
    await node.send(of("a-6"), seconds=0)


async def test_a_servers_hint_outlasts_the_breakers_own_wait():
    """503 with Retry-After of five minutes: not probed before."""
    node = Node()
    for number in range(5):
        failure = RemoteUnavailable("503", retry_after_seconds=300.0)
        await node.fail(of(f"a-{number}"), failure=failure, seconds=0)
    assert (await held(node)).retry_after_seconds == pytest.approx(300)


async def test_nothing_reached_is_another_cause_than_nothing_served():
    """Connections that fail open the breaker of the transport."""
    node = Node()
    for number in range(5):
        lost = RemoteUnavailable("refused")
        await node.fail(of(f"a-{number}"), failure=lost, seconds=0, is_answered=False)
    assert (await held(node)).cause == "transport"


async def test_f16_an_empty_balance_holds_the_token_until_the_same_call_succeeds():
    """The free call of the probing link succeeds and frees nobody; the paid one does."""
    node = Node()
    record = Call(service=Service.PROVISIONING, method="account", token="main", account_id="a-1")
    await node.fail(failure=TopUpRequired("403"))
    assert (await held(node, of("a-2"))).user_action is UserAction.TOP_UP
    assert (await held(node, record)).cause == "billing"
    await asyncio.sleep(900)
    await node.send(record)
    assert (await held(node, of("a-2"))).cause == "billing"
    await node.send()
    await node.send(of("a-2"))


async def test_probes_of_a_refusal_are_the_fleets():
    """Two nodes share one probe in fifteen minutes; what one finds mended, the other may try."""
    clock = VirtualClock()
    pot = MemoryPot(clock)
    one, two = (Node(clock=clock, pot=pot, live_nodes=2) for _ in range(2))
    refusal = Unauthorized("401")
    for node in (one, two):
        await node.fail(failure=refusal)
    await asyncio.sleep(901)
    assert await one.fail(failure=refusal) is refusal
    assert (await held(two)).retry_after_seconds == pytest.approx(900, abs=2)
    await asyncio.sleep(901)
    await one.send()
    await two.send()
    pot.is_away = True
    await two.fail(failure=refusal)
    await asyncio.sleep(901)
    await two.send()


# Sockets.

SOCKET = Socket(token="main", region="london", name="0")


async def open_sockets(governor, *, until, names, clock, delay=0.0):
    """Ask for turns as a client whose sockets die at once; return when each came."""
    opened = []

    async def keep_opening(name):
        while clock.monotonic() < until:
            await governor.socket_turn(replace(SOCKET, name=name))
            opened.append(clock.monotonic())
            await asyncio.sleep(delay)

    await asyncio.gather(*(keep_opening(name) for name in names))
    return opened


async def test_f7_a_server_that_accepts_and_closes_is_left_alone():
    """Attempts grow apart up to a minute; a terminal that speaks ends it."""
    node = Node()
    with capture_logs() as logs:
        opened = await open_sockets(
            node.governor, until=300, names=["0", "1", "2"], clock=node.clock, delay=0.05
        )
    assert len(opened) < 20
    assert [entry["event"] for entry in logs] == ["governor.breaker_opened"]
    assert logs[0]["scope"] == "stream:london"
    await asyncio.sleep(61)
    node.governor.note_life(token="main", region="london")
    began = node.clock.monotonic()
    for name in ("3", "4", "5"):
        await node.governor.socket_turn(replace(SOCKET, name=name))
    assert node.clock.monotonic() == began


async def test_sockets_that_lived_are_no_failures():
    """Lost after a terminal spoke, a socket may be opened again at once, a hundred times."""
    node = Node()
    for _ in range(100):
        await node.governor.socket_turn(SOCKET)
        node.governor.note_life(token="main", region="london")
    assert node.clock.monotonic() == 0


async def test_f9_the_fleet_opens_so_many_sockets_a_second():
    """Two nodes lose forty sockets each: no second sees more than twenty-five opened."""
    settings = replace(LIMITLESS, fleet_socket_opens_per_second=25)
    clock = VirtualClock()
    pot = MemoryPot(clock)
    nodes = [Node(settings=settings, clock=clock, pot=pot, live_nodes=2) for _ in range(2)]
    opened = []

    async def reopen(node, name):
        await node.governor.socket_turn(replace(SOCKET, name=name))
        opened.append((clock.monotonic(), None, 1))

    await asyncio.gather(*(reopen(node, str(n)) for node in nodes for n in range(40)))
    assert len(opened) == 80
    assert most_in_a_span(opened, 1.0) <= 25
    assert clock.monotonic() < 10


# What is shown.


async def test_what_is_left_is_shown():
    """The poorest account, token and region are seen in the metrics, whoever they are."""
    settings = replace(
        LIMITLESS, user_credits_per_minute=1_000, account_credits_per_ten_seconds=800
    )
    node = Node(settings=settings)
    await node.send(of("a-1"), items=500, seconds=0)
    await node.send(of("b-1", token="other"), seconds=0)
    await node.governor.refresh()
    ratio = "brokerd_metaapi_credits_available_ratio"
    assert node.sample(ratio, scope="user", period="60s") == pytest.approx(0.6)
    assert node.sample(ratio, scope="account", period="10s") == pytest.approx(0.5)
    assert "held" not in repr(node.governor)
