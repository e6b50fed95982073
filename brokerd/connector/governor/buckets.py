"""What may be spent now, and else when: units within sliding windows.

Theory. A limit allows so many units in *any* span of its period. A window remembers what was spent
in slices of a tenth of the period and looks back over eleven of them, so that the span it looks at
is never shorter than the period: it errs by a tenth to the safe side and never to the other. One
cost that exceeds the limit itself passes when nothing was spent for so much longer than a period
as the cost is larger than the limit: on average the limit holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor

SLICES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most `units` in any span of `period_seconds`."""

    period_seconds: float
    units: float

    @property
    def slice_seconds(self) -> float:
        """Return how long a slice is."""
        return self.period_seconds / SLICES


def slice_of(now: float, *, limit: Limit) -> int:
    """Return the slice that what is spent now belongs to."""
    return floor(now / limit.slice_seconds)


def wait_seconds(spent: Mapping[int, float], *, limit: Limit, cost: float, now: float) -> float:
    """Return how long a cost must wait, 0 when it may be spent now; `spent` is by slice."""
    slices = _slices_looked_at(cost, limit=limit)
    oldest = slice_of(now, limit=limit) - slices
    total = sum(units for number, units in spent.items() if number >= oldest)
    over = total + cost - max(limit.units, cost)
    if over <= 0:
        return 0.0
    for number in sorted(spent):
        if number >= oldest:
            over -= spent[number]
            if over <= 0:
                return max(0.0, (number + slices + 1) * limit.slice_seconds - now)
    raise AssertionError("a cost within its stretched limit passes once all else has aged")


def _slices_looked_at(cost: float, *, limit: Limit) -> int:
    """Return how many slices before the current one count for a cost."""
    return ceil(SLICES * max(1.0, cost / limit.units))


class Window:
    """What was spent under one limit, whose units may change from call to call."""

    def __init__(self) -> None:
        self._spent: dict[int, float] = {}
        self._kept_slices = SLICES

    def wait_seconds(self, cost: float, *, limit: Limit, now: float) -> float:
        """Return how long a cost must wait."""
        return wait_seconds(self._spent, limit=limit, cost=cost, now=now)

    def take(self, cost: float, *, limit: Limit, now: float) -> int:
        """Spend, whether or not there is room; return the slice it went to."""
        self._kept_slices = max(self._kept_slices, _slices_looked_at(cost, limit=limit))
        number = slice_of(now, limit=limit)
        self._forget(number)
        self._spent[number] = self._spent.get(number, 0.0) + cost
        return number

    def give_back(self, units: float, *, slice_number: int) -> None:
        """Take back what was spent too much in a slice."""
        if slice_number in self._spent:
            self._spent[slice_number] = max(0.0, self._spent[slice_number] - units)

    def spent(self, *, limit: Limit, now: float) -> float:
        """Return what was spent within the last period."""
        oldest = slice_of(now, limit=limit) - SLICES
        return sum(units for number, units in self._spent.items() if number >= oldest)

    def _forget(self, current: int) -> None:
        for number in [n for n in self._spent if n < current - self._kept_slices]:
            del self._spent[number]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one call took from a budget: how much, and where it was noted in each window."""

    units: float
    slices: Mapping[float, int]


class Budget:
    """All windows of one scope, spent from together."""

    def __init__(self) -> None:
        self._windows: dict[float, Window] = {}

    def wait_seconds(self, cost: float, *, limits: Sequence[Limit], now: float) -> float:
        """Return how long a cost must wait until every window has room."""
        return max(
            (self._window(limit).wait_seconds(cost, limit=limit, now=now) for limit in limits),
            default=0.0,
        )

    def take(self, cost: float, *, limits: Sequence[Limit], now: float) -> Charge:
        """Spend from every window."""
        slices = {
            limit.period_seconds: self._window(limit).take(cost, limit=limit, now=now)
            for limit in limits
        }
        return Charge(units=cost, slices=slices)

    def give_back(self, charge: Charge, *, units: float) -> None:
        """Take back a part of a charge."""
        for period, number in charge.slices.items():
            self._windows[period].give_back(units, slice_number=number)

    def left_ratio(self, limit: Limit, *, now: float) -> float:
        """Return how much of a limit is left, between 0 and 1."""
        return max(0.0, 1.0 - self._window(limit).spent(limit=limit, now=now) / limit.units)

    def is_idle(self, *, limits: Sequence[Limit], now: float) -> bool:
        """Say whether nothing of what was spent counts any more."""
        return all(self._window(limit).spent(limit=limit, now=now) == 0 for limit in limits)

    def _window(self, limit: Limit) -> Window:
        return self._windows.setdefault(limit.period_seconds, Window())
