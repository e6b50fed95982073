"""How far a link's ledger is complete, as its session knows it, and where its pulls begin."""

from datetime import UTC, datetime, timedelta

from brokerd.connector.ports import LinkPorts
from brokerd.connector.pull import Pulled
from brokerd.domain import Claim
from brokerd.errors import LedgerRewound

BEGINNING = datetime(1971, 1, 1, tzinfo=UTC)
"""Where a whole history starts; no MetaTrader record is older."""


class Coverage:
    """A session's copy of its account's watermark; the ledger's own decides."""

    def __init__(self, claim: Claim, *, ports: LinkPorts) -> None:
        self._claim = claim
        self._settings = ports.settings
        self._ledger = ports.ledger
        self._clock = ports.clock
        self.watermark: datetime | None = None

    async def read(self) -> None:
        """Take the ledger's word for it."""
        self.watermark = await self._ledger.watermark(self._claim.fence.account_id)

    @property
    def stream_start(self) -> datetime:
        """Return from when on the stream shall replay: what is older, the pulls bring alone."""
        now = self._clock.now()
        oldest = now - timedelta(seconds=self._settings.rolling_overlap_seconds)
        return now if self.watermark is None else max(self.watermark, oldest)

    def since(self, overlap_seconds: float) -> datetime:
        """Return where a pull starts: the watermark less an overlap, or the history's beginning."""
        beginning = self._claim.spec.sync_from or BEGINNING
        if self.watermark is None:
            return beginning
        return max(beginning, self.watermark - timedelta(seconds=overlap_seconds))

    async def close(self, pulled: Pulled) -> bool:
        """Close the part of a span that was open, if there is one; say whether there was.

        Raises `LedgerRewound` when the ledger lost what it had: `since` then says from where on it
        must be pulled again.
        """
        if self.watermark is not None and self.watermark >= pulled.through:
            return False
        try:
            await self._ledger.close_window(
                self._claim.fence,
                start=self.watermark or pulled.start,
                end=pulled.through,
                is_continuation=self.watermark is not None,
            )
        except LedgerRewound:
            await self.read()
            raise
        self.watermark = pulled.through
        return True
