"""What a deal says, as one number, and what a span of deals says, as a receipt.

The number decides whether the broker changed a deal; it covers only fields that stream and REST
give alike. The receipt combines numbers by XOR, so it does not depend on order, and what was
added can be taken out again; the deal's id is part of the number, so two equal fills do not
cancel each other out.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC
from decimal import Decimal
from hashlib import blake2b

from brokerd.domain import Book, Deal, Receipt

DECIMAL_PLACES = 8
"""How exactly the ledger stores numbers (`store.tables.MONEY`)."""

_SMALLEST = Decimal(1).scaleb(-DECIMAL_PLACES)
_ZERO = Decimal(0)

EMPTY = Receipt(count=0, content_hash=0, balance=_ZERO, credit=_ZERO)


def content_hash(deal: Deal) -> int:
    """Return a signed 64-bit number, the same in every process and for every way to write 1.0."""
    parts = (
        deal.deal_id,
        deal.type,
        deal.entry,
        deal.symbol,
        _number(deal.volume),
        _number(deal.price),
        deal.time.astimezone(UTC).isoformat(timespec="microseconds"),
        _number(deal.profit),
        _number(deal.commission),
        _number(deal.swap),
        deal.order_id,
        deal.position_id,
    )
    # Lengths keep neighbours apart: ("ab", "c") is not ("a", "bc"), and None is not "".
    text = "".join("-" if part is None else f"{len(part)}:{part}" for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def add(receipt: Receipt, deal: Deal) -> Receipt:
    """Return the receipt of the same span with one more deal."""
    return _moved(receipt, deal, count=1, amount=deal.amount)


def remove(receipt: Receipt, deal: Deal) -> Receipt:
    """Return the receipt of the same span without that deal."""
    return _moved(receipt, deal, count=-1, amount=-deal.amount)


def receipt_of(deals: Iterable[Deal]) -> Receipt:
    """Count a span anew."""
    receipt = EMPTY
    for deal in deals:
        receipt = add(receipt, deal)
    return receipt


def joined(first: Receipt, second: Receipt) -> Receipt:
    """Return the receipt of two spans that do not overlap."""
    return Receipt(
        count=first.count + second.count,
        content_hash=first.content_hash ^ second.content_hash,
        balance=first.balance + second.balance,
        credit=first.credit + second.credit,
    )


def _moved(receipt: Receipt, deal: Deal, *, count: int, amount: Decimal) -> Receipt:
    return replace(
        receipt,
        count=receipt.count + count,
        content_hash=receipt.content_hash ^ content_hash(deal),
        balance=receipt.balance + (amount if deal.book is Book.BALANCE else _ZERO),
        credit=receipt.credit + (amount if deal.book is Book.CREDIT else _ZERO),
    )


def _number(value: Decimal | None) -> str | None:
    if value is None:
        return None
    return f"{value.quantize(_SMALLEST) + _ZERO:f}"  # adding zero turns -0 into 0
