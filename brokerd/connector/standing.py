"""How long a session has been live without a break, and how long it was away before."""

from collections.abc import Awaitable, Callable

from brokerd.connector.ports import LinkPorts


class Standing:
    """Owns a session's live time.

    `has_stood` is set, and `on_stood` called, once it was live for `stable_seconds` without a
    break: only then are earlier failures forgiven, or a broker that flaps is hammered.
    """

    def __init__(self, *, on_stood: Callable[[], Awaitable[None]], ports: LinkPorts) -> None:
        self.was_live = False
        self.has_stood = False
        self._on_stood = on_stood
        self._stable_seconds = ports.settings.stable_seconds
        self._clock = ports.clock
        self._metrics = ports.metrics
        self._away_since: float | None = None
        self._live_since: float | None = None

    @property
    def due(self) -> float:
        """Return the monotonic time at which to look whether the session stands."""
        if self._live_since is None or self.has_stood:
            return float("inf")
        return self._live_since + self._stable_seconds

    def leave(self) -> None:
        """Note that the session is not live any more, or not yet."""
        self.has_stood |= self._seconds() >= self._stable_seconds
        self._live_since = None
        if self._away_since is None:
            self._away_since = self._clock.monotonic()

    def arrive(self) -> None:
        """Note that the session is live, the first time or again."""
        now = self._clock.monotonic()
        self._live_since = now
        if self.was_live:
            self._metrics.reconnects.inc()
        if self._away_since is not None:
            cause = "reconnect" if self.was_live else "first"
            self._metrics.time_to_live.labels(cause=cause).observe(now - self._away_since)
        self.was_live, self._away_since = True, None

    async def look(self) -> None:
        """Tell, once, that the session stands."""
        if not self.has_stood and self._seconds() >= self._stable_seconds:
            self.has_stood = True
            await self._on_stood()

    def _seconds(self) -> float:
        return 0.0 if self._live_since is None else self._clock.monotonic() - self._live_since
