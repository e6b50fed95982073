"""The feed over HTTP and real sockets, behind memory."""

import asyncio
import contextlib
import json
import time

import pytest

from brokerd.api.cursor import event_cursor
from brokerd.api.server import ApiServer, bind
from brokerd.clock import SystemClock
from brokerd.config.settings import ApiSettings, Secret
from brokerd.domain import AccountId, LinkId, UserId
from brokerd.errors import StoreUnavailable
from brokerd.ledger.feed import EventType, FeedCursor
from brokerd.ledger.memory_events import Outbox
from brokerd.ledger.memory_feed import MemoryFeedReader
from brokerd.store.memory import MemoryState

KEY = "0123456789abcdef0123456789abcdef"


class Client:
    """A reader of one event stream that sees what a browser would."""

    def __init__(self, port, query="", *, last_event_id=None):
        self._port = port
        self._query = query
        self._last_event_id = last_event_id
        self.events = []
        self.last_event_id = last_event_id

    async def __aenter__(self):
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        lines = [
            f"GET /v1/events?{self._query} HTTP/1.1",
            "Host: brokerd",
            f"Authorization: Bearer {KEY}",
            "Accept: text/event-stream",
        ]
        if self._last_event_id:
            lines.append(f"Last-Event-ID: {self._last_event_id}")
        self._writer.write("\r\n".join([*lines, "", ""]).encode())
        self.status = int((await self._reader.readline()).split()[1])
        return self

    async def __aexit__(self, *_):
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def read(self, *, until=None):
        """Take frames until there are so many events, or the stream ends; then return False."""
        kind = None
        while until is None or len(self.events) < until:
            line = await self._reader.readline()
            if not line.endswith(b"\n") or line == b"0\r\n":  # cut off, or ended by the last chunk
                return False
            name, _, value = line.decode().rstrip("\r\n").partition(": ")
            match name:
                case "id":
                    self.last_event_id = value
                case "event":
                    kind = value
                case "data":
                    self.events.append((kind, json.loads(value)))
        return True


class Served:
    """A running feed behind a running server."""

    def __init__(self, state, api, feed, server):
        self.state = state
        self.client = api.client
        self.feed = feed
        self.server = server
        self.metrics = api.metrics

    def tell(self, account, *, size=10):
        """Write one event of an account, its user and its link."""
        outbox = Outbox(
            self.state,
            AccountId(account),
            link_id=LinkId(f"l-{account}"),
            user_id=UserId(f"u-{account}"),
        )
        sent = {"sent": time.monotonic(), "pad": "x" * size}
        outbox.tell(EventType.DEAL_ADDED, json.dumps(sent))
        self.feed.wake.set()

    def stream(self, query="", **keywords):
        """Open an event stream."""
        return Client(self.server.port, query, **keywords)


@pytest.fixture
def serving(new_api, new_feed):
    """Give the way to run a feed and a server."""

    @contextlib.asynccontextmanager
    async def run(**limits):
        state = MemoryState(clock=SystemClock())
        feed = new_feed(state, **limits)
        api = new_api(state, feed=feed)
        with bind(ApiSettings(key=Secret(KEY), port=0)) as listener:
            server = ApiServer(api.app, listener=listener)
            async with asyncio.TaskGroup() as group:
                following = group.create_task(feed.run())
                group.create_task(server.run())
                await until(lambda: server._server.started and feed.position.generation)
                try:
                    yield Served(state, api, feed, server)
                finally:
                    feed.stop()
                    server.stop()
                    following.cancel()
        await api.client.aclose()

    return run


async def test_pages_follow_each_other(serving):
    """Each page ends where the next begins; the last one says where to wait."""
    async with serving() as it:
        for account in (1, 2, 1):
            it.tell(account)
        first = (await it.client.get("/v1/events?limit=2")).json()
        assert [(e["type"], e["userId"], e["accountSeq"]) for e in first["items"]] == [
            ("deal.added", "u-1", 1),
            ("deal.added", "u-2", 1),
        ]
        assert first["next"] == first["items"][-1]["id"]
        second = (await it.client.get(f"/v1/events?after={first['next']}")).json()
        assert [e["accountSeq"] for e in second["items"]] == [2]
        end = (await it.client.get("/v1/events?after=latest")).json()
        assert end["items"] == []
        it.tell(2)
        third = (
            await it.client.get(f"/v1/events?after={end['next']}&wait=5&type=deal.added")
        ).json()
        assert [(e["linkId"], e["accountSeq"]) for e in third["items"]] == [("l-2", 2)]
        other = (await it.client.get("/v1/events?type=link.changed,ledger.proven")).json()
        assert other["items"] == []


