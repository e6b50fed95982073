"""What calls cost: the worst before they are made, the truth once they were answered.

What MetaApi really charges is its invoice; these are its list prices (metaapi.md 3.6), which the
operator can correct. Where sources disagree whether two prices are one charge, both are counted.
"""

from dataclasses import dataclass
from decimal import Decimal

from brokerd.config.settings import MoneySettings
from brokerd.connector.provisioning.ports import CHARGEABLE, Charge, IntentKind
from brokerd.errors import AuthFailed, BrokerdError, TimezoneUndetected


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """MetaApi's prices in US dollars."""

    add: Decimal
    deployment: Decimal
    failed_attempt: Decimal
    deployed_hour: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a call cost, and what for."""

    charge: Charge
    usd: Decimal


def prices_of(settings: MoneySettings) -> Prices:
    """Return the prices that the operator set."""
    return Prices(
        add=_exact(settings.add_usd),
        deployment=_exact(settings.deployment_usd),
        failed_attempt=_exact(settings.failed_attempt_usd),
        deployed_hour=_exact(settings.deployed_hour_usd),
    )


def worst_usd(kind: IntentKind, prices: Prices) -> Decimal | None:
    """Return the most that a call may cost, however it ends; None when it is free."""
    if kind not in CHARGEABLE:
        return None
    return max(prices.failed_attempt, _bought(kind, prices).usd)


def cost(kind: IntentKind, failure: BrokerdError | None, prices: Prices) -> Cost:
    """Return what a call cost that was answered, with success or with a failure."""
    match failure:
        case None:
            return _bought(kind, prices)
        case AuthFailed():
            return Cost(charge=Charge.AUTH, usd=prices.failed_attempt)
        case TimezoneUndetected():
            return Cost(charge=Charge.TIMEZONE, usd=prices.failed_attempt)
        case _:
            return Cost(charge=Charge.NONE, usd=Decimal(0))


def _bought(kind: IntentKind, prices: Prices) -> Cost:
    match kind:
        case IntentKind.CREATE:
            return Cost(charge=Charge.ADD, usd=prices.add + prices.deployment)
        case IntentKind.DEPLOY:
            return Cost(charge=Charge.DEPLOY, usd=prices.deployment)
        case _:
            return Cost(charge=Charge.NONE, usd=Decimal(0))


def _exact(price: float) -> Decimal:
    """Take the number that was written, not its nearest double."""
    return Decimal(str(price))
