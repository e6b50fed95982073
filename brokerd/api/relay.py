"""Lets other nodes' feeds know that this node told something, so that theirs need not poll.

Only that something was told is published, never what: whoever hears it looks in Postgres. A hint
may be lost, doubled or late, and costs or saves one look; the poll finds everything anyway. However
much is committed, a node publishes once in a while at most, the first time at once.
"""

import asyncio
from collections.abc import Callable

from brokerd.store.redis import BestEffort

PAUSE_SECONDS = 0.05
"""Between two hints of a node: events in between wait that much longer, and 20 a second is all
that a hundred busy nodes need to hear from it."""


class FeedRelay:
    """The hints about the feed that go out and come in; a service. `sender` is this process."""

    name = "feed.relay"

    def __init__(
        self, effort: BestEffort, *, wake: Callable[[], None], namespace: str, sender: bytes
    ) -> None:
        self._effort = effort
        self._wake = wake
        self._channel = f"brokerd:{namespace}:told"
        self._sender = sender
        self._told = asyncio.Event()

    def tell(self) -> None:
        """Wake our own feed now and the others' soon: something was told."""
        self._wake()
        self._told.set()

    async def run(self) -> None:
        """Publish and listen; returns only when cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish(), name="feed.relay:publish")
            listening = self._effort.listen(self._channel, self._hear)
            group.create_task(listening, name="feed.relay:listen")

    async def _publish(self) -> None:
        while True:
            await self._told.wait()
            self._told.clear()
            await self._effort.call(lambda client: client.publish(self._channel, self._sender))
            await asyncio.sleep(PAUSE_SECONDS)

    def _hear(self, word: bytes) -> None:
        """Wake our feed for the word of another, and for words that may have been missed."""
        if word != self._sender:
            self._wake()
