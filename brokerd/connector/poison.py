"""Records that cannot become deals, made safe to keep, to log and to show; pure.

What a broker's record holds is a stranger's text. It may carry what Postgres's text cannot hold
(NUL, half a character), what a terminal or a page would obey (control characters, markup), or ten
megabytes of it. So two forms are made here: `raw`, which keeps every character that can be kept
and writes the others as JSON escapes, so that it can be read again by better code; and short
printable texts for people.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b

import msgspec

from brokerd.domain import MAX_ID_LENGTH, BadReason, BadRecord, DealId

MAX_RAW_BYTES = 65_536
"""Of a record as received; a real deal has some 600."""

_MAX_SHOWN = 300
_CUT = "…"
_LOST = "\N{REPLACEMENT CHARACTER}"


def bad_record(record: bytes, *, reason: BadReason, problem: str) -> BadRecord:
    """Make the value that is kept of a record; as much of it is read as can be."""
    raw, is_cut = _storable(record)
    return BadRecord(
        digest=digest_of(record),
        reason=reason,
        problem=shown(problem),
        deal_id=_deal_id(record),
        time=_time(record),
        raw=raw,
        raw_bytes=len(record),
        is_cut=is_cut,
    )


def digest_of(content: bytes) -> str:
    """Return what tells one record from another."""
    return blake2b(content, digest_size=16).hexdigest()


def shown(text: str, *, limit: int = _MAX_SHOWN) -> str:
    """Return the text on one printable ASCII line of bounded length, for logs and people."""
    short = text[:limit].encode("ascii", "backslashreplace").decode()
    printable = "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in short)
    return printable if len(printable) <= limit and len(text) <= limit else printable[:limit] + _CUT


def reason_of(record: bytes, problem: str) -> BadReason:
    """Say what kind of failure a record that could not be read is."""
    if len(record) > MAX_RAW_BYTES:
        return BadReason.SIZE
    if b"\0" in record or not _is_utf8(record):
        return BadReason.TEXT
    if name_of(record) is None:
        return BadReason.NO_ID
    return BadReason.NUMBER if "amount" in problem else BadReason.MALFORMED


def name_of(record: bytes) -> str | int | None:
    """Return the id that a record gives itself."""
    name = _fields(record).get("id")
    if not isinstance(name, str | int) or isinstance(name, bool) or _LOST in str(name):
        return None
    return name


def _deal_id(record: bytes) -> DealId | None:
    """Return the id the deal would have, as far as it can be told."""
    name = name_of(record)
    ticket = "" if name is None else str(name)
    if not ticket.isprintable() or not 0 < len(ticket) <= MAX_ID_LENGTH:
        return None
    fields = _fields(record)
    entry = fields.get("entryType")
    if fields.get("platform") != "mt4" or not isinstance(entry, str):
        return DealId(ticket)
    suffix = entry.removeprefix("DEAL_ENTRY_")
    return DealId(f"{ticket}:{suffix}") if suffix.isalnum() and suffix.isascii() else None


def _time(record: bytes) -> datetime | None:
    text = _fields(record).get("time")
    if not isinstance(text, str):
        return None
    try:
        time = msgspec.convert(text, datetime)
        return None if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _fields(record: bytes) -> Mapping[str, object]:
    """Return as much of a record as can be read, more forgiving than JSON is."""
    value: object
    try:
        value = msgspec.json.decode(record)
    except (ValueError, RecursionError):
        try:  # this one takes NaN, half characters and controls
            value = json.loads(record.decode("utf-8", "replace"), strict=False)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _storable(record: bytes) -> tuple[str, bool]:
    """Return the record as text that Postgres takes, and whether it had to be cut.

    Bytes that are no UTF-8 and NUL become escapes. The cut is made before and after: escapes
    are longer than what they stand for.
    """
    text = record[:MAX_RAW_BYTES].decode("utf-8", "backslashreplace").replace("\0", "\\u0000")
    encoded = text.encode()
    is_cut = len(record) > MAX_RAW_BYTES or len(encoded) > MAX_RAW_BYTES
    return encoded[:MAX_RAW_BYTES].decode("utf-8", "ignore"), is_cut


def _is_utf8(record: bytes) -> bool:
    try:
        record.decode()
    except UnicodeDecodeError:
        return False
    return True
