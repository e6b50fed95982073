"""Whether a write can be stored at all, and what of it is worth sending."""

from dataclasses import replace
from decimal import Decimal

from brokerd.domain import MAX_ID_LENGTH, Deal, LinkWrite, Source
from brokerd.errors import BadDeal
from brokerd.ledger.content import DECIMAL_PLACES

MAX_WORD_LENGTH = 128
"""Of a type, an entry, a symbol or a broker's time; real ones stay below 40."""
MAX_RAW_BYTES = 65_536
"""Of a deal as received; a real one has some 600."""

_TOO_LARGE = Decimal(10) ** 20


def check(write: LinkWrite) -> None:
    """Raise `BadDeal` for the first deal that Postgres would refuse or silently change.

    A pull that does not say when it began, or removals by the stream, are our own mistake.
    """
    is_pull = write.source is Source.PULL
    if is_pull != (write.fetched_at is not None) or (write.removals and not is_pull):
        raise ValueError("only a pull, and every pull, says when it began and may remove")
    for deal in write.deals:
        problem = _problem(deal)
        if problem is not None:
            raise BadDeal(f"deal {deal.deal_id[:MAX_ID_LENGTH]!r}: {problem}")
    for deal_id in write.removals:
        problem = _text_problem(deal_id, MAX_ID_LENGTH)
        if problem is not None:
            raise BadDeal(f"removal of {deal_id[:MAX_ID_LENGTH]!r}: {problem}")


def distinct(write: LinkWrite) -> LinkWrite:
    """Keep one copy of each deal: what the stream said first, what a pull said last.

    A deal that is both sent and removed stays: its presence is the stronger evidence.
    """
    ordered = write.deals if write.source is Source.PULL else tuple(reversed(write.deals))
    kept = {deal.deal_id: deal for deal in ordered}
    removals = tuple(dict.fromkeys(each for each in write.removals if each not in kept))
    if len(kept) == len(write.deals) and len(removals) == len(write.removals):
        return write
    return replace(write, deals=tuple(kept.values()), removals=removals)


def pieces(write: LinkWrite, *, max_deals: int) -> tuple[LinkWrite, ...]:
    """Cut a write into parts of at most `max_deals` deals or removals each, in order."""
    if len(write.deals) + len(write.removals) <= max_deals:
        return (write,)
    deals = [
        replace(write, deals=write.deals[at : at + max_deals], removals=())
        for at in range(0, len(write.deals), max_deals)
    ]
    removals = [
        replace(write, deals=(), removals=write.removals[at : at + max_deals])
        for at in range(0, len(write.removals), max_deals)
    ]
    return (*deals, *removals)


def _problem(deal: Deal) -> str | None:
    if deal.time.tzinfo is None:
        return "time has no zone"
    texts = (
        ("deal_id", deal.deal_id, MAX_ID_LENGTH),
        ("type", deal.type, MAX_WORD_LENGTH),
        ("entry", deal.entry, MAX_WORD_LENGTH),
        ("symbol", deal.symbol, MAX_WORD_LENGTH),
        ("broker_time", deal.broker_time, MAX_WORD_LENGTH),
        ("order_id", deal.order_id, MAX_ID_LENGTH),
        ("position_id", deal.position_id, MAX_ID_LENGTH),
        ("raw", deal.raw, MAX_RAW_BYTES),
    )
    for name, text, limit in texts:
        if text is not None and (problem := _text_problem(text, limit)):
            return f"{name} {problem}"
    if not deal.deal_id:
        return "deal_id is empty"
    numbers = (
        ("volume", deal.volume),
        ("price", deal.price),
        ("profit", deal.profit),
        ("commission", deal.commission),
        ("swap", deal.swap),
    )
    for name, number in numbers:
        if number is not None and (problem := _number_problem(number)):
            return f"{name} {problem}"
    return None


def _text_problem(text: str, limit: int) -> str | None:
    if len(text) > limit:
        return f"is longer than {limit}"
    if "\0" in text:
        return "contains NUL"
    if not text.isascii():
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            return "contains half of a character"  # a lone surrogate
        if size > limit:
            return f"is longer than {limit}"
    return None


def _number_problem(number: Decimal) -> str | None:
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int):
        return "is not a number"
    if abs(number) >= _TOO_LARGE:
        return "is too large"
    if exponent < -DECIMAL_PLACES and number != round(number, DECIMAL_PLACES):
        return f"has more than {DECIMAL_PLACES} decimals"
    return None
