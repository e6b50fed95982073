"""What the query strings of the API mean; every violation at once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlencode

import msgspec

from brokerd.api.bodies import MAX_PAGE, Moment
from brokerd.api.cursor import read_deal_cursor, read_event_cursor, read_totals_cursor
from brokerd.api.ports import DealQuery, TotalsQuery
from brokerd.api.validation import Invalid, Violation, check_id
from brokerd.domain import LinkId, UserId
from brokerd.ledger.feed import BEGINNING, EventType, FeedCursor, FeedFilter

DEFAULT_PAGE = 100
DEFAULT_DAYS = 14
"""Of a page of totals: each of its days reads all the deals of that day."""
PAGE_DEALS = 10_000
"""Of a page of totals: what it may sum up before it ends with the day; some 30 ms of Postgres."""
_MAX_TEXT = 512
_MAX_PARAMETERS = 32


class Query:
    """The parameters of one request, each of which may be given once.

    Reading a bad one notes a violation and returns None; `check` raises all of them.
    """

    def __init__(self, query_string: bytes, *, known: Collection[str]) -> None:
        items = _items(query_string)
        self._values: Mapping[str, str] = dict(items)
        self._violations: list[Violation] = []
        for name in sorted({name for name, _ in items}):
            if name not in known:
                self._note(name, f"is not known; known are {', '.join(sorted(known))}")
        if len(items) > len(self._values):
            self._note("", "holds a parameter twice")

    def check(self) -> None:
        """Raise `Invalid` with all that was noted."""
        if self._violations:
            raise Invalid(self._violations)

    def text(self, name: str) -> str | None:
        """Read printable text."""
        value = self._values.get(name)
        if value is None or (0 < len(value) <= _MAX_TEXT and value.isprintable()):
            return value
        self._note(name, f"must be 1 to {_MAX_TEXT} printable characters")
        return None

    def id(self, name: str) -> str | None:
        """Read the id of a link or a user."""
        value = self._values.get(name)
        if value is not None:
            try:
                check_id(value, path=f"?{name}")
            except Invalid as error:
                self._violations += error.violations
        return value

    def choice(self, name: str, words: Sequence[str]) -> str | None:
        """Read one of a few words."""
        value = self._values.get(name)
        if value is None or value in words:
            return value
        self._note(name, f"must be one of {', '.join(words)}")
        return None

    def choices(self, name: str, words: Sequence[str]) -> Sequence[str]:
        """Read some of a few words, parted by commas; none when the parameter is absent."""
        value = self._values.get(name)
        chosen = [] if value is None else value.split(",")
        if all(each in words for each in chosen):
            return chosen
        self._note(name, f"must be some of {', '.join(words)}, parted by commas")
        return []

    def number(self, name: str, *, most: int) -> int:
        """Read a whole number from 0; 0 when the parameter is absent."""
        value = self._values.get(name, "0")
        is_number = value.isascii() and value.isdigit() and len(value) <= len(str(most))
        if is_number and int(value) <= most:
            return int(value)
        self._note(name, f"must be a number from 0 to {most}")
        return 0

    def moment(self, name: str) -> datetime | None:
        """Read an RFC 3339 time with its zone."""
        value = self._values.get(name)
        if value is None:
            return None
        try:
            return msgspec.convert(value, Moment).astimezone(UTC)
        except (msgspec.ValidationError, OverflowError):
            self._note(name, "must be an RFC 3339 time with a zone; write + as %2B")
            return None

    def limit(self, *, default: int = DEFAULT_PAGE) -> int:
        """Read how many items a page may hold."""
        value = self._values.get("limit")
        if value is None:
            return default
        is_number = value.isascii() and value.isdigit() and len(value) <= len(str(MAX_PAGE))
        if is_number and 1 <= int(value) <= MAX_PAGE:
            return int(value)
        self._note("limit", f"must be a number from 1 to {MAX_PAGE}")
        return default

    def demand_one(self, *names: str) -> None:
        """Note a violation unless exactly one of the parameters is given."""
        if sum(name in self._values for name in names) != 1:
            self._note("", f"needs exactly one of {', '.join(names)}")

    def next_url(self, path: str, after: str) -> str:
        """Return the address of the page that follows."""
        return f"{path}?{urlencode({**self._values, 'after': after})}"

    def _note(self, name: str, message: str) -> None:
        self._violations.append(Violation(path=f"?{name}", message=message))


def _items(query_string: bytes) -> Sequence[tuple[str, str]]:
    text = query_string.decode("latin-1")
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        message = f"holds more than {_MAX_PARAMETERS} parameters"
        raise Invalid([Violation(path="?", message=message)]) from None


DEAL_PARAMETERS = ("link", "user", "symbol", "kind", "from", "to", "order", "limit", "after")


def deal_query(query: Query) -> DealQuery:
    """Read which deals are asked for; raises `Invalid` or `BadCursor`."""
    query.demand_one("link", "user")
    link_id, user_id = query.id("link"), query.id("user")
    symbol, kind = query.text("symbol"), query.choice("kind", ("trade", "cash"))
    start, end = query.moment("from"), query.moment("to")
    order = query.choice("order", ("newest", "oldest"))
    limit, after = query.limit(), query.text("after")
    query.check()
    return DealQuery(
        link_id=None if link_id is None else LinkId(link_id),
        user_id=None if user_id is None else UserId(user_id),
        symbol=symbol,
        kind=kind,
        start=start,
        end=end,
        is_newest_first=order != "oldest",
        limit=limit,
        after=None if after is None else read_deal_cursor(after),
    )


TOTALS_PARAMETERS = ("link", "user", "from", "to", "limit", "after")


def totals_query(query: Query) -> TotalsQuery:
    """Read whose totals are asked for; raises `Invalid` or `BadCursor`."""
    query.demand_one("link", "user")
    link_id, user_id = query.id("link"), query.id("user")
    start, end = query.moment("from"), query.moment("to")
    limit, after = query.limit(default=DEFAULT_DAYS), query.text("after")
    query.check()
    return TotalsQuery(
        link_id=None if link_id is None else LinkId(link_id),
        user_id=None if user_id is None else UserId(user_id),
        start=start,
        end=end,
        limit=limit,
        max_deals=PAGE_DEALS,
        after=None if after is None else read_totals_cursor(after),
    )


EVENT_PARAMETERS = ("link", "user", "type", "after", "limit", "wait")
LATEST = "latest"
"""The `after` that stands for the end of the feed."""

MAX_WAIT_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """Which events are asked for, behind what (None is the end), and how long to wait for one."""

    wanted: FeedFilter
    after: FeedCursor | None
    limit: int
    wait_seconds: int


def event_query(query: Query, *, last_event_id: str | None) -> EventQuery:
    """Read which events are asked for; raises `Invalid` or `BadCursor`.

    A client that comes back says where it was by `Last-Event-ID`, which outdoes its old `after`.
    """
    link_id, user_id = query.id("link"), query.id("user")
    types = query.choices("type", tuple(EventType))
    after, limit = query.text("after"), query.limit()
    wait_seconds = query.number("wait", most=MAX_WAIT_SECONDS)
    query.check()
    place = after if last_event_id is None else last_event_id
    behind = BEGINNING if place is None else None
    if place is not None and place != LATEST:
        behind = read_event_cursor(place)
    wanted = FeedFilter(
        link_id=None if link_id is None else LinkId(link_id),
        user_id=None if user_id is None else UserId(user_id),
        types=frozenset(EventType(each) for each in types),
    )
    return EventQuery(wanted=wanted, after=behind, limit=limit, wait_seconds=wait_seconds)