@pytest.mark.parametrize(
    "query", ["type=deal.eaten", "after=nonsense", "wait=61", "limit=0", "users=u"]
)
async def test_a_wrong_query_is_refused(serving, query):
    """What is asked wrongly is never half answered."""
    async with serving() as it:
        assert (await it.client.get(f"/v1/events?{query}")).status_code == 422


async def test_a_long_poll_returns_with_the_event(serving):
    """It waits for an event of its own, not longer, and no longer than it was told."""
    async with serving() as it:
        await until(lambda: it.feed.position.generation)
        end = (await it.client.get("/v1/events?after=latest")).json()["next"]
        began = time.monotonic()
        asking = asyncio.ensure_future(
            it.client.get(f"/v1/events?user=u-2&wait=10&after={end}", timeout=20)
        )
        await asyncio.sleep(0.1)
        it.tell(1)
        it.tell(2)
        answer = (await asking).json()
        assert [e["userId"] for e in answer["items"]] == ["u-2"]
        assert 0.1 <= time.monotonic() - began < 2
        later = await it.client.get(f"/v1/events?user=u-2&wait=1&after={answer['next']}")
        assert later.json()["items"] == []
        assert 1 <= time.monotonic() - began < 4


async def test_a_stream_that_returns_misses_nothing(serving):
    """Cut off at any moment and back with Last-Event-ID: each event once, in order."""
    async with serving() as it:
        last, seen, total = None, [], 300

        async def tell():
            for number in range(total):
                it.tell(1 + number % 2)
                await asyncio.sleep(0.002)

        async with asyncio.TaskGroup() as group:
            group.create_task(tell())
            while len(seen) < total // 2:
                async with it.stream("user=u-1", last_event_id=last) as client:
                    await client.read(until=min(7, total // 2 - len(seen)))
                seen += client.events
                last = client.events[-1][1]["id"] if client.events else last
        assert [body["accountSeq"] for _, body in seen] == list(range(1, total // 2 + 1))
        assert {body["userId"] for _, body in seen} == {"u-1"}


async def test_two_hundred_subscribers_get_their_own_and_soon(serving):
    """Each of 200 streams of one user sees that user's events alone, within a second."""
    async with serving(max_streams=300) as it, contextlib.AsyncExitStack() as stack:
        await until(lambda: it.feed.position.generation)
        clients = [
            await stack.enter_async_context(it.stream(f"user=u-{n}&after=latest"))
            for n in range(200)
        ]
        await until(lambda: len(it.feed._subscribers) == 200)
        assert it.metrics.registry.get_sample_value("brokerd_sse_clients") == 200
        late = []

        async def listen(client):
            for count in range(1, 4):
                await client.read(until=count)
                late.append(time.monotonic() - client.events[-1][1]["payload"]["sent"])

        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(listen(client))
            for _ in range(3):
                for account in range(200):
                    it.tell(account)
                await asyncio.sleep(0.1)
        for number, client in enumerate(clients):
            assert {body["userId"] for _, body in client.events} == {f"u-{number}"}
        assert sorted(late)[int(len(late) * 0.99)] <= 1


@pytest.mark.parametrize("burst", [2, 20], ids=["bytes", "time"])
async def test_a_client_that_stops_reading_is_cut_and_comes_back(serving, monkeypatch, burst):
    """Past its bytes, or its time while it catches up, it is dropped; it resumes where it was."""
    monkeypatch.setattr("brokerd.api.event_stream._SLOW_SECONDS", 1.0 if burst == 20 else 60.0)
    async with serving(buffer_bytes=65_536) as it, it.stream("user=u-1") as stuck:
        async with it.stream("user=u-1") as other:
            dropped = 0
            while not dropped:
                for _ in range(burst):
                    it.tell(1, size=20_000)
                await other.read(until=len(it.state.events))
                dropped = it.metrics.registry.get_sample_value("brokerd_sse_dropped_total")
            assert len(other.events) == len(it.state.events)
        with contextlib.suppress(ConnectionError):
            await stuck.read()
        assert 0 < len(stuck.events) < len(it.state.events)
        last = stuck.events[-1][1]
        async with it.stream("user=u-1", last_event_id=last["id"]) as back:
            await back.read(until=len(it.state.events) - last["accountSeq"])
        assert back.events[0][1]["accountSeq"] == last["accountSeq"] + 1


async def test_a_burst_is_caught_up_with_by_whoever_reads(serving):
    """More at once than may wait is no reason to drop a client that reads."""
    async with serving(buffer_bytes=5_000) as it, it.stream("user=u-1") as client:
        await until(lambda: it.feed._subscribers)
        for _ in range(400):
            it.tell(1, size=200)
        await client.read(until=400)
        assert [body["accountSeq"] for _, body in client.events] == list(range(1, 401))
        assert it.metrics.registry.get_sample_value("brokerd_sse_dropped_total") == 0


async def test_a_lost_cursor_is_told_to_list_again(serving):
    """A page answers 410; a stream says so as an event and goes on from the end."""
    async with serving() as it:
        it.tell(1)
        await until(lambda: it.feed.position.generation)
        lost = event_cursor(FeedCursor(9, 9, 9))
        answer = await it.client.get(f"/v1/events?after={lost}")
        assert (answer.status_code, answer.json()["type"]) == (410, "/problems/cursor-lost")
        async with it.stream(last_event_id=lost) as client:
            await client.read(until=1)
            it.tell(1)
            await client.read(until=2)
        (kind, body), (_, event) = client.events
        assert kind == "relist"
        assert body["next"] != lost
        assert event["accountSeq"] == 2


async def test_there_are_only_so_many_streams(serving):
    """One more is refused with a reason, and may come when another left."""
    async with serving(max_streams=1) as it:
        async with it.stream() as first, it.stream() as second:
            assert (first.status, second.status) == (200, 429)
        await until(
            lambda: it.metrics.registry.get_sample_value("brokerd_sse_clients") == 0, seconds=5
        )


async def test_a_quiet_stream_is_kept_alive_and_its_place_moved(serving, monkeypatch):
    """Nothing for this client: its Last-Event-ID moves on, so that it never gets too old."""
    monkeypatch.setattr("brokerd.api.event_stream._KEEP_ALIVE_SECONDS", 0.05)
    async with serving() as it, it.stream("user=u-9&after=latest") as client:
        it.tell(1)
        await until(lambda: it.feed._subscribers)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.read()
        assert client.events == []
        assert client.last_event_id == event_cursor(it.feed.position)


async def test_open_streams_do_not_keep_the_node(serving):
    """A node that stops ends its streams in order, within a second or two."""
    async with serving() as it, it.stream() as client:
        it.tell(1)
        await client.read(until=1)
        began = time.monotonic()
        it.feed.stop()
        assert not await client.read()
    assert time.monotonic() - began < 3


async def test_a_store_that_returns_is_followed_on(serving):
    """While the store is away subscribers wait; then they get what came meanwhile."""
    async with serving() as it, it.stream("user=u-1") as client:
        it.tell(1)
        await client.read(until=1)
        reader = it.feed._reader
        it.feed._reader = Away()
        await asyncio.sleep(0.2)
        it.tell(1)
        it.feed._reader = reader
        await client.read(until=2)
        assert [body["accountSeq"] for _, body in client.events] == [1, 2]


class Away(MemoryFeedReader):
    """A store that does not answer."""

    def __init__(self):
        pass

    async def page(self, *_, **__):
        """Fail as Postgres does."""
        raise StoreUnavailable("away")


async def until(is_met, *, seconds=10):
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not is_met():  # noqa: ASYNC110  # of things that offer no event
            await asyncio.sleep(0.01)
