"""Redis for the API: snapshots of links, and hints that wake other nodes; both may be lost."""

from collections.abc import Callable

import msgspec

from brokerd.api.snapshots import Snapshot
from brokerd.config.settings import RedisSettings
from brokerd.domain import LinkId
from brokerd.store.redis import BestEffort


class RedisSnapshots:
    """`Snapshots` in Redis. A forgotten link leaves an empty mark as long as a snapshot may live.

    A reading that began before the link was forgotten ends while the mark stands, or is too old to
    be kept; so it can never put back what was forgotten.
    """

    def __init__(self, effort: BestEffort, *, settings: RedisSettings, namespace: str) -> None:
        self._effort = effort
        self._life_ms = int(settings.snapshot_seconds * 1000)
        self._prefix = f"brokerd:{namespace}:link:"

    async def read(self, link_id: LinkId) -> Snapshot | None:
        """Return what is kept; what cannot be read is as good as gone."""
        raw = await self._effort.call(lambda client: client.get(self._key(link_id)))
        if not raw:
            return None
        try:
            return msgspec.json.decode(raw, type=Snapshot)
        except msgspec.MsgspecError as error:
            self._effort.note_failure(error)
            return None

    async def keep(self, link_id: LinkId, snapshot: Snapshot, *, age_seconds: float) -> None:
        """Keep it for what is left of its life, unless something is kept or was forgotten."""
        left_ms = self._life_ms - int(age_seconds * 1000) - 1
        if left_ms <= 0:
            return
        raw = msgspec.json.encode(snapshot)
        await self._effort.call(
            lambda client: client.set(self._key(link_id), raw, nx=True, px=left_ms)
        )

    async def forget(self, link_id: LinkId) -> None:
        """Put an empty mark in its place."""
        await self._effort.call(
            lambda client: client.set(self._key(link_id), b"", px=max(1, self._life_ms))
        )

    def _key(self, link_id: LinkId) -> str:
        return self._prefix + link_id


class RedisHints:
    """`Hints` over a channel: every node that listens wakes, this one without asking Redis."""

    name = "hints"

    def __init__(self, effort: BestEffort, *, wake: Callable[[], None], namespace: str) -> None:
        self._effort = effort
        self._wake = wake
        self._channel = f"brokerd:{namespace}:changed"

    async def publish(self) -> None:
        """Wake every node."""
        self._wake()
        await self._effort.call(lambda client: client.publish(self._channel, b""))

    async def run(self) -> None:
        """Wake this node whenever another one publishes; returns only when cancelled."""
        await self._effort.listen(self._channel, lambda _word: self._wake())
