"""The rest of the API over HTTP: the ledger, the probes, the metrics."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from litestar import Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from brokerd.api.bodies import ReadyBody
from brokerd.api.links import ApiRequest, json_answer, next_link
from brokerd.api.ports import DealReader, TotalsReader
from brokerd.api.query import DEAL_PARAMETERS, TOTALS_PARAMETERS, Query, deal_query, totals_query
from brokerd.api.readiness import READY, Readiness
from brokerd.api.replica import Reads
from brokerd.api.views import deals_page, totals_page

SAMPLE_SECONDS = 2.0
"""What one source of metrics may hold up a scrape; Prometheus gives up after ten."""


class Sampled(Protocol):
    """A source of metrics that lies outside the process."""

    async def refresh(self) -> None:
        """Bring its metrics up to date if it answers; raises nothing when it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DealRoutes:
    """The handler of /v1/deals."""

    reads: Reads[DealReader]

    async def page(self, request: ApiRequest) -> Response[bytes]:
        """Show deals of one link or one user in the order of their time."""
        query = Query(request.scope["query_string"], known=DEAL_PARAMETERS)
        wanted = deal_query(query)
        answered = await self.reads.read(lambda reader: reader.deals(wanted))
        page = deals_page(answered.value, limit=wanted.limit)
        headers = {**answered.headers, **next_link(query, "/v1/deals", page.next)}
        return json_answer(page, headers=headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalsRoutes:
    """The handler of /v1/totals."""

    reads: Reads[TotalsReader]

    async def page(self, request: ApiRequest) -> Response[bytes]:
        """Sum up the deals of one link or one user by account and day."""
        query = Query(request.scope["query_string"], known=TOTALS_PARAMETERS)
        wanted = totals_query(query)
        answered = await self.reads.read(lambda reader: reader.totals(wanted))
        page = totals_page(answered.value, wanted=wanted)
        headers = {**answered.headers, **next_link(query, "/v1/totals", page.next)}
        return json_answer(page, headers=headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRoutes:
    """The handlers that need no key; `sampled` is asked for its metrics when they are scraped."""

    readiness: Readiness
    metrics: CollectorRegistry
    sampled: Sequence[Sampled] = ()

    async def live(self) -> Response[bytes]:
        """Say that the event loop turns; depends on nothing else."""
        return json_answer(ReadyBody(ready=True, stage="alive"), headers={})

    async def ready(self) -> Response[bytes]:
        """Say whether the first plan was made and the store answers."""
        stage = await self.readiness.stage()
        is_ready = stage == READY
        status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        headers = {} if is_ready else {"Retry-After": "1"}
        return json_answer(ReadyBody(ready=is_ready, stage=stage), status=status, headers=headers)

    async def scrape(self) -> Response[bytes]:
        """Show every metric of the process, whatever becomes of those that must be asked for."""
        for each in self.sampled:
            with suppress(TimeoutError):
                async with asyncio.timeout(SAMPLE_SECONDS):
                    await each.refresh()
        # as a header: Litestar appends a second charset to a media type
        headers = {"content-type": CONTENT_TYPE_LATEST}
        return Response(generate_latest(self.metrics), headers=headers)
