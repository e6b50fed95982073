"""How many nodes share the budgets, and for how many accounts: asked now and then, remembered."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import structlog

from brokerd.connector.governor.ports import Census, Demand
from brokerd.errors import StoreUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

DEMAND_SECONDS = 300.0
"""Between two counts of many accounts: counting a hundred thousand costs Postgres 50 ms."""
FEW_ACCOUNTS = 10_000
"""Up to so many are counted at every look: a young fleet's budget must grow as fast as it does."""


class Fleet:
    """What was last known of the fleet; while Postgres is away, that stays."""

    name = "fleet"

    def __init__(self, census: Census, *, node_count_seconds: float) -> None:
        self._census = census
        self._node_count_seconds = node_count_seconds
        self._accounts: Counter[str] = Counter()
        self._is_stale = False
        self.live_nodes = 1
        self.demands: Sequence[Demand] = ()

    def accounts(self, token: str) -> int:
        """Return how many accounts of a token are deployed, as far as they are ours."""
        return self._accounts[token]

    async def prepare(self) -> None:
        """Count before anything is spent; raises `StoreUnavailable`."""
        await self._count_nodes()
        await self._count_accounts()

    async def run(self) -> None:
        """Count again and again; returns only when cancelled."""
        looks_per_count = max(1, round(DEMAND_SECONDS / self._node_count_seconds))
        look = 0
        while True:
            await asyncio.sleep(self._node_count_seconds)
            look += 1
            try:
                await self._count_nodes()
                if look % looks_per_count == 0 or self._accounts.total() <= FEW_ACCOUNTS:
                    await self._count_accounts()
            except StoreUnavailable as failure:
                level = log.debug if self._is_stale else log.warning
                level("governor.census_delayed", problem=str(failure))
                self._is_stale = True
            else:
                self._is_stale = False

    async def _count_nodes(self) -> None:
        self.live_nodes = max(1, await self._census.live_nodes())

    async def _count_accounts(self) -> None:
        self.demands = await self._census.demands()
        accounts = Counter[str]()
        for demand in self.demands:
            accounts[demand.token] += demand.accounts
        self._accounts = accounts
