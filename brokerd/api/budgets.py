"""What MetaApi was paid and may be paid, over HTTP and as metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from litestar import Response

from brokerd.api.links import ApiRequest, json_answer
from brokerd.api.money_bodies import BudgetBody, BudgetsBody, ChargeBody, PricesBody
from brokerd.api.query import Query
from brokerd.api.views import amount
from brokerd.connector.governor.ports import Census
from brokerd.connector.provisioning.budgets import FLEET_SECONDS, Limit, Spent
from brokerd.connector.provisioning.ports import Charge, SpendReader
from brokerd.connector.provisioning.prices import Prices
from brokerd.errors import StoreUnavailable
from brokerd.telemetry import Metrics

_HOURS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Everything there is to read about money."""

    spend: SpendReader
    census: Census
    limits: Sequence[Limit]
    prices: Prices

    async def read(self) -> BudgetsBody:
        """Add up what was spent and what may be; raises `StoreUnavailable`."""
        spent = await self.spend.spent(self.limits)
        charges = await self.spend.charges(window_seconds=FLEET_SECONDS)
        accounts = sum(demand.accounts for demand in await self.census.demands())
        return BudgetsBody(
            budgets=[_budget(limit, spent[limit.name]) for limit in self.limits],
            charges=[_charge(kind, charges.get(kind, Spent())) for kind in Charge],
            prices=PricesBody(
                add=amount(self.prices.add),
                deployment=amount(self.prices.deployment),
                failed_attempt=amount(self.prices.failed_attempt),
                deployed_hour=amount(self.prices.deployed_hour),
            ),
            deployed_accounts=accounts,
            hosting_usd_per_day=amount(self.prices.deployed_hour * _HOURS * accounts),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRoutes:
    """The handler of /v1/budgets."""

    books: Books

    async def show(self, request: ApiRequest) -> Response[bytes]:
        """Show what was spent and what may be."""
        Query(request.scope["query_string"], known=()).check()
        return json_answer(await self.books.read(), headers={})


class BudgetGauges:
    """The metric of what may still be spent, asked of Postgres when metrics are scraped."""

    def __init__(self, books: Books, *, metrics: Metrics) -> None:
        self._books = books
        self._metrics = metrics

    async def refresh(self) -> None:
        """Add up; without Postgres the last sums stay."""
        try:
            spent = await self._books.spend.spent(self._books.limits)
        except StoreUnavailable:
            return
        for limit in self._books.limits:
            left = float(_left(limit, spent[limit.name]))
            self._metrics.budget_remaining.labels(budget=limit.name).set(left)


def _budget(limit: Limit, spent: Spent) -> BudgetBody:
    return BudgetBody(
        name=limit.name,
        window_seconds=limit.window_seconds,
        attempts=spent.attempts,
        max_attempts=limit.max_attempts,
        usd=amount(spent.usd),
        max_usd=amount(limit.max_usd),
        remaining_usd=amount(_left(limit, spent)),
    )


def _left(limit: Limit, spent: Spent) -> Decimal:
    return max(Decimal(0), limit.max_usd - spent.usd)


def _charge(kind: Charge, spent: Spent) -> ChargeBody:
    return ChargeBody(kind=kind, attempts=spent.attempts, usd=amount(spent.usd))
