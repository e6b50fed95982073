"""MetaApi's provisioning, as rules over the truth: what it accepts, refuses, charges and does.

The REST service and the in-process broker are both thin covers over it. Nothing here waits; what
takes time is left to `Deployments`. Every verb raises `Refused` when MetaApi would not do it.
"""

from dataclasses import dataclass, replace
from decimal import Decimal

from brokerd.sandbox import refusals
from brokerd.sandbox.bill import Bill, Payer
from brokerd.sandbox.credential_checks import Attempt, CredentialChecks
from brokerd.sandbox.deployments import Deployments
from brokerd.sandbox.facts import ZERO, ProvisioningState
from brokerd.sandbox.faults import Faults, StagedFault
from brokerd.sandbox.orders import AccountUpdate, NewAccount, check_order
from brokerd.sandbox.records import Access, Records
from brokerd.sandbox.refusals import Refused
from brokerd.sandbox.rules import ProvisioningRules
from brokerd.sandbox.trading import AccountSpec, TradingAccount
from brokerd.sandbox.transactions import Transactions
from brokerd.sandbox.truth import Broker, Hosting, TruthAccount
from brokerd.sandbox.users import TopUp, User

_S = ProvisioningState
_REGIONS = frozenset({"new-york", "london", "singapore"})
_TRANSACTION_ID_LENGTH = 32
_PAYMENT_REQUIRED = 402


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """An account that was made."""

    account_id: str
    state: ProvisioningState


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Broker settings are being detected: send the same order again after a while."""

    retry_after_seconds: float


class Provisioner:
    """The verbs. What an account of another user is asked for, does not exist."""

    def __init__(
        self, broker: Broker, *, faults: Faults, bill: Bill, rules: ProvisioningRules
    ) -> None:
        self.rules = rules
        self.bill = bill
        self._broker = broker
        self._faults = faults
        self._checks = CredentialChecks(broker, faults=faults, bill=bill, rules=rules)
        self._deployments = Deployments(broker, faults=faults, rules=rules)
        self._transactions = Transactions(clock=broker.clock, rules=rules)

    def regions(self) -> list[str]:
        """Return the regions, those of the accounts among them."""
        return sorted(_REGIONS | {a.spec.region for a in self._broker.accounts.values()})

    def balance(self, user: User) -> Decimal:
        """Return what is left of what the user has paid in."""
        return user.paid - self.bill.total(owner=user.name)

    def top_up_refusal(self) -> Refused:
        """Return what a user is told who must pay something in first."""
        status = self.rules.top_up_status
        error = "PaymentRequiredError" if status == _PAYMENT_REQUIRED else None
        return Refused(status, self.rules.top_up_message, error=error)

    def accounts(self, user: User) -> list[TruthAccount]:
        """Return the user's accounts, oldest first."""
        return [a for a in self._broker.accounts.values() if a.owner == user.name]

    def account(self, user: User, account_id: str) -> TruthAccount:
        """Return one of the user's accounts."""
        account = self._broker.accounts.get(account_id)
        if account is None or account.owner != user.name:
            raise refusals.not_found(account_id)
        return account

    def create(self, user: User, wanted: NewAccount, *, transaction_id: str) -> Created | Accepted:
        """Add an account and deploy it, or say that this takes longer."""
        if len(transaction_id) != _TRANSACTION_ID_LENGTH:
            raise refusals.invalid("transaction-id", "Must be a header of 32 characters.")
        check_order(wanted)
        if wanted.region not in self.regions():
            raise refusals.invalid("region", "There is no such region.", value=wanted.region)
        made = self._transactions.made(user.name, transaction_id)
        if made is not None:
            return self._created(self.account(user, made))
        self._require_paid(user)
        self._require_room(user, wanted.region, is_new=True)
        if not wanted.is_draft and self._transactions.is_detecting(user.name, transaction_id):
            rules = self.rules
            return Accepted(retry_after_seconds=rules.scaled(rules.retry_after_seconds))
        try:
            account = self._add(user, wanted)
        except Refused:
            self._transactions.forget(user.name, transaction_id)
            raise
        self._transactions.finish(user.name, transaction_id, account_id=account.metaapi_id)
        struck = self._faults.strike(StagedFault.FAIL_AFTER_CREATE)
        if struck is not None:
            raise Refused(struck.status, "Failed to execute a callable")
        return self._created(account)

    def update(self, user: User, account_id: str, wanted: AccountUpdate) -> None:
        """Change what MetaApi was told; the terminal takes it up at its next start."""
        account = self._active(user, account_id)
        check_order(wanted)
        is_draft = account.state is _S.DRAFT
        if wanted.login is not None and not is_draft:
            raise refusals.invalid("login", "The login cannot be changed.", value=wanted.login)
        if (wanted.login, wanted.password, wanted.server) != (None, None, None):
            attempt = self._attempt(account, wanted)
            account.moves_to = self._checks.require(attempt)
            account.password = attempt.password
        account.hosting = wanted.hosting(account.hosting)
        account.spec = replace(account.spec, name=wanted.name or account.spec.name)
        if is_draft and wanted.login is not None:
            self.bill.added(account)
            self._deployments.deploy(account)

    def deploy(self, user: User, account_id: str) -> None:
        """Start a terminal, unless one is started or runs."""
        account = self._active(user, account_id)
        if not account.is_started:
            self._require_start(user, account)
            self._deployments.deploy(account)

    def undeploy(self, user: User, account_id: str) -> None:
        """Stop the terminal, unless there is none."""
        account = self._active(user, account_id)
        if account.state not in (_S.UNDEPLOYED, _S.DRAFT):
            self._deployments.undeploy(account)

    def redeploy(self, user: User, account_id: str) -> None:
        """Stop the terminal and start it anew."""
        account = self._active(user, account_id)
        self._require_start(user, account)
        self._deployments.redeploy(account)

    def increase_reliability(self, user: User, account_id: str) -> None:
        """Give the account a second terminal; it is redeployed if it runs."""
        account = self._active(user, account_id)
        self._require_paid(user)
        account.spec = replace(account.spec, reliability="high")
        if account.state is _S.DEPLOYED:
            self._deployments.redeploy(account)

    def delete(self, user: User, account_id: str) -> None:
        """Remove the account."""
        account = self._active(user, account_id)
        if account.is_started and not self.rules.may_delete_deployed:
            raise Refused(400, "The account must be undeployed before it is deleted", details=[])
        self._deployments.delete(account)

    def _add(self, user: User, wanted: NewAccount) -> TruthAccount:
        payer = Payer(
            owner=user.name,
            account_id=None,
            server=wanted.server or "",
            login=wanted.login or "",
        )
        attempt = Attempt(
            payer=payer,
            platform=wanted.platform,
            password=wanted.password or "",
            slots=wanted.resource_slots or 1,
        )
        trading = self._draft(attempt) if wanted.is_draft else self._checks.require(attempt)
        spec = replace(
            trading.spec,
            name=wanted.name or "",
            region=wanted.region,
            reliability=wanted.reliability or self.rules.default_reliability,
            state=_S.DRAFT if wanted.is_draft else _S.CREATED,
            owner=user.name,
        )
        account = self._broker.host(trading, spec=spec)
        account.password = attempt.password
        account.hosting = wanted.hosting(Hosting())
        if not wanted.is_draft:
            self.bill.added(account)
            self._deployments.deploy(account)
        return account

    def _draft(self, attempt: Attempt) -> TradingAccount:
        """Return a trading account that stands in until the end user names one."""
        server = self._checks.require_server(attempt)
        records = Records(login="", access=Access(password="", investor_password=""))
        return TradingAccount(spec=AccountSpec(server=server), records=records)

    def _created(self, account: TruthAccount) -> Created:
        return Created(account_id=account.metaapi_id, state=account.state)

    def _active(self, user: User, account_id: str) -> TruthAccount:
        account = self.account(user, account_id)
        if account.state is _S.DELETING:
            raise refusals.not_found(account_id)
        return account

    def _attempt(self, account: TruthAccount, wanted: AccountUpdate) -> Attempt:
        """Return the try that an account makes with what MetaApi was told, and is told now."""
        told = account.moves_to or account
        payer = Payer(
            owner=account.owner,
            account_id=account.metaapi_id,
            server=wanted.server or told.server.name,
            login=wanted.login or told.login,
        )
        return Attempt(
            payer=payer,
            platform=account.platform,
            password=wanted.password or account.password,
            slots=wanted.resource_slots or account.hosting.resource_slots,
        )

    def _require_start(self, user: User, account: TruthAccount) -> None:
        self._require_paid(user)
        self._require_room(user, account.spec.region, is_new=False)
        self._checks.require(self._attempt(account, AccountUpdate()))

    def _require_paid(self, user: User) -> None:
        is_used_up = user.top_up is TopUp.BY_BALANCE and self.balance(user) <= ZERO
        if is_used_up or user.top_up is not TopUp.BY_BALANCE:
            raise self.top_up_refusal()

    def _require_room(self, user: User, region: str, *, is_new: bool) -> None:
        quotas = user.quotas_in(region)
        held = [a for a in self.accounts(user) if a.spec.region == region]
        running = sum(a.is_started for a in held)
        if (is_new and len(held) >= quotas.accounts) or running >= quotas.deployed:
            raise Refused(
                400,
                f"Quota exceeded: you may have {quotas.accounts} accounts and"
                f" {quotas.deployed} deployed accounts in region {region}.",
                error="QuotaExceededError",
            )
