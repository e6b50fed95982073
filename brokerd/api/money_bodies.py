"""What goes over the wire about passwords and money."""

from typing import Annotated

from msgspec import Meta

from brokerd.api.bodies import Amount, Body
from brokerd.connector.provisioning.budgets import BudgetName
from brokerd.connector.provisioning.ports import Charge


class CredentialsBody(Body):
    """The body of PUT /v1/links/{id}/credentials; it is never shown again."""

    password: Annotated[str, Meta(min_length=1, max_length=128)]


class CredentialVersionBody(Body):
    """Which of a link's passwords the newest one is; 0 when none was submitted."""

    credential_version: int


class BudgetBody(Body):
    """What may be spent within a sliding window, and what was; of links and users, the most."""

    name: BudgetName
    window_seconds: float
    attempts: int
    max_attempts: int
    usd: Amount
    max_usd: Amount
    remaining_usd: Amount


class ChargeBody(Body):
    """What was spent on one kind of charge in the last thirty days."""

    kind: Charge
    attempts: int
    usd: Amount


class PricesBody(Body):
    """What MetaApi charges, as configured, in US dollars."""

    add: Amount
    deployment: Amount
    failed_attempt: Amount
    deployed_hour: Amount


class BudgetsBody(Body):
    """What MetaApi was paid and may be paid; `hostingUsdPerDay` is what deployed accounts cost.

    A call whose end is not known yet counts as `reserved`, with the worst it may cost.
    """

    budgets: list[BudgetBody]
    charges: list[ChargeBody]
    prices: PricesBody
    deployed_accounts: int
    hosting_usd_per_day: Amount
