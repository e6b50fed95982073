"""The connector's way to the quarantine: patient with Postgres, heard in metrics and in the log."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import structlog

from brokerd.connector.poison import shown
from brokerd.domain import AccountId, BadRecord, Fence, LinkId, OpenRecord, Source
from brokerd.ledger.ports import QuarantineStore
from brokerd.telemetry import Metrics

_T = TypeVar("_T")

log = structlog.get_logger(__name__)


class Insist(Protocol):
    """Repeats a call until Postgres takes it."""

    async def __call__(self, op: str, call: Callable[[], Awaitable[_T]]) -> _T:
        """Return what the call returned in the end."""


class QuarantineDesk:
    """The connector's `Quarantine`."""

    def __init__(self, store: QuarantineStore, *, insist: Insist, metrics: Metrics) -> None:
        self._store = store
        self._insist = insist
        self._metrics = metrics

    async def keep(
        self, fence: Fence, records: Sequence[BadRecord], *, link_id: LinkId, source: Source
    ) -> None:
        """Keep the records; the same one again is noted as seen once more."""
        distinct = {record.digest: record for record in records}
        fresh = await self._insist(
            "quarantine",
            lambda: self._store.keep(fence, tuple(distinct.values()), source=source),
        )
        for digest in fresh:
            record = distinct[digest]
            self._metrics.deals_quarantined.labels(reason=record.reason).inc()
            log.warning(
                "ledger.deal_quarantined",
                link_id=link_id,
                deal_id=None if record.deal_id is None else shown(record.deal_id),
                reason=record.reason,
                problem=record.problem,
                raw_bytes=record.raw_bytes,
            )

    async def open_records(self, account_id: AccountId) -> Sequence[OpenRecord]:
        """Return the records of an account that are still open."""
        return await self._insist("quarantine", lambda: self._store.open_records(account_id))

    async def close(self, fence: Fence, quarantine_ids: Sequence[int]) -> None:
        """Note that what these records say is in the ledger now."""
        await self._insist("quarantine", lambda: self._store.close(fence, quarantine_ids))
