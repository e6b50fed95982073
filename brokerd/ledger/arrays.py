"""A batch as the arrays that the ledger's statement unnests: one array per column.

The arrays are written as Postgres's own array text here. The driver can do it, value by value
for any type and depth, at several times the cost of all that the server does with them.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from brokerd.ledger.content import content_hash
from brokerd.ledger.ports import NumberedWrite


def arrays_of(writes: Sequence[NumberedWrite]) -> Mapping[str, str]:
    """Return the parameters of `statements.COMMIT`."""
    return {**_links(writes), **_deals(writes), **_removals(writes)}


def _links(writes: Sequence[NumberedWrite]) -> Mapping[str, str]:
    return {
        "account_ids": _numbers(each.write.fence.account_id for each in writes),
        "owners": _numbers(each.write.fence.incarnation for each in writes),
        "epochs": _numbers(each.write.fence.epoch for each in writes),
        "link_ids": _texts(each.write.link_id for each in writes),
        "user_ids": _texts(each.write.user_id for each in writes),
        "sources": _texts(each.write.source.value for each in writes),
        "fetched_ats": _times(each.write.fetched_at for each in writes),
        "write_ids": _numbers(each.write_id for each in writes),
    }


def _deals(writes: Sequence[NumberedWrite]) -> Mapping[str, str]:
    deals = [deal for each in writes for deal in each.write.deals]
    return {
        "deal_accounts": _numbers(
            each.write.fence.account_id for each in writes for _ in each.write.deals
        ),
        "deal_ids": _texts(deal.deal_id for deal in deals),
        "types": _texts(deal.type for deal in deals),
        "entries": _texts(deal.entry for deal in deals),
        "symbols": _texts(deal.symbol for deal in deals),
        "volumes": _numbers(deal.volume for deal in deals),
        "prices": _numbers(deal.price for deal in deals),
        "times": _times(deal.time for deal in deals),
        "broker_times": _texts(deal.broker_time for deal in deals),
        "profits": _numbers(deal.profit for deal in deals),
        "commissions": _numbers(deal.commission for deal in deals),
        "swaps": _numbers(deal.swap for deal in deals),
        "order_ids": _texts(deal.order_id for deal in deals),
        "position_ids": _texts(deal.position_id for deal in deals),
        "books": _texts(deal.book.value for deal in deals),
        "raws": _texts(deal.raw for deal in deals),
        "hashes": _numbers(content_hash(deal) for deal in deals),
    }


def _removals(writes: Sequence[NumberedWrite]) -> Mapping[str, str]:
    return {
        "removal_accounts": _numbers(
            each.write.fence.account_id for each in writes for _ in each.write.removals
        ),
        "removal_ids": _texts(deal_id for each in writes for deal_id in each.write.removals),
    }


def _numbers(values: Iterable[int | Decimal | None]) -> str:
    return f"{{{','.join('NULL' if value is None else str(value) for value in values)}}}"


def _times(values: Iterable[datetime | None]) -> str:
    return _texts(None if value is None else value.isoformat() for value in values)


def _texts(values: Iterable[str | None]) -> str:
    return f"{{{','.join('NULL' if value is None else _quoted(value) for value in values)}}}"


def _quoted(text: str) -> str:
    """Escape the two characters that mean something inside quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
