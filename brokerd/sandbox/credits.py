"""CPU credits: what a call costs, what is left, and what a caller without any is told.

Each window is a bucket that holds its credits and is refilled evenly. A call is let in when every
bucket in its way holds what it costs, or is full; what its answer costs beyond that is taken
afterwards and may leave a bucket in debt (metaapi.md 3.2, 4.1).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from brokerd.sandbox.limits import Limits, Window
from brokerd.sandbox.refusals import Hint, Refused
from brokerd.sandbox.truth import Broker

COSTS = {
    "trade": 10.0,
    "getSymbols": 500.0,
    "getDealsByTimeRange": 75.0,
    "getHistoryOrdersByTimeRange": 75.0,
}
DEFAULT_COST = 50.0
COST_PER_ITEM = 0.65
_SECONDS_PER_HOUR = 3_600
_SECONDS_PER_MINUTE = 60


class Scope(StrEnum):
    """Whose credits."""

    USER = "perUser"
    SERVER = "perServer"
    ACCOUNT = "perAccount"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that costs credits; sockets put `ws:` before its name."""

    method: str
    owner: str
    account_id: str
    server: str
    is_on_socket: bool = False

    @property
    def cost(self) -> float:
        """Return what it costs at least."""
        return COSTS.get(self.method, DEFAULT_COST)


@dataclass(slots=True)
class _Bucket:
    level: float
    filled_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """One window in a call's way."""

    scope: Scope
    key: str
    window: Window
    total: float

    @property
    def period(self) -> str:
        """Return the window's length in MetaApi's words."""
        seconds = self.window.seconds
        if seconds >= _SECONDS_PER_HOUR:
            return f"{seconds // _SECONDS_PER_HOUR}h"
        if seconds >= _SECONDS_PER_MINUTE:
            return f"{seconds // _SECONDS_PER_MINUTE}m"
        return f"{seconds}s"


class Credits:
    """Everyone's buckets."""

    def __init__(self, broker: Broker, *, limits: Limits) -> None:
        self._broker = broker
        self._limits = limits
        self._buckets: dict[tuple[Scope, str, int], _Bucket] = {}

    def spend(self, call: Call) -> None:
        """Take what the call costs at least; raises `Refused` when a bucket lacks it."""
        allowances = tuple(self._allowances(call))
        for allowance in allowances:
            available = self.available(allowance)
            if available < min(call.cost, allowance.total):
                raise self._refusal(call, allowance, available=available)
        self._take(allowances, call.cost)

    def spend_on_items(self, call: Call, *, items: int) -> None:
        """Take what the answer's items cost."""
        self._take(tuple(self._allowances(call)), COST_PER_ITEM * items)

    def usage(self, call: Call) -> dict[Scope, list[dict[str, object]]]:
        """Return totals and what is left, by scope; periods in seconds."""
        shown: dict[Scope, list[dict[str, object]]] = {scope: [] for scope in Scope}
        for allowance in self._allowances(call):
            shown[allowance.scope].append(
                {
                    "period": allowance.window.seconds,
                    "total": allowance.total,
                    "available": max(0.0, self.available(allowance)),
                }
            )
        return shown

    def available(self, allowance: Allowance) -> float:
        """Refill a bucket and return what is in it; less than nothing is debt."""
        now = self._broker.clock.monotonic()
        key = (allowance.scope, allowance.key, allowance.window.seconds)
        bucket = self._buckets.setdefault(key, _Bucket(allowance.total, now))
        passed = now - bucket.filled_at
        refilled = bucket.level + passed * allowance.total / allowance.window.seconds
        bucket.level, bucket.filled_at = min(allowance.total, refilled), now
        return bucket.level

    def _take(self, allowances: tuple[Allowance, ...], amount: float) -> None:
        for allowance in allowances:
            key = (allowance.scope, allowance.key, allowance.window.seconds)
            self._buckets[key].level -= amount

    def _allowances(self, call: Call) -> Iterator[Allowance]:
        limits = self._limits.credits
        if limits is None:
            return
        deployed = max(1, self._broker.deployed_count(call.owner))
        for scope, key, windows, factor in (
            (Scope.USER, call.owner, limits.per_user, deployed),
            (Scope.SERVER, call.server, limits.per_server, 1),
            (Scope.ACCOUNT, call.account_id, limits.per_account, 1),
        ):
            for window in windows:
                total = window.credits * factor
                yield Allowance(scope=scope, key=key, window=window, total=total)

    def _refusal(self, call: Call, allowance: Allowance, *, available: float) -> Refused:
        rate = allowance.total / allowance.window.seconds
        wait = (min(call.cost, allowance.total) - available) / rate
        prefix = "ws:" if call.is_on_socket else ""
        total = round(allowance.total)
        return Refused(
            429,
            f"The {prefix}{call.method} API allows {total} cpu credits per {allowance.period}."
            " Please wait some time and retry",
            hint=Hint(
                retry_at=self._broker.now() + timedelta(seconds=wait),
                metadata=_metadata(call, allowance, available=available),
            ),
        )


def _metadata(call: Call, allowance: Allowance, *, available: float) -> dict[str, object]:
    """Return both sets of fields that MetaApi's own page has."""
    left = max(0.0, available)
    kind = {Scope.USER: "user", Scope.SERVER: "server", Scope.ACCOUNT: "account"}[allowance.scope]
    return {
        "total": allowance.total,
        "available": left,
        "needed": call.cost,
        "resourceId": f"{kind}:{allowance.key}",
        "multiplierId": f"accountCount:{call.owner}",
        "exceededConfig": allowance.scope.value,
        "exceededPeriod": allowance.period,
        "method": call.method,
        "periodInSeconds": allowance.window.seconds,
        "creditsAvailable": left,
        "creditsUsed": allowance.total - available,
        "creditsRequired": call.cost,
    }
