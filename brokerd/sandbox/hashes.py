"""The hash by which a client and MetaApi agree that both hold the same symbol specifications.

Each item is written as JSON without the fields of the ignored list, with numbers in MetaApi's own
form, and hashed with MD5; the hashes of all items are XORed, so their order does not matter. The
form of a number depends on the terminal's generation (metaapi.md 5.4, the SDK's encoder):
cloud-g2 writes whole numbers without a fraction and others with eight significant digits,
cloud-g1 writes eight significant digits too, padded to eight places after the point. Time strings
are hashed as sent, which is right as long as they are in the form that the SDK writes itself.
"""

from collections.abc import Callable, Iterable
from decimal import Context
from hashlib import md5

import msgspec

NumberText = Callable[[int | float], str]

_EIGHT_DIGITS = Context(prec=8)
_INTEGER_FIELDS = frozenset({"digits"})


def specifications_hash(
    items: Iterable[bytes], *, account_type: str, ignored: frozenset[str]
) -> str | None:
    """Hash specifications given as JSON objects the way the SDK does; None when there are none.

    `account_type` is MetaApi's (`cloud-g1` or `cloud-g2`), `ignored` the field list of that type.
    """
    number = _g1_number if account_type == "cloud-g1" else _g2_number
    hashes = [_item_hash(item, ignored=ignored, number=number) for item in items]
    if not hashes:
        return None
    total = 0
    for item_hash in hashes:
        total ^= item_hash
    return f"{total:032x}"


def _item_hash(item: bytes, *, ignored: frozenset[str], number: NumberText) -> int:
    fields = msgspec.json.decode(item, type=dict[str, object])
    kept = {name: value for name, value in fields.items() if name not in ignored}
    digest = md5(_text(kept, number=number).encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big")


def _text(value: object, *, number: NumberText) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(_member(*pair, number=number) for pair in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_text(item, number=number) for item in value) + "]"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return msgspec.json.encode(value).decode()


def _member(name: str, value: object, *, number: NumberText) -> str:
    if name in _INTEGER_FIELDS and isinstance(value, int | float):
        return f'"{name}":{int(value)}'
    return f'"{name}":{_text(value, number=number)}'


def _g1_number(value: float) -> str:
    whole, _, fraction = _eight_digits(value).partition(".")
    return f"{whole}.{fraction:0<8}"


def _g2_number(value: float) -> str:
    return str(int(value)) if int(value) == value else _eight_digits(value)


def _eight_digits(value: float) -> str:
    return format(_EIGHT_DIGITS.create_decimal(repr(value)), "f")
