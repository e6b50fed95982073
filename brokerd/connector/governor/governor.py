"""The single way out to MetaApi: every request and every socket of this node passes here.

A call passes its breakers, then one line after another: its account's, its token's, its region's.
Each line lets it through as the budget of that scope allows, so a scope that is spent, or held by a
429, stops nobody outside it. Then it takes its turn at the node's own pace. What it may cost at
most is taken before it is sent, and what it did not cost is given back.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from math import inf

from brokerd.clock import Clock
from brokerd.config.settings import GovernorSettings
from brokerd.connector.governor.breakers import Breakers
from brokerd.connector.governor.credits import actual_cost, highest_cost, limits_of
from brokerd.connector.governor.fleet import Fleet
from brokerd.connector.governor.line import SHORTEST_WAIT_SECONDS, Line, LinePorts, Taken
from brokerd.connector.governor.offset import ClockOffset, observed
from brokerd.connector.governor.ports import Call, Pot, Service, Sleep, Socket, Turns
from brokerd.connector.governor.scopes import (
    FLEET_SOCKETS,
    Scope,
    ScopeKind,
    scopes_of,
    throttled_scope,
)
from brokerd.connector.governor.share import Division, divide
from brokerd.connector.governor.sockets import Sockets
from brokerd.errors import BrokerdError, Held, RemoteUnavailable, Throttled, ValidationLocked
from brokerd.telemetry import Metrics

MAX_IDLE_LINES = 256
"""Beyond so many, lines that nobody stands in are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorPorts:
    """What the governor needs from the rest of the node. `pace` is the node's for requests."""

    fleet: Fleet
    pot: Pot | None
    pace: Turns
    socket_pace: Turns
    clock: Clock
    sleep: Sleep
    metrics: Metrics


class CallPassage:
    """One call that was let through."""

    def __init__(self, call: Call, *, offsets: dict[Service, ClockOffset]) -> None:
        self.call = call
        self.is_answered = False
        self.items = 0
        self._offsets = offsets

    def note_date(self, date: str | None, *, sent_at: datetime, received_at: datetime) -> None:
        """Note that an answer came, its Date header, and our own clock around it."""
        self.is_answered = True
        self._offsets[self.call.service] = observed(
            self._offsets[self.call.service], date=date, sent_at=sent_at, received_at=received_at
        )

    def note_items(self, items: int) -> None:
        """Note how many items of history came."""
        self.items = items


