"""Links that fail together: when it is an incident, who probes, and how the others come back."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from brokerd.config.settings import HealthSettings
from brokerd.domain import LinkId
from brokerd.health.incidents import Incidents, Place, Reach, Scope, Stage

ONE, TWO = Place(server="one", region="london"), Place(server="two", region="london")
FAR = Place(server="far", region="new-york")
SERVER_ONE = Scope(reach=Reach.SERVER, name="one")


def fleet(**sizes):
    """Return incidents with so many live links at each place, and their ids by place."""
    incidents = Incidents(HealthSettings())
    places = {"one": ONE, "two": TWO, "far": FAR}
    links = {}
    for name, size in sizes.items():
        links[name] = [LinkId(f"{name}-{number}") for number in range(size)]
        for link_id in links[name]:
            incidents.joined(link_id, places[name], 0.0)
            incidents.live(link_id, 0.0)
    return incidents, links


def stages(incidents):
    """Return what was told, as scope and stage."""
    return [(change.scope, change.stage) for change in incidents.take_changes()]


def test_few_that_are_lost_are_nobodys_incident():
    """Two of ten, or ten over an hour, dial on their own."""
    incidents, links = fleet(one=10)
    for number, link_id in enumerate(links["one"]):
        incidents.lost(link_id, 100.0 + number * 45)
        assert incidents.turn(link_id, 100.0 + number * 45) == 0.0
        incidents.live(link_id, 110.0 + number * 45)
    assert stages(incidents) == []


def test_half_of_a_server_within_a_minute_is_an_incident():
    """The fifth of ten opens it; it says how many are down."""
    incidents, links = fleet(one=10, two=10)
    for number, link_id in enumerate(links["one"][:4]):
        incidents.lost(link_id, 100.0 + number)
    assert stages(incidents) == []
    incidents.lost(links["one"][4], 110.0)
    (change,) = incidents.take_changes()
    assert (change.scope, change.stage) == (SERVER_ONE, Stage.OPENED)
    assert (change.links_down, change.links) == (5, 10)


def test_a_link_that_was_never_live_is_no_loss():
    """Wrong passwords of new users are not their broker's incident."""
    incidents = Incidents(HealthSettings())
    for number in range(10):
        incidents.joined(LinkId(str(number)), ONE, 0.0)
        incidents.lost(LinkId(str(number)), 1.0)
    assert stages(incidents) == []


def test_one_canary_probes_at_growing_intervals_and_the_others_wait():
    """Of fifty links one may dial: after 30 s, 45 s, 67.5 s … up to fifteen minutes."""
    incidents, links = fleet(one=50)
    for link_id in links["one"]:
        incidents.lost(link_id, 100.0)
    dialled = []
    for tenth in range(4 * 3600 * 10):
        now = 100.0 + tenth / 10
        dialled += [
            (link_id, now)
            for link_id in links["one"]
            if tenth % 5 == 0 and incidents.turn(link_id, now) == 0.0
        ]
        if now > 5_000:
            break
    assert {link_id for link_id, _ in dialled} == {links["one"][0]}
    waits = [later - earlier for (_, earlier), (_, later) in pairwise(dialled)]
    assert waits[:3] == pytest.approx([30.0, 45.0, 67.5], abs=1.0)
    assert max(waits) <= 901


def test_when_the_canary_is_live_the_others_return_at_their_rate():
    """Three hundred links of a server come back at ten a second, and the incident closes."""
    incidents, links = fleet(one=300)
    for link_id in links["one"]:
        incidents.lost(link_id, 100.0)
    canary, *others = links["one"]
    assert incidents.turn(canary, 130.0) == 0.0
    incidents.live(canary, 135.0)
    returned = {}
    now = 135.0
    while len(returned) < len(others):
        for link_id in others:
            if link_id not in returned and incidents.turn(link_id, now) == 0.0:
                returned[link_id] = now
        now += 0.05
        assert now < 300
    for second in range(135, 170):
        assert sum(second <= at < second + 1 for at in returned.values()) <= 11
    for link_id in others:
        incidents.live(link_id, now)
    assert [stage for _, stage in stages(incidents)] == [
        Stage.OPENED,
        Stage.RETURNING,
        Stage.CLOSED,
    ]
    assert incidents.turn(canary, now) == 0.0


def test_a_session_that_came_back_by_itself_needs_no_canary():
    """Its terminal answers: the others may follow at once, those that must dial too."""
    incidents, links = fleet(one=20)
    for link_id in links["one"]:
        incidents.lost(link_id, 100.0)
    first, second, dials, *_ = links["one"]
    assert incidents.turn(first, 101.0, is_up=True) == 0.0
    assert incidents.turn(second, 101.0, is_up=True) == pytest.approx(0.2)
    assert incidents.turn(dials, 101.0) == pytest.approx(0.4)
    assert [stage for _, stage in stages(incidents)] == [Stage.OPENED, Stage.RETURNING]


def test_a_thousand_links_are_back_in_half_a_minute():
    """The rate grows with the number; each asks for its moment once, and then it is its own."""
    incidents, links = fleet(one=1_000)
    for link_id in links["one"]:
        incidents.lost(link_id, 100.0)
    waits = [incidents.turn(link_id, 100.0, is_up=True) for link_id in links["one"]]
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(30.0, abs=0.1)
    assert incidents.turn(links["one"][500], 100.0 + waits[500], is_up=True) == 0.0


