"""Whether a write can be stored at all, and what of it is worth sending."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from brokerd.connector.poison import MAX_RAW_BYTES, bad_record, digest_of
from brokerd.domain import MAX_ID_LENGTH, BadReason, BadRecord, Deal, LinkWrite, Source
from brokerd.errors import BadDeal
from brokerd.ledger.content import DECIMAL_PLACES

MAX_WORD_LENGTH = 128
"""Of a type, an entry, a symbol or a broker's time; real ones stay below 40."""
_ROW_BYTES = 512
_TOO_LARGE = Decimal(10) ** 20


class _Problem(NamedTuple):
    """What is wrong with a deal."""

    reason: BadReason
    text: str


def check(write: LinkWrite) -> None:
    """Raise `BadDeal` for a removal that cannot be a deal's.

    A pull that does not say when it began, or removals by the stream, are our own mistake.
    """
    is_pull = write.source is not Source.STREAM
    if is_pull != (write.fetched_at is not None) or (write.removals and not is_pull):
        raise ValueError("only a pull, and every pull, says when it began and may remove")
    for deal_id in write.removals:
        problem = _text_problem(deal_id, MAX_ID_LENGTH)
        if problem is not None:
            raise BadDeal(f"removal of {deal_id[:MAX_ID_LENGTH]!r}: {problem.text}")


def sift(write: LinkWrite) -> tuple[LinkWrite, tuple[tuple[Deal, BadRecord], ...]]:
    """Part a write from the deals that Postgres would refuse or silently change."""
    judged = [(deal, _problem(deal)) for deal in write.deals]
    bad = tuple(
        (deal, bad_deal(deal, problem.reason, problem.text))
        for deal, problem in judged
        if problem is not None
    )
    if not bad:
        return write, ()
    return replace(write, deals=tuple(deal for deal, problem in judged if problem is None)), bad


def bad_deal(deal: Deal, reason: BadReason, problem: str) -> BadRecord:
    """Make what the quarantine keeps of a deal that cannot be stored.

    It is known by what it says, not by how: stream and REST write one deal differently.
    """
    raw = deal.raw.encode("utf-8", "backslashreplace")  # half a character becomes a JSON escape
    record = bad_record(raw, reason=reason, problem=f"deal {deal.deal_id[:64]!r}: {problem}")
    return replace(
        record,
        digest=digest_of(repr(deal).encode()),  # all but `raw`, whatever is in it escaped
        deal_id=deal.deal_id if _text_problem(deal.deal_id, MAX_ID_LENGTH) is None else None,
        time=None if deal.time.tzinfo is None else deal.time,
    )


def halves(write: LinkWrite) -> tuple[LinkWrite, LinkWrite]:
    """Cut a write of several deals in two; its removals are a half of their own."""
    if write.removals:
        return replace(write, removals=()), replace(write, deals=())
    middle = len(write.deals) // 2
    return replace(write, deals=write.deals[:middle]), replace(write, deals=write.deals[middle:])


def distinct(write: LinkWrite) -> LinkWrite:
    """Keep one copy of each deal: what the stream said first, what a pull said last.

    A deal that is both sent and removed stays: its presence is the stronger evidence.
    """
    is_stream = write.source is Source.STREAM
    ordered = tuple(reversed(write.deals)) if is_stream else write.deals
    kept = {deal.deal_id: deal for deal in ordered}
    removals = tuple(dict.fromkeys(each for each in write.removals if each not in kept))
    if len(kept) == len(write.deals) and len(removals) == len(write.removals):
        return write
    return replace(write, deals=tuple(kept.values()), removals=removals)


def size_of(deal: Deal) -> int:
    """Estimate the bytes a deal takes: its raw record, and about as much as all the rest."""
    raw = deal.raw
    return _ROW_BYTES + (len(raw) if raw.isascii() else len(raw.encode()))


def pieces(write: LinkWrite, *, max_rows: int, max_bytes: int) -> tuple[LinkWrite, ...]:
    """Cut a write into parts of at most so many deals or removals and bytes each, in order."""
    size_bytes = sum(map(size_of, write.deals))
    if len(write.deals) + len(write.removals) <= max_rows and size_bytes <= max_bytes:
        return (write,)
    deals = [
        replace(write, deals=part, removals=())
        for part in _parts(write.deals, max_rows=max_rows, max_bytes=max_bytes)
    ]
    removals = [
        replace(write, deals=(), removals=write.removals[at : at + max_rows])
        for at in range(0, len(write.removals), max_rows)
    ]
    return (*deals, *removals)


def _parts(deals: Sequence[Deal], *, max_rows: int, max_bytes: int) -> Iterator[tuple[Deal, ...]]:
    """Part deals in their order; one that alone is too large is a part of its own."""
    part: list[Deal] = []
    part_bytes = 0
    for deal in deals:
        size_bytes = size_of(deal)
        if part and (len(part) == max_rows or part_bytes + size_bytes > max_bytes):
            yield tuple(part)
            part, part_bytes = [], 0
        part.append(deal)
        part_bytes += size_bytes
    if part:
        yield tuple(part)


def _problem(deal: Deal) -> _Problem | None:
    if deal.time.tzinfo is None:
        return _Problem(BadReason.MALFORMED, "time has no zone")
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
            return _Problem(problem.reason, f"{name} {problem.text}")
    if not deal.deal_id:
        return _Problem(BadReason.NO_ID, "deal_id is empty")
    numbers = (
        ("volume", deal.volume),
        ("price", deal.price),
        ("profit", deal.profit),
        ("commission", deal.commission),
        ("swap", deal.swap),
    )
    for name, number in numbers:
        if number is not None and (wrong := _number_problem(number)):
            return _Problem(BadReason.NUMBER, f"{name} {wrong}")
    return None


def _text_problem(text: str, limit: int) -> _Problem | None:
    if len(text) > limit:
        return _too_long(limit)
    if "\0" in text:
        return _Problem(BadReason.TEXT, "contains NUL")
    if not text.isascii():
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            return _Problem(BadReason.TEXT, "contains half of a character")  # a lone surrogate
        if size > limit:
            return _too_long(limit)
    return None


def _too_long(limit: int) -> _Problem:
    return _Problem(BadReason.SIZE, f"is longer than {limit}")


def _number_problem(number: Decimal) -> str | None:
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int):
        return "is not a number"
    if abs(number) >= _TOO_LARGE:
        return "is too large"
    if exponent < -DECIMAL_PLACES and number != round(number, DECIMAL_PLACES):
        return f"has more than {DECIMAL_PLACES} decimals"
    return None
