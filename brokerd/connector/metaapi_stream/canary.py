"""Which specification hashes a client offers at a synchronization, and which link learns a new one.

Theory. MetaApi sends a terminal's symbol specifications, hundreds of kilobytes, at each
synchronization, unless the client shows by a hash that it holds them already. We hold none, and
need no more than the hash: so of the links of one broker server the first that is sent its
specifications becomes their *canary*. What it gets is collected, hashed bit by bit beside
everything else, and forgotten; the hash is offered by all links of that server from then on.
Nothing depends on the canary's life. One that leaves before it has everything is followed by the
next link that is sent specifications; a hash that became stale is learnt anew by the first link
that notices; a server's groups of accounts, which differ, teach one hash each. A server that sends
what we showed that we know does not look at hashes: after two such lessons we stop for hours.
"""

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from math import inf

import structlog

from brokerd.clock import Clock
from brokerd.connector.metaapi_stream.calls import Calls
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MAX_HASHES = 20
"""As many as the SDK offers of one server."""
LESSON_SECONDS = 120.0
"""A synchronization that takes longer teaches nothing; another link may try."""
PAUSE_SECONDS = 30.0
"""Between two lessons of one server: what changes faster is not worth its hash."""
UNHELPFUL_LESSONS = 2
SILENCE_SECONDS = 6 * 3_600.0
"""How long a server that ignored hashes is offered none."""

Item = MutableMapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalKind:
    """What the hash of an account's specifications depends on."""

    server: str
    generation: str  # MetaApi's `type`: cloud-g1, cloud-g2
    region: str


@dataclass(slots=True)
class HashBook:
    """What is known of one broker server's specifications. Times are monotonic."""

    hashes: list[str] = field(default_factory=list)  # the one that helped last comes first
    learnt_at: float = -inf
    silent_until: float = -inf
    unhelpful_lessons: int = 0

    def offer(self, *, now: float) -> Sequence[str]:
        """Return the hashes to show."""
        return tuple(self.hashes) if now >= self.silent_until else ()

    def may_learn(self, *, now: float) -> bool:
        """Say whether another lesson is worth its while."""
        return now >= self.silent_until and now - self.learnt_at >= PAUSE_SECONDS

    def confirm(self, known: str) -> None:
        """Note that the server took a hash for what it is."""
        self.unhelpful_lessons = 0
        self._put_first(known)

    def learn(self, learnt: str, *, offered: Sequence[str], now: float) -> bool:
        """Take in what a canary was sent; say whether the server is given up for a while."""
        self.learnt_at = now
        self.unhelpful_lessons = self.unhelpful_lessons + 1 if learnt in offered else 0
        self._put_first(learnt)
        if self.unhelpful_lessons < UNHELPFUL_LESSONS:
            return False
        self.silent_until = now + SILENCE_SECONDS
        self.unhelpful_lessons = 0
        self.hashes.clear()
        return True

    def _put_first(self, known: str) -> None:
        self.hashes[:] = [known, *(each for each in self.hashes if each != known)][:MAX_HASHES]


@dataclass(slots=True, kw_only=True)
class _Lesson:
    """What a canary was sent so far."""

    account_id: str
    synchronization_id: object
    kind: TerminalKind
    offered: Sequence[str]
    began_at: float
    items: dict[object, Item] = field(default_factory=dict)


