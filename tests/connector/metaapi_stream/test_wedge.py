"""By which facts a client of the SDK is beyond repair, and what becomes of it then."""

from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokerd.connector.metaapi_stream.clients import Clients
from brokerd.connector.metaapi_stream.wedge import (
    SocketLife,
    SocketState,
    Vitals,
    pause_seconds,
    why_wedged,
)
from brokerd.errors import BrokerdError, LinkLost, Unauthorized
from brokerd.telemetry import WEDGE_REASONS, Metrics

CONNECT_SECONDS = 20.0
WELL = Vitals(
    hanging_calls=9,
    longest_close_seconds=15.0,
    longest_stuck_seconds=75.0,
    broken_attempts=4,
    deaf_sessions=4,
)
WEDGED = {
    "calls_hang": Vitals(hanging_calls=10),
    "close_stuck": Vitals(longest_close_seconds=15.1),
    "socket_stuck": Vitals(longest_stuck_seconds=75.1),
    "attempts_broken": Vitals(broken_attempts=5),
    "sessions_deaf": Vitals(deaf_sessions=5),
}


@pytest.mark.parametrize(("reason", "vitals"), WEDGED.items())
def test_each_fact_alone_is_enough(reason: str, vitals: Vitals) -> None:
    """One step below it is not."""
    assert why_wedged(vitals, connect_seconds=CONNECT_SECONDS) == reason
    assert why_wedged(WELL, connect_seconds=CONNECT_SECONDS) is None


def test_every_reason_has_its_series() -> None:
    """The metric's labels are the reasons there are."""
    assert set(WEDGED) == set(WEDGE_REASONS)


@pytest.mark.parametrize(
    ("state", "stuck"),
    [
        (SocketState.WAITING, 0.0),
        (SocketState.CONNECTING, 90.0),
        (SocketState.FAILED, 90.0),
        (SocketState.UP, 0.0),
        (SocketState.DOWN, 90.0),
    ],
)
def test_only_a_socket_that_ought_to_move_can_be_stuck(state: SocketState, stuck: float) -> None:
    """Waiting for a turn, or being up, may last."""
    life = SocketLife(since=0.0)
    life.enter(state, now=10.0)
    assert life.stuck_seconds(100.0) == stuck


def test_replacements_that_do_not_help_become_rare() -> None:
    """The pause doubles up to an hour."""
    assert [pause_seconds(n) for n in (0, 1, 2, 6, 5000)] == [60, 120, 240, 3600, 3600]


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        """Return what was set."""
        return self.seconds


class Client:
    """As much of a client as `Clients` sees."""

    def __init__(self, clock: Clock) -> None:
        self.made_at = clock.seconds
        self.facts = Vitals()
        self.is_refused = False
        self.has_heard = False
        self.accounts = 1
        self.failures: list[BrokerdError] = []

    def vitals(self, *, longest_close_seconds: float) -> Vitals:
        """Return what was set."""
        assert longest_close_seconds == 0.0
        return self.facts

    def end_sessions(self, failure: BrokerdError) -> None:
        """Note the failure."""
        self.failures.append(failure)

    async def close(self) -> None:
        """Be dismantled."""


class Place:
    """Clients of one token, on a clock that is set."""

    def __init__(self) -> None:
        self.clock: Any = Clock()
        self.metrics = Metrics(CollectorRegistry())
        self.made: list[Any] = []
        self.clients = Clients(
            make=self._make,
            longest_close_seconds=lambda _: 0.0,
            connect_seconds=CONNECT_SECONDS,
            clock=self.clock,
            metrics=self.metrics,
        )

    def _make(self, token: str) -> Any:
        assert token == "main"
        self.made.append(Client(self.clock))
        return self.made[-1]

    def replaced_after(self, seconds: float) -> bool:
        """Say whether a wedged client is replaced at that age, by another that is well."""
        client = self.clients.of("main")
        client.facts = WEDGED["sessions_deaf"]
        self.clock.seconds += seconds
        return self.clients.of("main") is not client

    def dismantled(self) -> Sequence[object]:
        """Return the clients that are done with."""
        return [close.__self__ for close in self.clients.review()]


def test_a_well_client_stays() -> None:
    """Whatever time passes."""
    place = Place()
    client = place.clients.of("main")
    place.clock.seconds += 1e6
    assert place.dismantled() == []
    assert place.clients.of("main") is client


def test_a_wedged_client_is_replaced_and_kept_until_it_is_empty() -> None:
    """Its sessions are not told; it is dismantled once the last one left."""
    place = Place()
    with capture_logs() as logs:
        assert place.replaced_after(61)
    (entry,) = logs
    assert (entry["event"], entry["reason"]) == ("stream.client_replaced", "sessions_deaf")
    assert place.metrics.registry.get_sample_value(
        "brokerd_stream_clients_replaced_total", {"reason": "sessions_deaf"}
    )
    old, new = place.made
    assert place.clients.all == [new, old]
    assert (place.dismantled(), old.failures) == ([], [])
    old.accounts = 0
    assert place.dismantled() == [old]
    assert place.clients.all == [new]


def test_sessions_that_stay_come_to_the_new_client_after_an_hour() -> None:
    """They are lost to their links, which open them again."""
    place = Place()
    assert place.replaced_after(61)
    place.clock.seconds += 3_600
    (old,) = place.dismantled()
    assert [type(each) for each in old.failures] == [LinkLost]


def test_replacing_pauses_while_it_does_not_help() -> None:
    """Each new client that hears nothing either doubles the pause; one that hears resets it."""
    place = Place()
    assert not place.replaced_after(59)
    assert place.replaced_after(2)
    assert not place.replaced_after(100)
    assert place.replaced_after(21)
    assert not place.replaced_after(200)
    healed = place.clients.of("main")
    healed.facts, healed.has_heard = Vitals(), True
    assert place.clients.of("main") is healed
    assert place.replaced_after(61)


def test_a_refused_token_makes_no_client_for_a_minute() -> None:
    """The refused client is done with once its sessions left."""
    place = Place()
    client = place.clients.of("main")
    client.is_refused = True
    with pytest.raises(Unauthorized), capture_logs() as logs:
        place.clients.of("main")
    assert [entry["event"] for entry in logs] == ["stream.token_refused"]
    place.clock.seconds += 59
    with pytest.raises(Unauthorized):
        place.clients.of("main")
    place.clock.seconds += 2
    assert place.clients.of("main") is not client
    client.accounts = 0
    assert place.dismantled() == [client]
