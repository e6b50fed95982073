"""Which hashes are offered, who learns a new one, and what becomes of it when things go wrong."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokerd.connector.metaapi_stream.calls import Calls
from brokerd.connector.metaapi_stream.canary import (
    LESSON_SECONDS,
    MAX_HASHES,
    PAUSE_SECONDS,
    SILENCE_SECONDS,
    Canaries,
    HashBook,
    TerminalKind,
)
from brokerd.errors import RemoteUnavailable
from brokerd.telemetry import Metrics

KIND = TerminalKind(server="Broker-Live", generation="cloud-g2", region="london")
OTHER = TerminalKind(server="Other-Live", generation="cloud-g2", region="london")


class TestHashBook:
    """What is known of one server."""

    def test_the_hash_that_helped_last_comes_first(self) -> None:
        """And the oldest one falls off."""
        book = HashBook()
        for number in range(MAX_HASHES + 3):
            assert not book.learn(str(number), offered=(), now=0.0)
        book.confirm("7")
        assert book.offer(now=0.0)[:2] == ("7", str(MAX_HASHES + 2))
        assert len(book.offer(now=0.0)) == MAX_HASHES

    def test_lessons_of_one_server_pause(self) -> None:
        """What changes faster is not worth its hash."""
        book = HashBook()
        assert book.may_learn(now=0.0)
        book.learn("a", offered=(), now=0.0)
        assert not book.may_learn(now=PAUSE_SECONDS - 1)
        assert book.may_learn(now=PAUSE_SECONDS)

    def test_a_server_that_ignores_hashes_is_given_up_for_hours(self) -> None:
        """Twice it sent what it had been shown the hash of."""
        book = HashBook()
        book.learn("a", offered=(), now=0.0)
        assert not book.learn("a", offered=("a",), now=30.0)
        assert book.learn("a", offered=("a",), now=60.0)
        assert not book.may_learn(now=60.0 + SILENCE_SECONDS - 1)
        assert book.offer(now=60.0) == ()
        assert book.may_learn(now=60.0 + SILENCE_SECONDS)

    def test_a_server_that_helps_now_and_then_is_not_given_up(self) -> None:
        """A hash it took, or one that was really new, counts for it."""
        book = HashBook()
        book.learn("a", offered=(), now=0.0)
        for _ in range(5):
            assert not book.learn("a", offered=("a",), now=0.0)
            book.confirm("a")
            assert not book.learn("a", offered=("a",), now=0.0)
            assert not book.learn("b", offered=("a",), now=0.0)


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        """Return what was set."""
        return self.seconds


class School:
    """Canaries over a hash that only joins symbols."""

    def __init__(self, *, min_links: int = 2) -> None:
        self.clock: Any = Clock()
        self.metrics = Metrics(CollectorRegistry())
        self.lessons: list[Sequence[str]] = []
        self.failure: Exception | None = None
        self.canaries = Canaries(
            min_links=min_links,
            hash_items=self._hash,
            calls=Calls(metrics=self.metrics),
            clock=self.clock,
            metrics=self.metrics,
        )
        for account_id in ("a", "b", "c"):
            self.canaries.add(account_id, KIND)

    async def _hash(self, items: Sequence[Any], _kind: TerminalKind) -> str:
        if self.failure is not None:
            raise self.failure
        symbols = sorted(item["symbol"] for item in items)
        self.lessons.append(symbols)
        return "+".join(symbols)

    def packet(self, account_id: str, kind: str, *, sync: str = "1", **fields: Any) -> None:
        """Show one packet."""
        self.canaries.see(
            {"type": kind, "accountId": account_id, "synchronizationId": sync, **fields}
        )

    def start(self, account_id: str, *, index: int | None = None, sync: str = "1") -> None:
        """Begin a synchronization, as the server answers what was offered."""
        self.canaries.offer(account_id)
        fields = {} if index is None else {"specificationsHashIndex": index}
        self.packet(account_id, "synchronizationStarted", sync=sync, **fields)

    def send(self, account_id: str, *symbols: str, sync: str = "1", removed: Any = ()) -> None:
        """Send specifications."""
        items = [{"symbol": symbol} for symbol in symbols]
        fields = {"specifications": items, "removedSymbols": list(removed)}
        self.packet(account_id, "specifications", sync=sync, **fields)

    async def finish(self, account_id: str, *, sync: str = "1") -> None:
        """End it, and let the canary learn."""
        self.packet(account_id, "dealSynchronizationFinished", sync=sync)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def teach(self, account_id: str, *symbols: str) -> None:
        """Run a whole synchronization with specifications."""
        self.start(account_id)
        self.send(account_id, *symbols)
        await self.finish(account_id)
        self.clock.seconds += PAUSE_SECONDS


async def test_the_first_that_is_sent_specifications_teaches_the_others() -> None:
    """In as many packets as they come; the others are not read."""
    school = School()
    school.start("a")
    school.start("b")
    assert (school.canaries.wants("a"), school.canaries.wants("b")) == (True, False)
    school.send("a", "EURUSD", "GBPUSD")
    school.send("b", "NOT READ")
    school.send("a", "XAUUSD", "EURUSD", removed=["GBPUSD", "GONE"])
    await school.finish("b")
    await school.finish("a")
    assert school.lessons == [["EURUSD", "XAUUSD"]]
    assert list(school.canaries.offer("c")) == ["EURUSD+XAUUSD"]
    assert not school.canaries.wants("a")
    told = [
        school.metrics.registry.get_sample_value(
            "brokerd_stream_synchronizations_total", {"specifications": how}
        )
        for how in ("sent", "by_hash")
    ]
    assert told == [2, 0]


async def test_a_canary_that_leaves_is_followed_by_the_next() -> None:
    """What it was sent so far teaches nothing."""
    school = School()
    school.start("a")
    school.send("a", "EURUSD")
    school.canaries.remove("a")
    await school.finish("a")
    assert school.lessons == []
    await school.teach("b", "EURUSD")
    assert list(school.canaries.offer("c")) == ["EURUSD"]


async def test_a_canary_that_begins_anew_learns_anew() -> None:
    """Its socket was lost in the middle: packets of the older synchronization do not count."""
    school = School()
    school.start("a", sync="1")
    school.send("a", "OLD", sync="1")
    school.start("a", sync="2")
    school.send("a", "OLD", sync="1")
    school.send("a", "NEW", sync="2")
    await school.finish("a", sync="2")
    assert school.lessons == [["NEW"]]


async def test_a_canary_that_stands_still_is_passed() -> None:
    """After two minutes the next one is asked."""
    school = School()
    school.start("a")
    school.start("b")
    assert not school.canaries.wants("b")
    school.clock.seconds += LESSON_SECONDS
    school.start("b")
    assert school.canaries.wants("b")


async def test_a_stale_hash_is_learnt_anew() -> None:
    """The server sends everything: the first who notices teaches, and both hashes are offered."""
    school = School()
    await school.teach("a", "EURUSD")
    school.start("b", index=0)
    assert not school.canaries.wants("b")
    await school.teach("b", "EURUSD", "NEW")
    assert list(school.canaries.offer("c")) == ["EURUSD+NEW", "EURUSD"]


async def test_a_server_that_ignores_hashes_is_offered_none() -> None:
    """All goes on as without them, and nothing is decoded any more."""
    school = School()
    with capture_logs() as logs:
        for account_id in ("a", "b", "c"):
            await school.teach(account_id, "EURUSD")
    assert [log["event"] for log in logs] == [
        "stream.hash_learnt",
        "stream.hash_learnt",
        "stream.hashes_ignored",
    ]
    assert list(school.canaries.offer("a")) == []
    school.start("a")
    assert not school.canaries.wants("a")
    school.clock.seconds += SILENCE_SECONDS
    school.start("a")
    assert school.canaries.wants("a")


async def test_few_links_are_not_worth_it() -> None:
    """Below the least number nobody learns, and nothing is offered."""
    school = School(min_links=4)
    school.start("a")
    assert not school.canaries.wants("a")
    school.canaries.add("d", OTHER)
    school.start("a")
    assert not school.canaries.wants("a")
    school.canaries.add("e", KIND)
    school.start("a")
    assert school.canaries.wants("a")


async def test_what_cannot_be_hashed_fails_safe() -> None:
    """No list of fields, no hash: specifications are sent as before, and it is tried later."""
    school = School()
    school.failure = RemoteUnavailable("no lists")
    with capture_logs() as logs:
        await school.teach("a", "EURUSD")
    assert [log["event"] for log in logs] == ["stream.hash_not_learnt"]
    assert list(school.canaries.offer("b")) == []
    school.failure = None
    await school.teach("b", "EURUSD")
    assert list(school.canaries.offer("b")) == ["EURUSD"]


async def test_the_last_link_of_a_server_takes_its_hashes_along() -> None:
    """What it was teaching meanwhile is learnt for nobody."""
    school = School(min_links=1)
    await school.teach("a", "EURUSD")
    school.start("b")
    school.send("b", "GBPUSD")
    school.packet("b", "dealSynchronizationFinished")
    for account_id in ("a", "b", "c", "unknown"):
        school.canaries.remove(account_id)
    await asyncio.sleep(0)
    school.canaries.add("a", KIND)
    assert list(school.canaries.offer("a")) == []


@pytest.mark.parametrize("index", [7, -1, "0", None])
async def test_an_index_that_was_not_offered_confirms_nothing(index: object) -> None:
    """Whatever the server answers, nothing fails."""
    school = School()
    await school.teach("a", "EURUSD")
    await school.teach("b", "GBPUSD")
    school.canaries.offer("c")
    school.packet("c", "synchronizationStarted", specificationsHashIndex=index)
    school.packet("stranger", "synchronizationStarted")
    school.packet("a", "specifications", specifications="none", removedSymbols=3)
    assert list(school.canaries.offer("c")) == ["GBPUSD", "EURUSD"]
