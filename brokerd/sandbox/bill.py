"""The bill: what MetaApi would have charged, item by item (metaapi.md 3.6); money is `Decimal`.

The meter of an account follows its state, whoever changes it: it runs as deployed from the order to
deploy until the order to undeploy. A start costs the price of a deployment, and at least
`minimum_hours` of deployed time; the deployment's price is taken to be that very minimum, as their
amounts are equal, unless `is_minimum_apart`. Accounts that the control made are metered from then
on, and neither their adding nor their first start is charged.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum

from brokerd.clock import Clock
from brokerd.sandbox.facts import ZERO, ChangeKind, ProvisioningState
from brokerd.sandbox.truth import Broker, Change, TruthAccount

_S = ProvisioningState
_RUNS = frozenset({_S.DEPLOYING, _S.DEPLOYED, _S.DEPLOY_FAILED, _S.UNDEPLOY_FAILED})
_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS_PER_HOUR = Decimal(3_600_000_000)


class ChargeKind(StrEnum):
    """What is charged."""

    ACCOUNT_ADDED = "account_added"
    DEPLOYMENT = "deployment"
    DEPLOYED_HOURS = "deployed_hours"
    SLOT_HOURS = "slot_hours"
    UNDEPLOYED_HOURS = "undeployed_hours"
    FAILED_ATTEMPT = "failed_attempt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """MetaApi's list prices of cloud-g2 in USD."""

    account_added: Decimal = Decimal("2.10")
    deployment: Decimal = Decimal("0.072")
    deployed_hour: Decimal = Decimal("0.012")
    undeployed_hour: Decimal = Decimal("0.00105")
    slot_hour: Decimal = Decimal("0.006")
    failed_attempt: Decimal = Decimal("0.105")
    minimum_hours: Decimal = Decimal(6)
    is_minimum_apart: bool = False

    def deployed_hours(self, hours: Decimal) -> Decimal:
        """Return how many hours of one deployed span are charged by the hour."""
        if self.is_minimum_apart:
            return max(hours, self.minimum_hours)
        return max(hours - self.minimum_hours, ZERO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """Who pays for what: an account, or one that never came to be."""

    owner: str
    account_id: str | None
    server: str
    login: str


@dataclass(slots=True, kw_only=True)
class Charge:
    """What was charged of one kind: how often, for how many hours, how much."""

    count: int = 0
    hours: Decimal = ZERO
    amount: Decimal = ZERO

    def add(self, *, count: int = 1, hours: Decimal = ZERO, amount: Decimal) -> None:
        """Charge more."""
        self.count += count
        self.hours += hours
        self.amount += amount


class BillClock:
    """The time that is charged: as long as the clock's, unless it is scaled or pushed ahead."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._scale = Decimal(1)
        self._hours = ZERO
        self._since = clock.now()

    def hours(self) -> Decimal:
        """Return how many hours went by."""
        now = self._clock.now()
        passed = Decimal((now - self._since) // _MICROSECOND) / _MICROSECONDS_PER_HOUR
        self._hours += passed * self._scale
        self._since = now
        return self._hours

    def advance(self, hours: Decimal) -> None:
        """Let so many hours go by at once."""
        self._hours += hours

    def set_scale(self, scale: Decimal) -> None:
        """Let every hour from now on count for so many."""
        self.hours()
        self._scale = scale


@dataclass(slots=True, kw_only=True)
class _Meter:
    """One account's open span."""

    payer: Payer
    is_running: bool
    since: Decimal
    extra_slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One line of the bill."""

    payer: Payer
    kind: ChargeKind
    charge: Charge


_Charges = dict[tuple[Payer, ChargeKind], Charge]


class Bill:
    """What every user owes."""

    def __init__(self, broker: Broker, *, prices: Prices) -> None:
        self.prices = prices
        self.clock = BillClock(broker.clock)
        self._closed: _Charges = {}
        self._meters: dict[str, _Meter] = {}
        for account in broker.accounts.values():
            self._open(account, is_running=account.state in _RUNS)
        broker.listen(self._hear)

    def added(self, account: TruthAccount) -> None:
        """Charge for an account that a user added."""
        amount = self.prices.account_added
        self._charge(_payer(account), ChargeKind.ACCOUNT_ADDED).add(amount=amount)

    def failed(self, payer: Payer) -> None:
        """Charge for an attempt that ended in E_AUTH or E_SERVER_TIMEZONE."""
        self._charge(payer, ChargeKind.FAILED_ATTEMPT).add(amount=self.prices.failed_attempt)

    def items(self, *, owner: str | None = None) -> list[Item]:
        """Return the bill as of now, of one user or of all."""
        charges: _Charges = {
            key: Charge(count=charge.count, hours=charge.hours, amount=charge.amount)
            for key, charge in self._closed.items()
        }
        now = self.clock.hours()
        for meter in self._meters.values():
            for kind, hours, amount in self._span(meter, until=now):
                charge = charges.setdefault((meter.payer, kind), Charge())
                charge.add(hours=hours, amount=amount)
        return [
            Item(payer=payer, kind=kind, charge=charge)
            for (payer, kind), charge in charges.items()
            if owner in (None, payer.owner)
        ]

    def total(self, *, owner: str | None = None) -> Decimal:
        """Return what is owed as of now."""
        return sum((item.charge.amount for item in self.items(owner=owner)), ZERO)

    def count(self, kind: ChargeKind, *, owner: str | None = None) -> int:
        """Return how often something was charged."""
        return sum(item.charge.count for item in self.items(owner=owner) if item.kind is kind)

    def _hear(self, change: Change) -> None:
        """Follow an account's state."""
        account = change.account
        is_running = account.state in _RUNS
        match change.kind:
            case ChangeKind.ADDED:
                self._open(account, is_running=is_running)
            case ChangeKind.REMOVED:
                self._close(account)
            case ChangeKind.CONNECTION if self._is_turned(account, is_running=is_running):
                self._close(account)
                self._open(account, is_running=is_running)
                if is_running:
                    amount = self.prices.deployment
                    self._charge(_payer(account), ChargeKind.DEPLOYMENT).add(amount=amount)

    def _is_turned(self, account: TruthAccount, *, is_running: bool) -> bool:
        """Say whether the account starts or stops; one that is forgotten does neither."""
        meter = self._meters.get(account.metaapi_id)
        return meter is not None and meter.is_running != is_running

    def _open(self, account: TruthAccount, *, is_running: bool) -> None:
        billed_slots = account.hosting.resource_slots * account.replicas
        self._meters[account.metaapi_id] = _Meter(
            payer=_payer(account),
            is_running=is_running,
            since=self.clock.hours(),
            extra_slots=billed_slots - 1,
        )

    def _close(self, account: TruthAccount) -> None:
        meter = self._meters.pop(account.metaapi_id)
        for kind, hours, amount in self._span(meter, until=self.clock.hours()):
            self._charge(meter.payer, kind).add(hours=hours, amount=amount)

    def _span(
        self, meter: _Meter, *, until: Decimal
    ) -> Iterator[tuple[ChargeKind, Decimal, Decimal]]:
        hours = until - meter.since
        if not meter.is_running:
            yield ChargeKind.UNDEPLOYED_HOURS, hours, hours * self.prices.undeployed_hour
            return
        charged = self.prices.deployed_hours(hours)
        yield ChargeKind.DEPLOYED_HOURS, charged, charged * self.prices.deployed_hour
        if meter.extra_slots:
            amount = hours * meter.extra_slots * self.prices.slot_hour
            yield ChargeKind.SLOT_HOURS, hours * meter.extra_slots, amount

    def _charge(self, payer: Payer, kind: ChargeKind) -> Charge:
        return self._closed.setdefault((payer, kind), Charge())


def _payer(account: TruthAccount) -> Payer:
    return Payer(
        owner=account.owner,
        account_id=account.metaapi_id,
        server=account.server.name,
        login=account.login,
    )
