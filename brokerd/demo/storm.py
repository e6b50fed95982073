"""Carries the chaos out: rounds of faults until each kind has struck and the time is over."""

from collections.abc import Sequence
from random import Random

from brokerd.demo.chaos import ROUND_SECONDS, Step, plan_round
from brokerd.demo.control import SandboxControl
from brokerd.sandbox.faults import FaultKind


class Storm:
    """Faults over time; `advance` it often."""

    def __init__(self, control: SandboxControl, *, random: Random) -> None:
        self._control = control
        self._random = random
        self._steps: list[Step] = []
        self._ends_at = 0.0
        self._began_at = 0.0

    @property
    def is_between_rounds(self) -> bool:
        """Say whether a round is done and no fault is on."""
        return self._ends_at > 0 and not self._steps

    async def advance(
        self, elapsed_seconds: float, *, targets: Sequence[str], missing: frozenset[FaultKind]
    ) -> None:
        """Do what is due; a round that is over is followed by one of the kinds that are missing.

        Those then strike for certain. Once none is missing the rounds hold every kind again.
        """
        if not self._steps and elapsed_seconds >= self._ends_at and targets:
            kinds = missing or frozenset(FaultKind)
            is_certain = bool(missing) and self._ends_at > 0
            self._steps = list(
                plan_round(kinds=kinds, targets=targets, random=self._random, is_certain=is_certain)
            )
            self._began_at, self._ends_at = elapsed_seconds, elapsed_seconds + ROUND_SECONDS
        while self._steps and self._began_at + self._steps[0].at_seconds <= elapsed_seconds:
            step = self._steps.pop(0)
            if step.fault is None:
                await self._control.switch_off(step.kind)
            else:
                await self._control.switch_on(step.kind, step.fault)
