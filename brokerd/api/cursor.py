"""The opaque `after` of a page: where the last one ended, readable by us alone."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import date, datetime
from typing import TypeVar

import msgspec

from brokerd.api.ports import DayTotals, StoredDeal
from brokerd.domain import AccountId, DealId, LinkId
from brokerd.ledger.feed import FeedCursor

DealKey = tuple[datetime, DealId, AccountId]
TotalsKey = tuple[AccountId, date]


class BadCursor(Exception):
    """The cursor is not one that we gave."""


def link_cursor(link_id: LinkId) -> str:
    """Return the cursor behind a link."""
    return _pack(("l", link_id))


def deal_cursor(stored: StoredDeal) -> str:
    """Return the cursor behind a deal."""
    return _pack(("d", stored.deal.time, stored.deal.deal_id, stored.account_id))


def totals_cursor(totals: DayTotals) -> str:
    """Return the cursor behind a day of an account."""
    return _pack(("t", totals.account_id, totals.day))


def quarantine_cursor(quarantine_id: int) -> str:
    """Return the cursor behind a record of the quarantine."""
    return _pack(("q", quarantine_id))


def read_quarantine_cursor(cursor: str) -> int:
    """Return the record behind which to go on; raises `BadCursor`."""
    kind, quarantine_id = _unpack(cursor, tuple[str, int])
    if kind != "q" or not 0 <= quarantine_id < 1 << 63:
        raise BadCursor
    return quarantine_id


def read_link_cursor(cursor: str) -> LinkId:
    """Return the link behind which to go on; raises `BadCursor`."""
    kind, link_id = _unpack(cursor, tuple[str, str])
    if kind != "l" or not link_id.isprintable():
        raise BadCursor
    return LinkId(link_id)


def read_deal_cursor(cursor: str) -> DealKey:
    """Return the key behind which to go on; raises `BadCursor`."""
    kind, time, deal_id, account_id = _unpack(cursor, tuple[str, datetime, str, int])
    is_storable = time.tzinfo is not None and 0 <= account_id < 1 << 63 and deal_id.isprintable()
    if kind != "d" or not is_storable:
        raise BadCursor
    return time, DealId(deal_id), AccountId(account_id)


def read_totals_cursor(cursor: str) -> TotalsKey:
    """Return the key behind which to go on; raises `BadCursor`."""
    kind, account_id, day = _unpack(cursor, tuple[str, int, date])
    if kind != "t" or not 0 <= account_id < 1 << 63:
        raise BadCursor
    return AccountId(account_id), day


def event_cursor(cursor: FeedCursor) -> str:
    """Return the cursor behind an event, which is its id as well."""
    return _pack(("e", cursor.generation, cursor.xid, cursor.seq))


def read_event_cursor(cursor: str) -> FeedCursor:
    """Return the place behind which to go on; raises `BadCursor`."""
    kind, generation, xid, seq = _unpack(cursor, tuple[str, int, int, int])
    if kind != "e" or not all(0 <= part < 1 << 63 for part in (generation, xid, seq)):
        raise BadCursor
    return FeedCursor(generation, xid, seq)


def _pack(value: tuple[object, ...]) -> str:
    return urlsafe_b64encode(msgspec.json.encode(value)).decode().rstrip("=")


T = TypeVar("T")


def _unpack(cursor: str, kind: type[T]) -> T:
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=kind)
    except (ValueError, msgspec.MsgspecError) as error:
        raise BadCursor from error