def test_one_link_that_stays_away_keeps_no_incident_open():
    """What happens later to its neighbours is told, and answered, as a new incident."""
    incidents, links = fleet(one=10)
    for link_id in links["one"]:
        incidents.lost(link_id, 100.0)
    for link_id in links["one"][1:]:
        incidents.live(link_id, 110.0)
    assert incidents.open_scopes == ()
    assert stages(incidents)[-1] == (SERVER_ONE, Stage.CLOSED)


def test_a_relapse_sends_the_canary_again():
    """What returned and is lost again stops the return."""
    incidents, links = fleet(one=20)
    for link_id in links["one"]:
        incidents.lost(link_id, 100.0)
    incidents.turn(links["one"][0], 130.0)
    incidents.live(links["one"][0], 131.0)
    for number, link_id in enumerate(links["one"][1:6]):
        now = 132.0 + number
        assert incidents.turn(link_id, now) == 0.0
        incidents.live(link_id, now)
    for link_id in links["one"][1:4]:
        incidents.lost(link_id, 138.0)
    assert stages(incidents)[-1] == (SERVER_ONE, Stage.RELAPSED)
    waits = [incidents.turn(link_id, 139.0) for link_id in links["one"]]
    assert min(waits) > 0


def test_a_region_that_fails_is_one_incident_not_one_a_server():
    """Losses in two servers of a region widen the incident; those of one do not."""
    incidents, links = fleet(one=10, two=10, far=30)
    for link_id in links["one"]:
        incidents.lost(link_id, 100.0)
    for link_id in links["two"]:
        incidents.lost(link_id, 101.0)
    assert incidents.open_scopes == (Scope(reach=Reach.REGION, name="london"),)
    assert incidents.turn(links["far"][0], 102.0) == 0.0


def test_all_links_of_the_node_at_once_are_one_incident():
    """MetaApi, or our own network, is down: one link probes for all."""
    incidents, links = fleet(one=5, two=5, far=5)
    for link_id in [*links["one"], *links["two"], *links["far"]]:
        incidents.lost(link_id, 100.0)
    assert incidents.open_scopes == (Scope(reach=Reach.ALL, name=""),)


def test_a_canary_that_leaves_is_replaced():
    """A paused canary does not keep its server waiting for ever."""
    incidents, links = fleet(one=10)
    for link_id in links["one"]:
        incidents.lost(link_id, 100.0)
    assert incidents.turn(links["one"][0], 100.0) == 0.0
    incidents.left(links["one"][0], 101.0)
    assert incidents.turn(links["one"][1], 120.0) > 0
    assert incidents.turn(links["one"][1], 131.0) == 0.0


def test_lost_links_that_somebody_else_took_end_no_incident_late():
    """A link that gave its slot back stays part of it, for half an hour at least."""
    incidents, links = fleet(one=10)
    for link_id in links["one"]:
        incidents.lost(link_id, 100.0)
    incidents.tick(1_000.0)
    assert incidents.open_scopes == (SERVER_ONE,)
    for link_id in links["one"][:3]:
        incidents.joined(link_id, ONE, 1_500.0)
    incidents.tick(2_000.0)
    assert incidents.open_scopes == (SERVER_ONE,)
    incidents.tick(4_000.0)
    assert incidents.open_scopes == ()


class Fleets(RuleBasedStateMachine):
    """Whatever happens to links, an incident never keeps them away for good."""

    def __init__(self):
        super().__init__()
        self.incidents = Incidents(HealthSettings())
        self.now = 0.0
        self.here = set()

    @rule(number=st.integers(0, 11))
    def join(self, number):
        """Let a link come."""
        place = (ONE, TWO, FAR)[number % 3]
        self.incidents.joined(LinkId(str(number)), place, self.now)
        self.here.add(LinkId(str(number)))

    @rule(number=st.integers(0, 11), verb=st.sampled_from(["live", "lost", "left", "turn"]))
    def happen(self, number, verb):
        """Let something happen to a link."""
        getattr(self.incidents, verb)(LinkId(str(number)), self.now)
        if verb == "left":
            self.here.discard(LinkId(str(number)))

    @rule(seconds=st.floats(0.0, 2_000.0))
    def wait(self, seconds):
        """Let time pass."""
        self.now += seconds
        self.incidents.tick(self.now)

    @invariant()
    def every_wait_ends(self):
        """Check that nobody waits longer than the canary's longest interval."""
        waits = [self.incidents.turn(link_id, self.now) for link_id in sorted(self.here)]
        assert all(0.0 <= wait <= HealthSettings().canary_ceiling_seconds for wait in waits)

    def teardown(self):
        """Check that once all are live again nobody waits."""
        for link_id in self.here:
            self.incidents.live(link_id, self.now)
        self.incidents.tick(self.now + 4_000.0)
        if self.here:
            assert all(self.incidents.turn(link_id, self.now) == 0.0 for link_id in self.here)


TestFleets = Fleets.TestCase
TestFleets.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_bound_is_number_and_part(links, lost):
    """An incident opens exactly when at least three, and at least half, are lost in a minute."""
    lost = min(lost, links)
    incidents, ids = fleet(one=links)
    for link_id in ids["one"][:lost]:
        incidents.lost(link_id, 100.0)
    assert bool(incidents.open_scopes) == (lost >= 3 and lost * 2 >= links)
