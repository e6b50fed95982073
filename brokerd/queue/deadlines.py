"""When a waiting link should have its slot: the one rule that orders the queue.

Theory. Everyone who waits has a deadline, and the earliest goes first. The deadline is the moment
from which the link may have a slot (the request, or the end of its backoff) plus the patience of
its priority class. That one order is priority (less patience, earlier), ageing (a deadline stays
while newer ones are later) and fairness after failure (a flapping link queues again behind those
who waited). Nobody starves: only finitely many deadlines can lie before a given one.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from brokerd.domain import AccountId, Priority


def deadline_for(
    now: datetime, *, priority: Priority, patience_seconds: Mapping[Priority, float]
) -> datetime:
    """Return the deadline of a link that may have a slot from `now` on.

    `now` is the time of the request for a new or changed spec, and `not_before` after a failure.
    """
    return now + timedelta(seconds=patience_seconds[priority])


def turn(deadline: datetime, account_id: AccountId) -> tuple[datetime, AccountId]:
    """Return the sort key of the queue; the account decides between equal deadlines."""
    return deadline, account_id
