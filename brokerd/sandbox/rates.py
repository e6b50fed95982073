"""How often a user may ask the provisioning service, and its form of a 429 (metaapi.md 3.5)."""

from collections import defaultdict, deque
from datetime import datetime, timedelta

from brokerd.sandbox.limits import Limits
from brokerd.sandbox.refusals import Hint, Refused
from brokerd.sandbox.truth import Broker

_MINUTE_SECONDS = 60.0


class RequestRates:
    """When each user asked lately."""

    def __init__(self, broker: Broker, *, limits: Limits) -> None:
        self._broker = broker
        self._limits = limits
        self._asked: defaultdict[str, deque[float]] = defaultdict(deque)

    def note(self, owner: str) -> None:
        """Note one request; raises `Refused` instead when there were too many."""
        rate = self._limits.provisioning
        if rate is None:
            return
        now = self._broker.clock.monotonic()
        asked, period = self._asked[owner], rate.minutes * _MINUTE_SECONDS
        while asked and asked[0] <= now - period:
            asked.popleft()
        deployed = self._broker.deployed_count(owner)
        allowed = rate.requests + rate.per_deployed_account * deployed
        if len(asked) >= allowed:
            retry_at = self._broker.now() + timedelta(seconds=asked[0] + period - now)
            raise too_often(allowed, minutes=rate.minutes, retry_at=retry_at)
        asked.append(now)


def too_often(allowed: int, *, minutes: float, retry_at: datetime) -> Refused:
    """Return what a user is told who asked more than allowed."""
    return Refused(
        429,
        f"You have exceeded the request rate of {allowed} requests per {minutes:g} minute(s).",
        hint=Hint(
            retry_at=retry_at,
            metadata={"periodInMinutes": minutes, "requestsPerPeriodAllowed": allowed},
        ),
    )
