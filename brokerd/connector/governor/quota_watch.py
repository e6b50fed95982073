"""Reads MetaApi's quotas now and then and warns before links are refused for them."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import nan

import structlog

from brokerd.config.settings import GovernorSettings
from brokerd.connector.governor.credits import limits_of
from brokerd.connector.governor.fleet import Fleet
from brokerd.connector.governor.ports import Demand, Quota, QuotaReader, Usage
from brokerd.connector.governor.quotas import Headroom, QuotaKind, headrooms
from brokerd.connector.governor.scopes import ScopeKind
from brokerd.domain import MetaApiRef
from brokerd.errors import Rejected, Transient
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FIRST_SECONDS = 60.0
"""After the start, when links have more urgent things to ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """One quota, as it is warned of."""

    token: str
    region: str
    kind: QuotaKind


class QuotaWatch:
    """Compares quotas with demand, shows what is left, and tells of every change once.

    `subscriptions` are how many accounts each token may stream, as far as MetaApi said so.
    """

    name = "quotas"

    def __init__(
        self,
        reader: QuotaReader,
        *,
        fleet: Fleet,
        subscriptions: Mapping[str, int],
        settings: GovernorSettings,
        metrics: Metrics,
    ) -> None:
        self._reader = reader
        self._fleet = fleet
        self._settings = settings
        self._metrics = metrics
        self._subscriptions = subscriptions
        self._low: set[_Key] = set()
        self._stated: dict[tuple[str, str, float], float] = {}

    async def run(self) -> None:
        """Read again and again; returns only when cancelled."""
        await asyncio.sleep(min(FIRST_SECONDS, self._settings.quota_seconds))
        while True:
            await self.look()
            await asyncio.sleep(self._settings.quota_seconds)

    async def look(self) -> None:
        """Read the quotas and credits of every token that is in use."""
        for token in sorted({demand.token for demand in self._fleet.demands}):
            demands = [demand for demand in self._fleet.demands if demand.token == token]
            quotas = await self._quotas(token)
            found = headrooms(
                token,
                quotas=quotas,
                demands=demands,
                subscriptions=self._subscriptions.get(token),
            )
            self._show(token, found)
            self._tell(found)
            await self._compare_credits(demands)

    async def _quotas(self, token: str) -> Sequence[Quota]:
        try:
            return await self._reader.quotas(token)
        except (Transient, Rejected) as failure:
            log.debug("metaapi.quotas_unread", token=token, code=failure.code)
            return ()

    def _show(self, token: str, found: Sequence[Headroom]) -> None:
        for kind in QuotaKind:
            left = min((each.left for each in found if each.kind is kind), default=nan)
            self._metrics.quota_headroom.labels(token=token, quota=kind).set(left)

    def _tell(self, found: Sequence[Headroom]) -> None:
        for each in found:
            key = _Key(token=each.token, region=each.region, kind=each.kind)
            is_low = each.is_low(self._settings.quota_warning_ratio)
            if is_low == (key in self._low):
                continue
            self._low ^= {key}
            values = asdict(each)
            if is_low:
                log.warning("metaapi.quota_low", **values)
            else:
                log.info("metaapi.quota_enough", **values)

    async def _compare_credits(self, demands: Sequence[Demand]) -> None:
        """Tell once of each limit of credits that MetaApi states otherwise than we keep it."""
        remote = next(filter(None, map(_example, demands)), None)
        if remote is None:
            return
        try:
            usages = await self._reader.credits(remote)
        except (Transient, Rejected) as failure:
            log.debug("metaapi.credits_unread", token=remote.token, code=failure.code)
            return
        for usage in usages:
            self._compare(remote.token, usage)

    def _compare(self, token: str, usage: Usage) -> None:
        kept = self._kept(token, usage)
        key = token, usage.scope, usage.period_seconds
        if kept == usage.total or self._stated.get(key) == usage.total:
            return
        self._stated[key] = usage.total
        log.info(
            "metaapi.credits_differ",
            token=token,
            scope=usage.scope,
            period_seconds=usage.period_seconds,
            stated=usage.total,
            kept=kept,
        )

    def _kept(self, token: str, usage: Usage) -> float | None:
        accounts = self._fleet.accounts(token)
        limits = limits_of(ScopeKind(usage.scope), settings=self._settings, accounts=accounts)
        periods = {limit.period_seconds: limit.units for limit in limits}
        return periods.get(usage.period_seconds)


def _example(demand: Demand) -> MetaApiRef | None:
    """Name one account that exists; any of them will do."""
    if demand.example_account_id is None:
        return None
    return MetaApiRef(
        token=demand.token, account_id=demand.example_account_id, region=demand.region
    )
