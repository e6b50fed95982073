"""The control API as one ASGI application."""

from dataclasses import dataclass

import msgspec
import structlog
from litestar import Litestar, Response, delete, get, post, put
from litestar.exceptions import MethodNotAllowedException
from litestar.types import ASGIApp

from brokerd.api.auth import KeyGuard
from brokerd.api.bodies import ProblemBody, ViolationBody
from brokerd.api.budgets import BudgetRoutes
from brokerd.api.credentials import CredentialRoutes
from brokerd.api.events import EventRoutes
from brokerd.api.explain import ExplainRoutes
from brokerd.api.links import ApiRequest, LinkRoutes
from brokerd.api.observed import Observed, request_id_here
from brokerd.api.openapi import openapi_document
from brokerd.api.operations import OperationRoutes
from brokerd.api.problems import UNFORESEEN, Problem, problem_of
from brokerd.api.quarantine import QuarantineRoutes
from brokerd.api.reads import DealRoutes, ProbeRoutes, TotalsRoutes
from brokerd.config.settings import Secret
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

MAX_BODY_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The handlers of all addresses."""

    links: LinkRoutes
    explain: ExplainRoutes
    deals: DealRoutes
    totals: TotalsRoutes
    events: EventRoutes
    quarantine: QuarantineRoutes
    operations: OperationRoutes
    credentials: CredentialRoutes
    budgets: BudgetRoutes
    probes: ProbeRoutes


def create_app(routes: Routes, *, key: Secret, metrics: Metrics) -> ASGIApp:
    """Build the application; it starts and stops nothing."""
    guards = [KeyGuard(key)]
    links, deals, probes = routes.links, routes.deals, routes.probes
    link = "/v1/links/{link_id:str}"
    app = Litestar(
        route_handlers=[
            put(link, guards=guards, name="put_link")(links.put),
            get(link, guards=guards, name="get_link")(links.get),
            delete(link, guards=guards, name="delete_link", status_code=202)(links.delete),
            post(link, guards=guards, name="ask_of_link", status_code=202)(routes.operations.ask),
            get("/v1/operations/{operation_id:str}", guards=guards, name="get_operation")(
                routes.operations.read
            ),
            put(f"{link}/credentials", guards=guards, name="put_credentials")(
                routes.credentials.put
            ),
            get("/v1/links", guards=guards, name="list_links")(links.page),
            get(f"{link}/explain", guards=guards, name="explain_link")(routes.explain.explain),
            get("/v1/budgets", guards=guards, name="show_budgets")(routes.budgets.show),
            get("/v1/deals", guards=guards, name="list_deals")(deals.page),
            get("/v1/totals", guards=guards, name="list_totals")(routes.totals.page),
            get("/v1/events", guards=guards, name="list_events")(routes.events.events),
            get(f"{link}/quarantine", guards=guards, name="list_quarantine")(
                routes.quarantine.page
            ),
            post(
                f"{link}/quarantine/{{act:str}}",
                guards=guards,
                name="act_on_quarantined",
                status_code=200,
            )(routes.quarantine.act),
            get("/livez", name="livez")(probes.live),
            get("/readyz", name="readyz")(probes.ready),
            get("/metrics", name="metrics")(probes.scrape),
            get("/openapi.json", name="openapi")(_openapi),
        ],
        exception_handlers={Exception: _failed},
        openapi_config=None,
        logging_config=None,
        request_max_body_size=MAX_BODY_BYTES,
    )
    return Observed(app, metrics=metrics)


async def _openapi() -> Response[bytes]:
    """Show what this API offers."""
    return Response(openapi_document(), media_type="application/json")


def _failed(request: ApiRequest, error: Exception) -> Response[bytes]:
    """Answer with a problem; what nobody foresaw is logged, and not told."""
    problem = problem_of(error)
    if problem is None:
        log.error("api.failed", route=request.url.path, exc_info=error)
        problem = UNFORESEEN
    allowed = error.headers if isinstance(error, MethodNotAllowedException) else None
    return Response(
        msgspec.json.encode(_body(problem, link_id=_link_id(request))),
        status_code=problem.status,
        headers={
            "content-type": "application/problem+json",
            "Cache-Control": "no-store",
            **problem.headers,
            **(allowed or {}),
        },
    )


def _link_id(request: ApiRequest) -> str | None:
    """Return the link's id as the address has it, without what is asked of the link."""
    named = request.path_params.get("link_id")
    return None if named is None else str(named).partition(":")[0]


def _body(problem: Problem, *, link_id: str | None) -> ProblemBody:
    return ProblemBody(
        type=problem.type,
        title=problem.title,
        status=problem.status,
        request_id=request_id_here(),
        retryable=problem.is_retryable,
        reason=problem.reason,
        detail=problem.detail,
        retry_after_seconds=problem.retry_after_seconds,
        link_id=link_id,
        violations=[ViolationBody(path=v.path, message=v.message) for v in problem.violations],
    )
