"""Creating by transaction-id: what is under way, and what came of it (metaapi.md 2.2).

A create is answered 202 while broker settings are being detected. The client sends the same order
with the same transaction-id until the answer is another one; from then on the id stands for the
account that was made, so an order sent again after a lost answer makes no second one. A refusal
ends the transaction: the same id sent again is a new attempt, and charged like one.
"""

from collections import OrderedDict
from dataclasses import dataclass

from brokerd.clock import Clock
from brokerd.sandbox.rules import ProvisioningRules

_REMEMBERED = 100_000


@dataclass(slots=True, kw_only=True)
class _Transaction:
    began_at: float
    polls: int = 0
    account_id: str | None = None


class Transactions:
    """Every transaction of every user, the newest `_REMEMBERED` of them."""

    def __init__(self, *, clock: Clock, rules: ProvisioningRules) -> None:
        self._clock = clock
        self._rules = rules
        self._known: OrderedDict[tuple[str, str], _Transaction] = OrderedDict()

    def made(self, owner: str, transaction_id: str) -> str | None:
        """Return the account that the transaction made."""
        known = self._known.get((owner, transaction_id))
        return None if known is None else known.account_id

    def is_detecting(self, owner: str, transaction_id: str) -> bool:
        """Count one more poll; say whether settings are still being detected."""
        now = self._clock.monotonic()
        known = self._known.setdefault((owner, transaction_id), _Transaction(began_at=now))
        rules = self._rules
        is_over = now - known.began_at >= rules.scaled(rules.detection_seconds)
        if is_over and known.polls >= rules.detection_polls:
            return False
        known.polls += 1
        return True

    def finish(self, owner: str, transaction_id: str, *, account_id: str) -> None:
        """Remember the account that it made."""
        now = self._clock.monotonic()
        self._known[owner, transaction_id] = _Transaction(began_at=now, account_id=account_id)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def forget(self, owner: str, transaction_id: str) -> None:
        """Let the id stand for nothing again."""
        self._known.pop((owner, transaction_id), None)