class Governor:
    """`Gate` and `SocketGate`: see the module."""

    def __init__(self, settings: GovernorSettings, *, ports: GovernorPorts) -> None:
        self._settings = settings
        self._ports = ports
        self._line_ports = LinePorts(clock=ports.clock, sleep=ports.sleep, pot=ports.pot)
        self._lines: dict[Scope, Line] = {}
        self._breakers = Breakers(settings, ports=self._line_ports, metrics=ports.metrics)
        self._offsets = dict.fromkeys(Service, ClockOffset())
        self._sockets = Sockets()
        self.subscriptions: dict[str, int] = {}
        self._unnamed: dict[str, tuple[Scope, float]] = {}

    def __repr__(self) -> str:
        return f"<Governor {len(self._lines)} lines>"

    def server_now(self, service: Service) -> datetime:
        """Return what a service's own clock shows now, as its Date headers told."""
        return self._offsets[service].server_time(self._ports.clock.now())

    @asynccontextmanager
    async def passing(self, call: Call) -> AsyncIterator[CallPassage]:
        """Wait for the call's turn; see `Gate`."""
        taken = await self._enter(call)
        passage = CallPassage(call, offsets=self._offsets)
        try:
            yield passage
        except BrokerdError as failure:
            self._learn(passage, failure)
            if not isinstance(failure, Throttled) and passage.is_answered:
                _relieve(taken)
            raise
        except BaseException:
            self._breakers.release(call)  # nobody knows how it ended
            raise
        else:
            self._learn(passage, None)
            _relieve(taken)
        finally:
            await self._breakers.tell_fleet()
            spent = actual_cost(call, settings=self._settings, items=passage.items)
            for each in taken:
                await each.settle(spent)

    def check(self, call: Call) -> None:
        """Raise `Held` while the call is broken; takes nothing."""
        self._breakers.check(call)

    async def socket_turn(self, socket: Socket) -> None:
        """Wait until the socket may be opened; see `SocketGate`."""
        attempt, has_failed = self._sockets.turn(socket)
        if has_failed:
            lost = RemoteUnavailable(f"nothing lived on the stream's socket {socket.name}")
            self._breakers.learn(attempt, lost, is_answered=False)
        while True:
            try:
                await self._breakers.pass_(attempt, deadline=self._ports.clock.monotonic())
            except Held as held:
                await self._ports.sleep(max(held.retry_after_seconds, SHORTEST_WAIT_SECONDS))
            else:
                break
        taken = await self._line(FLEET_SOCKETS).pass_(1, deadline=inf)
        await taken.settle(1)
        await self._ports.socket_pace.turn()

    def note_life(self, *, token: str, region: str) -> None:
        """Note that a terminal spoke on a socket of the region; see `SocketGate`."""
        call = self._sockets.lived(token=token, region=region)
        self._breakers.learn(call, None, is_answered=True)

    def note_subscriptions(self, token: str, allowed: int) -> None:
        """Note how many accounts a token may stream; see `SocketGate`."""
        self.subscriptions[token] = allowed

    async def refresh(self) -> None:
        """Show what is so at the time of a scrape."""
        self._breakers.show()
        for service, offset in self._offsets.items():
            if offset.seconds is not None:
                gauge = self._ports.metrics.clock_offset.labels(peer=service)
                gauge.set(offset.seconds)
        for (kind, period), ratio in self._left().items():
            self._ports.metrics.credits_available.labels(scope=kind, period=period).set(ratio)

    async def _enter(self, call: Call) -> list[Taken]:
        deadline = self._ports.clock.monotonic() + self._settings.longest_wait_seconds
        cost = highest_cost(call, settings=self._settings)
        taken: list[Taken] = []
        try:
            await self._breakers.pass_(call, deadline=deadline)
            for scope in scopes_of(call):
                line = self._line(scope)
                taken.append(
                    await line.pass_(cost, deadline=deadline)
                )  # kept when the next one fails
            await self._ports.pace.turn()
            await self._breakers.pass_(call, deadline=deadline)  # one may have opened meanwhile
        except BaseException as failure:
            self._breakers.release(call)
            if isinstance(failure, Held):
                self._ports.metrics.held.labels(cause=failure.cause).inc()
            for each in taken:
                await each.settle(0)
            raise
        return taken

    def _learn(self, passage: CallPassage, failure: BrokerdError | None) -> None:
        call = passage.call
        if isinstance(failure, Throttled):
            self._hold(call, failure)
        self._breakers.learn(call, failure, is_answered=passage.is_answered)

    def _hold(self, call: Call, failure: Throttled) -> None:
        """Hold the scope that a 429 names; for one that names none see `throttled_scope`.

        A lock of one account's credentials is no limit of requests: it holds nothing here.
        """
        self._ports.metrics.throttled.labels(scope=failure.scope).inc()
        if isinstance(failure, ValidationLocked):
            return
        now = self._ports.clock.monotonic()
        narrow = scopes_of(call)[0]
        other, until = self._unnamed.get(call.token, (narrow, now))
        is_widespread = other != narrow and now < until
        scope = throttled_scope(call, failure.scope, is_widespread=is_widespread)
        if scope == narrow and failure.scope != narrow.kind:
            self._unnamed[call.token] = narrow, now + failure.retry_after_seconds
        self._line(scope).hold(failure.retry_after_seconds)

    def _line(self, scope: Scope) -> Line:
        line = self._lines.get(scope)
        if line is None:
            if len(self._lines) >= MAX_IDLE_LINES:
                self._forget_idle_lines()
            line = Line(scope, divide=lambda: self._division(scope), ports=self._line_ports)
            self._lines[scope] = line
        return line

    def _forget_idle_lines(self) -> None:
        for scope in [scope for scope, line in self._lines.items() if line.is_idle]:
            del self._lines[scope]

    def _division(self, scope: Scope) -> Division:
        fleet = self._ports.fleet
        accounts = fleet.accounts(scope.name) if scope.kind is ScopeKind.USER else 1
        limits = limits_of(scope.kind, settings=self._settings, accounts=accounts)
        if scope.kind is ScopeKind.ACCOUNT:  # its one owner has all of it
            return Division(own=limits, common=())
        return divide(
            limits,
            live_nodes=fleet.live_nodes,
            even_share_ratio=self._settings.even_share_ratio,
            has_pot=self._ports.pot is not None,
        )

    def _left(self) -> Mapping[tuple[ScopeKind, str], float]:
        """Return what the poorest line of each kind has left of this node's share, by period."""
        left: dict[tuple[ScopeKind, str], float] = {}
        for kind in ScopeKind:
            for limit in limits_of(kind, settings=self._settings, accounts=1):
                left[kind, f"{limit.period_seconds:g}s"] = 1.0
        for scope, line in self._lines.items():
            for limit in self._division(scope).own:
                key = scope.kind, f"{limit.period_seconds:g}s"
                left[key] = min(left[key], line.left_ratio(limit))
        return left


def _relieve(taken: Sequence[Taken]) -> None:
    for each in taken:
        each.line.relieve()
