"""What MetaApi says it allows, read from whatever shape it comes in, and what that leaves us.

The shapes are known from one example each (metaapi.md 2.1, 3.2): what is of another shape says
nothing, and is never a failure.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

from brokerd.connector.governor.ports import Demand, Quota, Usage

_SCOPES = {"perUser": "user", "perServer": "server", "perAccount": "account"}
_PERIOD = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3_600.0}


class QuotaKind(StrEnum):
    """Which quota."""

    ACCOUNTS = "accounts"
    DEPLOYED = "deployed"
    SUBSCRIPTIONS = "subscriptions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """A quota beside what is wanted of it; `region` is empty for a quota of the whole user."""

    token: str
    region: str
    kind: QuotaKind
    allowed: int
    wanted: int

    @property
    def left(self) -> int:
        """Return how much more may be wanted; below zero links will be refused."""
        return self.allowed - self.wanted

    def is_low(self, warning_ratio: float) -> bool:
        """Say whether less is left than one wants to be warned of."""
        return self.left < self.allowed * warning_ratio


def quotas_of(answer: object) -> Sequence[Quota]:
    """Read quotas by region out of decoded JSON."""
    return [
        Quota(
            region=region,
            accounts=_quota(record.get("maxAccounts")),
            deployed=_quota(record.get("maxDeployedG2Accounts")),
        )
        for region, record in _by_region(answer)
    ]


def usages_of(answer: object) -> Sequence[Usage]:
    """Read credits by scope and period out of decoded JSON."""
    if not isinstance(answer, Mapping):
        return ()
    return [
        usage
        for key, scope in _SCOPES.items()
        for record in _records(answer.get(key))
        if (usage := _usage(scope, record)) is not None
    ]


def headrooms(
    token: str,
    *,
    quotas: Sequence[Quota],
    demands: Sequence[Demand],
    subscriptions: int | None,
) -> Sequence[Headroom]:
    """Compare what a token's user may have with what is wanted of it.

    `subscriptions` is how many accounts it may stream, where MetaApi ever said so.
    """
    wanted = Counter[str]()
    for demand in demands:
        if demand.token == token:
            wanted[demand.region] += demand.wanted
    found = [
        Headroom(token=token, region=q.region, kind=kind, allowed=allowed, wanted=wanted[q.region])
        for q in quotas
        for kind, allowed in ((QuotaKind.ACCOUNTS, q.accounts), (QuotaKind.DEPLOYED, q.deployed))
        if allowed is not None and wanted[q.region] > 0
    ]
    if subscriptions is not None:
        total = sum(wanted.values())
        kind = QuotaKind.SUBSCRIPTIONS
        whole = Headroom(token=token, region="", kind=kind, allowed=subscriptions, wanted=total)
        found.append(whole)
    return found


def _by_region(found: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the records of regions: of a list, of an object by region, or of one region alone."""
    if isinstance(found, Mapping):
        if isinstance(found.get("region"), str):
            found = [found]
        else:
            found = [
                {"region": region, **record}
                for region, record in found.items()
                if isinstance(record, Mapping)
            ]
    for record in _records(found):
        region = record.get("region")
        if isinstance(region, str):
            yield region, record


def _records(found: object) -> Sequence[Mapping[str, object]]:
    if not isinstance(found, list):
        return ()
    return [record for record in found if isinstance(record, Mapping)]


def _quota(value: object) -> int | None:
    """Read a number, or an object that has one as its quota."""
    if isinstance(value, Mapping):
        value = value.get("quota")
    number = _number(value)
    return None if number is None else int(number)


def _usage(scope: str, record: Mapping[str, object]) -> Usage | None:
    period = _period(record.get("period"))
    total, available = _number(record.get("total")), _number(record.get("available"))
    if period is None or total is None or available is None:
        return None
    return Usage(scope=scope, period_seconds=period, total=total, available=available)


def _period(value: object) -> float | None:
    """Read a period: seconds, or a text such as 10s, 1m, 6h."""
    if isinstance(value, str):
        spelt = _PERIOD.fullmatch(value.strip().lower())
        return None if spelt is None else float(spelt[1]) * _UNITS[spelt[2]]
    return _number(value)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value) if value >= 0 else None
