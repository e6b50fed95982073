"""What follows from how a call ended: the bill, the password's fate, and what is remembered."""

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from brokerd.config.settings import ProvisioningSettings
from brokerd.connector.provisioning.ports import (
    Auth,
    CredentialState,
    Intent,
    IntentKind,
    Outcome,
    Standing,
)
from brokerd.connector.provisioning.prices import Prices, cost
from brokerd.errors import AuthFailed, Held, Rejected, Throttled, ValidationLocked

DONE = "done"
ABANDONED = "abandoned"

Refused: TypeAlias = Rejected | Throttled | Held
"""The answers by which nothing was done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Turns ends of calls into what is to be stored of them."""

    prices: Prices
    settings: ProvisioningSettings

    def done(self, intent: Intent, *, created_id: str | None = None) -> Outcome:
        """Return what follows from a call that did what it should."""
        paid = cost(intent.kind, None, self.prices)
        is_create, is_deploy = intent.kind is IntentKind.CREATE, intent.kind is IntentKind.DEPLOY
        return Outcome(
            code=DONE,
            charge=paid.charge,
            usd=paid.usd,
            created_id=created_id,
            credentials=_fate(intent.kind),
            auth=Auth.OK if is_create or is_deploy else None,
        )

    def abandoned(self) -> Outcome:
        """Return what follows from a call that had no effect; what it might have cost stays."""
        return Outcome(code=ABANDONED)

    def refused(self, intent: Intent, failure: Refused, now: Standing) -> Outcome:
        """Return what follows from a refusal."""
        paid = cost(intent.kind, failure, self.prices)
        is_final = isinstance(failure, AuthFailed) and not self._is_only_suspected(now)
        return Outcome(
            code=failure.code,
            problem=str(failure),
            charge=paid.charge,
            usd=paid.usd,
            credentials=CredentialState.REJECTED if is_final else None,
            auth=self._auth(failure, is_final=is_final),
            remembers_seconds=self.settings.rejected_memory_seconds if is_final else None,
            locked_seconds=_lock(failure),
        )

    def _is_only_suspected(self, now: Standing) -> bool:
        """Say whether a refusal of credentials gets a second chance.

        Only credentials that the broker took do, of a link that was live lately, and only once: a
        broker that reboots refuses everybody for a while.
        """
        was_taken = now.credentials is None or now.credentials.state is CredentialState.ACCEPTED
        recently = timedelta(seconds=self.settings.recent_seconds)
        was_live = now.watermark is not None and now.now - now.watermark <= recently
        return was_taken and was_live and now.auth is Auth.OK

    def _auth(self, failure: Refused, *, is_final: bool) -> Auth | None:
        if not isinstance(failure, AuthFailed):
            return None
        return Auth.FAILED if is_final else Auth.SUSPECTED


def _fate(kind: IntentKind) -> CredentialState | None:
    """Return what a successful call makes of the password it was made for."""
    match kind:
        case IntentKind.CREATE | IntentKind.DEPLOY:
            return CredentialState.ACCEPTED
        case IntentKind.UPDATE:
            return CredentialState.UPDATED
        case _:
            return None


def _lock(failure: Refused) -> float | None:
    return failure.retry_after_seconds if isinstance(failure, ValidationLocked) else None
