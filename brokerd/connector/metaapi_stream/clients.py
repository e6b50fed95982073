"""The clients of every token: the one in use, and those that were replaced and are not empty yet.

A client that is wedged (wedge.py) is replaced by a new one *beside* it. The sessions that are well
stay where they are; whatever opens next, also what the wedged one lost, opens on the new one. The
old one is dismantled once its last session left, or after a while with those that remain. A token
that MetaApi refuses costs one attempt a minute, however many links ask.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from brokerd.clock import Clock
from brokerd.connector.metaapi_stream.client import StreamClient
from brokerd.connector.metaapi_stream.wedge import pause_seconds, why_wedged
from brokerd.errors import LinkLost, Unauthorized
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RETIRED_SECONDS = 3_600.0
"""How long sessions may stay on a client that was replaced; then they come to the new one too."""
REFUSED_SECONDS = 60.0
"""How long a token that MetaApi refused is not tried again."""


@dataclass(slots=True)
class _Place:
    """What is known of a token."""

    client: StreamClient | None = None
    replacements: int = 0  # in a row, that did not help
    refused_until: float = 0.0


@dataclass(frozen=True, slots=True)
class _Retired:
    client: StreamClient
    since: float


class Clients:
    """Owns every `StreamClient`; `longest_close_seconds` is asked for each that is judged."""

    def __init__(
        self,
        *,
        make: Callable[[str], StreamClient],
        longest_close_seconds: Callable[[StreamClient], float],
        connect_seconds: float,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._make = make
        self._longest_close_seconds = longest_close_seconds
        self._connect_seconds = connect_seconds
        self._clock = clock
        self._metrics = metrics
        self._places: dict[str, _Place] = {}
        self._retired: list[_Retired] = []

    def __repr__(self) -> str:
        in_use = [place.client for place in self._places.values() if place.client is not None]
        return f"<Clients {in_use!r}, {len(self._retired)} retired>"

    @property
    def all(self) -> list[StreamClient]:
        """Return the clients in use and the retired ones."""
        in_use = [place.client for place in self._places.values() if place.client is not None]
        return [*in_use, *(each.client for each in self._retired)]

    def of(self, token: str) -> StreamClient:
        """Return the client on which a session of the token is opened now.

        Raises `Unauthorized` while the token is known to be bad, `InvalidRequest` for no token.
        """
        place = self._places.get(token, _Place())
        self._judge(token, place)
        if self._clock.monotonic() < place.refused_until:
            raise Unauthorized("MetaApi's stream refused the token less than a minute ago")
        if place.client is None:
            place.client = self._make(token)
            self._places[token] = place
        return place.client

    def review(self) -> list[Callable[[], Awaitable[None]]]:
        """Judge every client; return how to dismantle those that are done with, to be awaited."""
        for token, place in self._places.items():
            self._judge(token, place)
        now = self._clock.monotonic()
        done = [each for each in self._retired if self._is_done(each, now)]
        self._retired = [each for each in self._retired if each not in done]
        return [each.client.close for each in done]

    def _judge(self, token: str, place: _Place) -> None:
        client, now = place.client, self._clock.monotonic()
        if client is None:
            return
        if client.is_refused:
            place.refused_until = now + REFUSED_SECONDS
            log.error("stream.token_refused", token=token, delay_seconds=REFUSED_SECONDS)
            self._retire(place, client, now)
            return
        reason = why_wedged(
            client.vitals(longest_close_seconds=self._longest_close_seconds(client)),
            connect_seconds=self._connect_seconds,
        )
        if reason is None:
            if client.has_heard:
                place.replacements = 0
            return
        if now - client.made_at < pause_seconds(place.replacements):
            return
        log.warning("stream.client_replaced", token=token, reason=reason, links=client.accounts)
        self._metrics.clients_replaced.labels(reason=reason).inc()
        place.replacements += 1
        self._retire(place, client, now)

    def _retire(self, place: _Place, client: StreamClient, now: float) -> None:
        place.client = None
        self._retired.append(_Retired(client, now))

    def _is_done(self, retired: _Retired, now: float) -> bool:
        if now - retired.since >= RETIRED_SECONDS:
            retired.client.end_sessions(LinkLost("the client of this session was replaced"))
            return True
        return retired.client.accounts == 0
