"""Long work over HTTP: ask something of a link, and follow what becomes of it."""

import re
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from litestar import Response
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.params import FromPath

from brokerd.api.hints import Hints
from brokerd.api.links import ApiRequest, json_answer, read_body
from brokerd.api.operation_views import operation_body
from brokerd.api.ports import OperationRegistry, Registry
from brokerd.api.query import Query
from brokerd.api.validation import Invalid, Violation, check_id
from brokerd.domain import LinkId
from brokerd.errors import Conflict, NotFound
from brokerd.operations import Operation, OperationId, OperationKind

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_VERBS = {"audit": OperationKind.AUDIT}
_OPERATION_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_EMPTY = (b"", b"{}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRoutes:
    """The handlers of POST /v1/links/{id}:{verb} and of /v1/operations."""

    operations: OperationRegistry
    registry: Registry
    hints: Hints

    async def ask(self, link_id: FromPath[str], request: ApiRequest) -> Response[bytes]:
        """Start an operation, or answer with the one that is open already."""
        known, kind = _asked(link_id)
        Query(request.scope["query_string"], known=()).check()
        if (await read_body(request)).strip() not in _EMPTY:
            raise Invalid([Violation(path="body", message="must be empty")])
        link = await self.registry.get(known)
        if link is not None and link.is_deleted:
            raise Conflict(f"link {known} is being deleted")
        asked = None if link is None else await self.operations.ask(known, kind)
        if asked is None:
            raise NotFound(f"no link {known} is registered")
        operation = asked.operation
        if asked.is_new:
            log.info(
                "operation.asked",
                link_id=known,
                operation_id=operation.operation_id,
                kind=kind,
            )
            await self.hints.publish()
        body = operation_body(operation, link)
        status = HTTPStatus.ACCEPTED if asked.is_new else HTTPStatus.OK
        return json_answer(body, headers={"Location": _place(operation)}, status=status)

    async def read(self, operation_id: FromPath[str], request: ApiRequest) -> Response[bytes]:
        """Show how far an operation is, and what came of it."""
        Query(request.scope["query_string"], known=()).check()
        if not _OPERATION_ID.fullmatch(operation_id):
            message = f"must match {_OPERATION_ID.pattern}"
            raise Invalid([Violation(path="/v1/operations/{id}", message=message)])
        operation = await self.operations.read(OperationId(operation_id))
        if operation is None:
            raise NotFound(f"there is no operation {operation_id}")
        is_open = operation.finished_at is None
        link = await self.registry.get(operation.link_id) if is_open else None
        return json_answer(operation_body(operation, link), headers={})


def _asked(text: str) -> tuple[LinkId, OperationKind]:
    """Part a link's id from what is asked of it; ids hold no colon."""
    link_id, colon, verb = text.rpartition(":")
    if not colon:
        raise MethodNotAllowedException(headers={"Allow": "DELETE, GET, HEAD, PUT"})
    if verb not in _VERBS:
        raise NotFoundException
    check_id(link_id, path="/v1/links/{id}")
    return LinkId(link_id), _VERBS[verb]


def _place(operation: Operation) -> str:
    return f"/v1/operations/{operation.operation_id}"
