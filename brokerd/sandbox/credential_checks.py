"""Whether MetaApi can log in with what it was told, what a failure costs, and when it stops trying.

After some failed checks of a login's credentials MetaApi rejects every further one for about an
hour, right credentials among them, with 429 (metaapi.md 2.3). A check that succeeds starts the
count again; the lock is tied to the user's login.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

from brokerd.domain import Platform
from brokerd.sandbox import refusals
from brokerd.sandbox.bill import Bill, Payer
from brokerd.sandbox.faults import Faults, StagedFault
from brokerd.sandbox.refusals import Hint, Refused
from brokerd.sandbox.rules import ProvisioningRules
from brokerd.sandbox.trading import TradeServer, TradingAccount
from brokerd.sandbox.truth import Broker
from brokerd.sandbox.validation import CHARGED, COUNTED, ValidationCode

_BROKER_NAME = "Sandbox Brokers Ltd"
_MOST_SUGGESTIONS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try to log in; `platform` None takes what the server is."""

    payer: Payer
    platform: Platform | None
    password: str = field(repr=False)
    slots: int

    @property
    def key(self) -> tuple[str, str, str]:
        """Return whose login it is."""
        return (self.payer.owner, self.payer.server, self.payer.login)


class CredentialChecks:
    """Tries logins at the broker, and keeps count."""

    def __init__(
        self, broker: Broker, *, faults: Faults, bill: Bill, rules: ProvisioningRules
    ) -> None:
        self._broker = broker
        self._faults = faults
        self._bill = bill
        self._rules = rules
        self._failures: Counter[tuple[str, str, str]] = Counter()
        self._locked_until: dict[tuple[str, str, str], float] = {}

    def require(self, attempt: Attempt) -> TradingAccount:
        """Return the trading account behind the credentials; raises `Refused`."""
        self.require_server(attempt)
        self._require_unlocked(attempt)
        trading = self._broker.login(attempt.payer.server, attempt.payer.login)
        code = self._code(attempt, trading)
        if trading is not None and code is None:
            self._failures.pop(attempt.key, None)
            return trading
        code = code or ValidationCode.AUTH
        if code in CHARGED:
            self._bill.failed(attempt.payer)
        if code in COUNTED:
            self._count(attempt)
        slots = 1 if trading is None else trading.access.needed_slots
        raise self._refusal(code, attempt, recommended_slots=slots)

    def require_server(self, attempt: Attempt) -> TradeServer:
        """Return the trade server that is meant; raises `Refused`."""
        server = self._broker.servers.get(attempt.payer.server)
        if server is None or attempt.platform not in (None, server.platform):
            raise self._refusal(ValidationCode.SRV_NOT_FOUND, attempt)
        return server

    def _refusal(
        self, code: ValidationCode, attempt: Attempt, *, recommended_slots: int = 1
    ) -> Refused:
        return refusals.not_valid(
            code,
            server=attempt.payer.server,
            suggestions={_BROKER_NAME: self._suggestions(attempt)},
            recommended_slots=recommended_slots,
        )

    def _code(self, attempt: Attempt, trading: TradingAccount | None) -> ValidationCode | None:
        if trading is None or not trading.access.is_right(attempt.password):
            return ValidationCode.AUTH
        account_id = attempt.payer.account_id
        if self._faults.strike(StagedFault.REFUSE_AUTH, account_id=account_id) is not None:
            return ValidationCode.AUTH
        if trading.access.trouble is None and trading.access.needed_slots > attempt.slots:
            return ValidationCode.RESOURCE_SLOTS
        return trading.access.trouble

    def _require_unlocked(self, attempt: Attempt) -> None:
        left = self._locked_until.get(attempt.key, 0.0) - self._broker.clock.monotonic()
        if left <= 0:
            return
        retry_at = self._broker.now() + timedelta(seconds=left)
        raise Refused(
            429,
            f"Validation for trading account {attempt.payer.login} was rejected too many times."
            " Please check the credentials and retry in 1 hour",
            hint=Hint(retry_at=retry_at),
        )

    def _count(self, attempt: Attempt) -> None:
        rules = self._rules
        self._failures[attempt.key] += 1
        if rules.failures_before_lock and (
            self._failures[attempt.key] >= rules.failures_before_lock
        ):
            del self._failures[attempt.key]
            until = self._broker.clock.monotonic() + rules.scaled(rules.lock_seconds)
            self._locked_until[attempt.key] = until

    def _suggestions(self, attempt: Attempt) -> list[str]:
        servers = self._broker.servers.values()
        fitting = [s.name for s in servers if attempt.platform in (None, s.platform)]
        return fitting[:_MOST_SUGGESTIONS]
