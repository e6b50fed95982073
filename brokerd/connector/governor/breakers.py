"""All breakers of a node: who may pass them, and what they learn; every change is told once."""

import asyncio
from dataclasses import replace
from math import ceil

import structlog

from brokerd.config.settings import GovernorSettings
from brokerd.connector.governor.breaker import (
    Breaker,
    State,
    failed,
    has_probe,
    is_forgotten,
    is_probed,
    probing,
    released,
    rules,
    state,
    succeeded,
)
from brokerd.connector.governor.circuits import (
    REFUSALS,
    SCOPE_KINDS,
    Circuit,
    circuits_of,
    told,
)
from brokerd.connector.governor.line import LinePorts
from brokerd.connector.governor.ports import Call
from brokerd.errors import BrokerdError, Held, RemoteUnavailable
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_CLOSED = Breaker()
_LEVELS = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


class Breakers:
    """Holds what is broken, or failed a moment ago; what it does not hold is closed."""

    def __init__(self, settings: GovernorSettings, *, ports: LinePorts, metrics: Metrics) -> None:
        self._rules = rules(settings)
        self._ports = ports
        self._metrics = metrics
        self._breakers: dict[Circuit, Breaker] = {}
        self._changed = asyncio.Event()
        self._mended: set[Circuit] = set()
        for cause, kinds in SCOPE_KINDS.items():
            for kind in kinds:
                metrics.breaker_opens.labels(cause=cause, scope=kind)
                metrics.breaker_state.labels(cause=cause, scope=kind)

    async def pass_(self, call: Call, *, deadline: float) -> None:
        """Return when the call may be sent; raises `Held` while one of its breakers is open.

        Who finds a probe under way waits for what it says.
        """
        for circuit in circuits_of(call):
            while await self._must_wait(circuit, call):
                changed, patience = self._changed, deadline - self._now()
                try:
                    async with asyncio.timeout(max(0.0, patience)):
                        await changed.wait()
                except TimeoutError:
                    raise _refusal(circuit, 1.0) from None

    def check(self, call: Call) -> None:
        """Raise `Held` while one of the call's breakers is open; takes no probe."""
        now = self._now()
        for circuit in circuits_of(call):
            breaker = self._breakers.get(circuit, _CLOSED)
            if state(breaker, now=now) is State.OPEN:
                raise _refusal(circuit, breaker.until - now)

    def learn(self, call: Call, failure: BrokerdError | None, *, is_answered: bool) -> None:
        """Take into account how a call ended."""
        verdicts = told(call, failure, is_answered=is_answered)
        hint = failure.retry_after_seconds if isinstance(failure, RemoteUnavailable) else None
        for circuit in {*circuits_of(call), *verdicts}:
            before, rule = self._breakers.get(circuit, _CLOSED), self._rules[circuit.cause]
            match verdicts.get(circuit):
                case True:
                    after = succeeded(before, rule, call=call, now=self._now())
                case False:
                    now = self._now()
                    after = failed(before, rule, call=call, now=now, hint_seconds=hint or 0.0)
                case _:
                    after = released(before, call=call)
            self._put(circuit, before, after)

    async def tell_fleet(self) -> None:
        """Let other nodes probe what is mended here."""
        while self._mended and self._ports.pot is not None:
            await self._ports.pot.forget_probe(str(self._mended.pop()))

    def release(self, call: Call) -> None:
        """Take back what probes a call has; it was not sent, or nobody knows how it ended."""
        for circuit in circuits_of(call):
            if circuit in self._breakers:
                self._breakers[circuit] = released(self._breakers[circuit], call=call)
        self._tell()

    async def _must_wait(self, circuit: Circuit, call: Call) -> bool:
        """Say whether somebody else probes; take the probe if it is free; raises `Held`."""
        breaker, now = self._breakers.get(circuit, _CLOSED), self._now()
        match state(breaker, now=now):
            case State.OPEN:
                raise _refusal(circuit, breaker.until - now)
            case State.HALF_OPEN:
                if is_probed(breaker, call=call, now=now):
                    return True
                if not has_probe(breaker, call=call, now=now):
                    await self._take_probe(circuit, probing(breaker, call=call, now=now))
                return False
            case State.CLOSED:
                return False

    async def _take_probe(self, circuit: Circuit, breaker: Breaker) -> None:
        """Take our own probe, and the fleet's where the cause is one and the same for all nodes."""
        self._breakers[circuit] = breaker
        self._tell()
        if self._ports.pot is None or circuit.cause not in REFUSALS:
            return
        every = breaker.wait_seconds
        seconds = await self._ports.pot.take_probe(str(circuit), every_seconds=every)
        if seconds is not None and seconds > 0:
            until = self._now() + seconds
            self._breakers[circuit] = replace(breaker, until=until, prober=None)
            self._tell()
            raise _refusal(circuit, seconds)

    def _put(self, circuit: Circuit, before: Breaker, after: Breaker) -> None:
        if after == before:
            return
        if after == _CLOSED:
            self._breakers.pop(circuit, None)
        else:
            self._breakers[circuit] = after
        self._forget()
        self._tell()
        was_open, is_open = before.wait_seconds > 0, after.wait_seconds > 0
        if is_open and not was_open:
            self._metrics.breaker_opens.labels(cause=circuit.cause, scope=circuit.kind).inc()
            level = log.error if circuit.cause in REFUSALS else log.warning
            level(
                "governor.breaker_opened",
                cause=circuit.cause,
                scope=circuit.scope,
                probe_seconds=after.wait_seconds,
            )
        elif was_open and not is_open:
            log.info("governor.breaker_closed", cause=circuit.cause, scope=circuit.scope)
            if circuit.cause in REFUSALS:
                self._mended.add(circuit)

    def _forget(self) -> None:
        """Let go of failures that came to nothing: there may be as many as links name regions."""
        now = self._now()
        for circuit in [c for c, b in self._breakers.items() if is_forgotten(b, now=now)]:
            del self._breakers[circuit]

    def _tell(self) -> None:
        """Wake who waits for a probe."""
        self._changed.set()
        self._changed = asyncio.Event()
        self.show()

    def show(self) -> None:
        """Show the worst breaker of each kind."""
        now = self._now()
        worst = {(cause, kind): 0 for cause, kinds in SCOPE_KINDS.items() for kind in kinds}
        for circuit, breaker in self._breakers.items():
            key = circuit.cause, circuit.kind
            worst[key] = max(worst[key], _LEVELS[state(breaker, now=now)])
        for (cause, kind), level in worst.items():
            self._metrics.breaker_state.labels(cause=cause, scope=kind).set(level)

    def _now(self) -> float:
        return self._ports.clock.monotonic()


def _refusal(circuit: Circuit, seconds: float) -> Held:
    return Held(
        f"not sent: {circuit.scope} is broken ({circuit.cause}); probed again in {ceil(seconds)} s",
        retry_after_seconds=seconds,
        scope=circuit.scope,
        cause=circuit.cause,
        user_action=circuit.user_action,
    )
