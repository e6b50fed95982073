"""The rest of the API over HTTP: the ledger, the probes, the metrics."""

from dataclasses import dataclass
from http import HTTPStatus

from litestar import Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from brokerd.api.bodies import ReadyBody
from brokerd.api.links import ApiRequest, json_answer, next_link
from brokerd.api.ports import DealReader, TotalsReader
from brokerd.api.query import DEAL_PARAMETERS, TOTALS_PARAMETERS, Query, deal_query, totals_query
from brokerd.api.readiness import READY, Readiness
from brokerd.api.views import deals_page, totals_page


@dataclass(frozen=True, slots=True, kw_only=True)
class DealRoutes:
    """The handler of /v1/deals."""

    reader: DealReader

    async def page(self, request: ApiRequest) -> Response[bytes]:
        """Show deals of one link or one user in the order of their time."""
        query = Query(request.scope["query_string"], known=DEAL_PARAMETERS)
        wanted = deal_query(query)
        page = deals_page(await self.reader.deals(wanted), limit=wanted.limit)
        return json_answer(page, headers=next_link(query, "/v1/deals", page.next))


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalsRoutes:
    """The handler of /v1/totals."""

    reader: TotalsReader

    async def page(self, request: ApiRequest) -> Response[bytes]:
        """Sum up the deals of one link or one user by account and day."""
        query = Query(request.scope["query_string"], known=TOTALS_PARAMETERS)
        wanted = totals_query(query)
        page = totals_page(await self.reader.totals(wanted), limit=wanted.limit)
        return json_answer(page, headers=next_link(query, "/v1/totals", page.next))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRoutes:
    """The handlers that need no key."""

    readiness: Readiness
    metrics: CollectorRegistry

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
        """Show every metric of the process."""
        # as a header: Litestar appends a second charset to a media type
        headers = {"content-type": CONTENT_TYPE_LATEST}
        return Response(generate_latest(self.metrics), headers=headers)
