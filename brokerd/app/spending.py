"""What `brokerd budgets` shows: the same as the API, read from Postgres without a daemon."""

from prometheus_client import CollectorRegistry

from brokerd.api.money_bodies import BudgetsBody
from brokerd.app.routes import open_books
from brokerd.config.settings import Settings
from brokerd.store.engine import open_database
from brokerd.telemetry import Metrics


async def read_budgets(settings: Settings) -> BudgetsBody:
    """Read budgets and charges; raises `StoreUnavailable`."""
    metrics = Metrics(CollectorRegistry())
    async with open_database(settings.database, metrics=metrics, max_connections=1) as database:
        return await open_books(settings, database).read()


def shown(body: BudgetsBody) -> str:
    """Lay out budgets and charges for a terminal of eighty columns."""
    lines = [f"{'budget':<8}{'attempts':>18}{'dollars':>24}{'left':>14}"]
    lines += [
        f"{each.name:<8}{f'{each.attempts} of {each.max_attempts}':>18}"
        f"{f'{each.usd} of {each.max_usd}':>24}{each.remaining_usd:>14}"
        for each in body.budgets
    ]
    lines += ["", f"{'charge':<12}{'in 30 days':>14}{'dollars':>24}"]
    lines += [f"{each.kind:<12}{each.attempts:>14}{each.usd:>24}" for each in body.charges]
    lines += [
        "",
        f"{body.deployed_accounts} accounts deployed: {body.hosting_usd_per_day} dollars a day",
    ]
    return "\n".join(lines)
