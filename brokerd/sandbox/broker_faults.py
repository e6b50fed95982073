"""What goes wrong at the broker itself: quiet changes of history, and terminals it throws out.

MetaApi streams none of the quiet changes (metaapi.md 6.8): a client finds them only by reading
history again. They stay within the fault's `max_age`, and leave an account's first deposit alone.
"""

import asyncio
from datetime import timedelta
from decimal import Decimal
from random import Random

from brokerd.sandbox import dealing
from brokerd.sandbox.dealing import At
from brokerd.sandbox.facts import Amendment, ConnectionStatus, TruthDeal, whole_ms
from brokerd.sandbox.faults import Fault, FaultKind, Faults
from brokerd.sandbox.truth import Broker, TruthAccount

_TICK_SECONDS = 0.1
_MIN_AGE = timedelta(minutes=1)
_QUIET_KINDS = (FaultKind.LATE_DEALS, FaultKind.EDITED_DEALS, FaultKind.DELETED_DEALS)
_LATE_TYPES = ("DEAL_TYPE_CORRECTION", "DEAL_TYPE_CHARGE", "DEAL_TYPE_BALANCE", "DEAL_TYPE_CREDIT")
_AMENDED_FIELDS = ("profit", "commission", "swap")


class BrokerFaults:
    """Acts out the faults of the broker while they are switched on."""

    def __init__(self, broker: Broker, *, faults: Faults, random: Random) -> None:
        self._broker = broker
        self._faults = faults
        self._random = random
        self._before: float | None = None
        self._disconnect: Fault | None = None
        self._cut_off: list[TruthAccount] = []

    async def run(self) -> None:
        """Act until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(_TICK_SECONDS)

    def tick(self) -> None:
        """Do what is due since the last tick; to be called several times a second."""
        now = self._broker.clock.monotonic()
        passed = 0.0 if self._before is None else now - self._before
        self._before = now
        self._apply_disconnect()
        for kind in _QUIET_KINDS:
            fault = self._faults.get(kind)
            if fault is not None:
                expected = fault.per_minute / 60 * passed
                for _ in range(int(expected) + (self._random.random() < expected % 1)):
                    self.act(kind)

    def act(self, kind: FaultKind) -> bool:
        """Let one quiet fault strike one account now; say whether it did."""
        fault = self._faults.get(kind)
        accounts = [a for a in self._broker.accounts.values() if a.deal_count]
        if fault is not None and fault.account_ids is not None:
            accounts = [a for a in accounts if a.metaapi_id in fault.account_ids]
        if fault is None or not accounts:
            return False
        account = self._random.choice(accounts)
        if kind is FaultKind.LATE_DEALS:
            return self._book_late(account, fault)
        deals = self._recent(account, fault)
        if not deals or self._faults.strike(kind, account_id=account.metaapi_id) is None:
            return False
        deal = self._random.choice(deals)
        if kind is FaultKind.EDITED_DEALS:
            account.amend(deal.deal_id, self._amendment(deal))
        else:
            account.delete(deal.deal_id)
        return True

    def _apply_disconnect(self) -> None:
        """Bring the terminals in line with the switch; one thrown out stays so until it is off."""
        fault = self._faults.get(FaultKind.BROKER_DISCONNECT)
        if fault is self._disconnect:
            return
        for account in self._cut_off:
            if account.connection_status is ConnectionStatus.DISCONNECTED_FROM_BROKER:
                account.log_in()
        self._disconnect = fault
        self._cut_off = [a for a in self._broker.accounts.values() if self._is_cut_off(a)]
        for account in self._cut_off:
            account.set_connection(ConnectionStatus.DISCONNECTED_FROM_BROKER)

    def _is_cut_off(self, account: TruthAccount) -> bool:
        kind = FaultKind.BROKER_DISCONNECT
        struck = account.is_reachable and self._faults.strike(kind, account_id=account.metaapi_id)
        return bool(struck)

    def _recent(self, account: TruthAccount, fault: Fault) -> list[TruthDeal]:
        first = account.deals(limit=1)[0]
        recent = account.deals(start=self._broker.now() - fault.max_age)
        return [deal for deal in recent if deal is not first]

    def _book_late(self, account: TruthAccount, fault: Fault) -> bool:
        if self._faults.strike(fault.kind, account_id=account.metaapi_id) is None:
            return False
        now = self._broker.now()
        age = _MIN_AGE + (fault.max_age - _MIN_AGE) * self._random.random()
        at = At(time=whole_ms(now - age), booked_at=now)
        deal_type = self._random.choice(_LATE_TYPES)
        account.book_quietly(
            dealing.cash(account, at=at, type=deal_type, amount=self._cents(20_000))
        )
        return True

    def _amendment(self, deal: TruthDeal) -> Amendment:
        step = self._cents(500)
        name = self._random.choice(_AMENDED_FIELDS) if deal.symbol else "profit"
        if name == "commission":
            return Amendment(commission=deal.commission + step)
        if name == "swap":
            return Amendment(swap=deal.swap + step)
        return Amendment(profit=deal.profit + step)

    def _cents(self, most: int) -> Decimal:
        """Return an amount that is never zero: a change must be a change."""
        return self._random.choice((-1, 1)) * Decimal(self._random.randint(1, most)) / 100