class Canaries:
    """The hash books of one client, and the one lesson that is being learnt."""

    def __init__(
        self,
        *,
        min_links: int,
        hash_items: Callable[[Sequence[Item], TerminalKind], Coroutine[object, object, str]],
        calls: Calls,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._min_links = min_links
        self._hash_items = hash_items
        self._calls = calls
        self._clock = clock
        self._metrics = metrics
        self._kinds: dict[str, TerminalKind] = {}
        self._links: Counter[TerminalKind] = Counter()
        self._books: dict[TerminalKind, HashBook] = {}
        self._offered: dict[str, Sequence[str]] = {}
        self._lesson: _Lesson | None = None
        self._is_hashing = False

    def add(self, account_id: str, kind: TerminalKind) -> None:
        """Take a link in."""
        self._kinds[account_id] = kind
        self._links[kind] += 1

    def remove(self, account_id: str) -> None:
        """Forget a link; what it was teaching is lost."""
        kind = self._kinds.pop(account_id, None)
        self._offered.pop(account_id, None)
        if kind is None:
            return
        self._links[kind] -= 1
        if not self._links[kind]:
            del self._links[kind]
            self._books.pop(kind, None)
        if self._lesson is not None and self._lesson.account_id == account_id:
            self._lesson = None

    def offer(self, account_id: str) -> Sequence[str]:
        """Return the hashes that a link's next synchronization shows."""
        book = self._book(account_id)
        offered = () if book is None else book.offer(now=self._clock.monotonic())
        self._offered[account_id] = offered
        return offered

    def wants(self, account_id: object) -> bool:
        """Say whether the specifications in a link's packets are to be decoded."""
        return self._lesson is not None and self._lesson.account_id == account_id

    def see(self, packet: Mapping[str, object]) -> None:
        """Look at a packet of a link, in the order they come; never waits, never fails."""
        match packet.get("type"):
            case "synchronizationStarted":
                self._start(str(packet["accountId"]), packet)
            case "specifications" if self._is_taught_by(packet):
                self._collect(packet)
            case "dealSynchronizationFinished" if self._is_taught_by(packet):
                self._finish()

    def _start(self, account_id: str, packet: Mapping[str, object]) -> None:
        index = packet.get("specificationsHashIndex")
        offered = self._offered.get(account_id, ())
        self._metrics.synchronizations.labels(
            specifications="sent" if index is None else "by_hash"
        ).inc()
        book = self._book(account_id)
        if book is None:
            return
        if index is None:
            self._begin(account_id, packet, book)
        elif isinstance(index, int) and 0 <= index < len(offered):
            book.confirm(offered[index])

    def _begin(self, account_id: str, packet: Mapping[str, object], book: HashBook) -> None:
        now = self._clock.monotonic()
        lesson = self._lesson
        if lesson is not None and lesson.account_id != account_id:
            if now - lesson.began_at < LESSON_SECONDS:
                return
        elif self._is_hashing or not book.may_learn(now=now):
            return
        self._lesson = _Lesson(
            account_id=account_id,
            synchronization_id=packet.get("synchronizationId"),
            kind=self._kinds[account_id],
            offered=self._offered.get(account_id, ()),
            began_at=now,
        )

    def _is_taught_by(self, packet: Mapping[str, object]) -> bool:
        return (
            self._lesson is not None
            and self._lesson.account_id == packet.get("accountId")
            and self._lesson.synchronization_id == packet.get("synchronizationId")
        )

    def _collect(self, packet: Mapping[str, object]) -> None:
        assert self._lesson is not None
        specifications, removed = packet.get("specifications"), packet.get("removedSymbols")
        for item in specifications if isinstance(specifications, list) else ():
            if isinstance(item, dict):
                self._lesson.items[item.get("symbol")] = item
        for symbol in removed if isinstance(removed, list) else ():
            self._lesson.items.pop(symbol, None)

    def _finish(self) -> None:
        assert self._lesson is not None
        lesson, self._lesson = self._lesson, None
        if lesson.items:
            self._is_hashing = True
            self._calls.start(self._learn(lesson), name=f"canary:{lesson.account_id}")

    async def _learn(self, lesson: _Lesson) -> None:
        book = self._books.get(lesson.kind, HashBook())  # or its last link has left meanwhile
        try:
            learnt = await self._hash_items(list(lesson.items.values()), lesson.kind)
        except Exception as error:  # noqa: BLE001  # without a hash all goes on as before
            book.learnt_at = self._clock.monotonic()
            log.debug("stream.hash_not_learnt", server=lesson.kind.server, problem=repr(error))
            return
        finally:
            self._is_hashing = False
        server, symbols = lesson.kind.server, len(lesson.items)
        if book.learn(learnt, offered=lesson.offered, now=self._clock.monotonic()):
            log.info("stream.hashes_ignored", server=server, silent_seconds=SILENCE_SECONDS)
        else:
            log.info("stream.hash_learnt", server=server, symbols=symbols)

    def _book(self, account_id: str) -> HashBook | None:
        """Return the link's book; None for an unknown link, and below so many links."""
        kind = self._kinds.get(account_id)
        if kind is None or self._links[kind] < self._min_links:
            return None
        return self._books.setdefault(kind, HashBook())
