"""Taking a history answer apart that is not JSON as a whole, so that one record spoils only itself.

NaN, a bare NUL, half an escape, or brackets a thousand deep make a parser give up on the page.
The outline of the page can still be seen: strings and brackets. Only the innards of records are
forgiven; an answer whose brackets do not close is none.
"""

import re
from collections.abc import Sequence

from brokerd.errors import MalformedAnswer

_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{},]', re.DOTALL)
_CLOSING = {b"[": b"]", b"{": b"}"}
_BLANK = b" \t\r\n"


def records_of(body: bytes) -> tuple[Sequence[bytes], bool]:
    """Return a broken page's records and whether it says `synchronizing`.

    Raises `MalformedAnswer` when it has not the outline of a page.
    """
    page = body.strip(_BLANK)
    if page.startswith(b"["):
        return _elements(page), False
    if not page.startswith(b"{"):
        raise MalformedAnswer("not a list of deals")
    members = dict(_member(each) for each in _elements(page))
    deals = members.get(b'"deals"', b"")
    if not deals.startswith(b"["):
        raise MalformedAnswer("not a list of deals: its outline is another")
    return _elements(deals), members.get(b'"synchronizing"', b"false") != b"false"


def _elements(container: bytes) -> Sequence[bytes]:
    """Cut an array or object at its own commas."""
    elements: list[bytes] = []
    closings: list[bytes] = []
    begin = 1
    for mark in _MARKS.finditer(container):
        sign = mark[0]
        if sign in _CLOSING:
            closings.append(_CLOSING[sign])
        elif closings and sign == closings[-1]:
            closings.pop()
        elif sign in _CLOSING.values():
            break
        if not closings or (len(closings) == 1 and sign == b","):
            elements.append(container[begin : mark.start()].strip(_BLANK))
            begin = mark.end()
        if not closings:
            break
    if closings or begin != len(container):
        raise MalformedAnswer("not a list of deals: it is cut off")
    return elements if elements != [b""] else []


def _member(element: bytes) -> tuple[bytes, bytes]:
    name, _, value = element.partition(b":")
    return name.strip(_BLANK), value.strip(_BLANK)
