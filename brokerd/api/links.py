"""The links over HTTP: put, get, page, delete."""

import re
from dataclasses import dataclass, field
from http import HTTPStatus

import msgspec
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import InternalServerException
from litestar.params import FromPath

from brokerd.api.bodies import LinkBody
from brokerd.api.cursor import read_link_cursor
from brokerd.api.hints import Hints
from brokerd.api.ports import Registry
from brokerd.api.query import Query
from brokerd.api.replica import Reads
from brokerd.api.snapshots import Snapshot, Snapshots, aged
from brokerd.api.validation import Invalid, Limits, Unreadable, Violation, check_id, read_spec
from brokerd.api.views import etag, link_body, links_page
from brokerd.clock import Clock
from brokerd.domain import LinkId, UserId
from brokerd.errors import NotFound
from brokerd.health.calendar import Calendar

ApiRequest = Request[None, None, State]

_ENTITY_TAG = re.compile(r'"([0-9]{1,18})"')
_PAGE_PARAMETERS = ("user", "limit", "after")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRoutes:
    """The handlers of /v1/links; `tokens` are the names a spec may use.

    `can_create`: there are keys to seal the passwords of new accounts with.
    """

    registry: Registry
    pages: Reads[Registry]
    snapshots: Snapshots
    hints: Hints
    clock: Clock
    calendar: Calendar
    tokens: frozenset[str] = field(repr=False)
    can_create: bool

    async def put(self, link_id: FromPath[str], request: ApiRequest) -> Response[bytes]:
        """Create or replace a spec; an identical one changes nothing."""
        known = _link_id(link_id, request)
        if_match, must_be_new = _preconditions(request)
        limits = Limits(tokens=self.tokens, now=self.clock.now(), can_create=self.can_create)
        spec = read_spec(await read_body(request), limits=limits)
        result = await self.registry.put(known, spec, if_match=if_match, must_be_new=must_be_new)
        if result.is_changed:
            await self.snapshots.forget(known)
            await self.hints.publish()
        status = HTTPStatus.CREATED if result.is_new else HTTPStatus.OK
        return _answer(link_body(result.record, calendar=self.calendar), status=status)

    async def get(self, link_id: FromPath[str], request: ApiRequest) -> Response[bytes]:
        """Show what is wanted and what is."""
        known = _link_id(link_id, request)
        kept = await self.snapshots.read(known)
        if kept is not None:
            return _answer(aged(kept, self.clock.now()))
        began_at = self.clock.monotonic()
        record = await self.registry.get(known)
        if record is None:
            raise _no_link(known)
        snapshot = Snapshot(
            read_at=self.clock.now(), body=link_body(record, calendar=self.calendar)
        )
        age_seconds = self.clock.monotonic() - began_at
        await self.snapshots.keep(known, snapshot, age_seconds=age_seconds)
        return _answer(snapshot.body)

    async def page(self, request: ApiRequest) -> Response[bytes]:
        """Show links in the order of their ids."""
        query = Query(request.scope["query_string"], known=_PAGE_PARAMETERS)
        user_id, after, limit = query.id("user"), query.text("after"), query.limit()
        query.check()
        behind = None if after is None else read_link_cursor(after)
        answered = await self.pages.read(
            lambda registry: registry.page(
                user_id=None if user_id is None else UserId(user_id), after=behind, limit=limit
            )
        )
        page = links_page(answered.value, limit=limit, calendar=self.calendar)
        headers = {**answered.headers, **next_link(query, "/v1/links", page.next)}
        return json_answer(page, headers=headers)

    async def delete(self, link_id: FromPath[str], request: ApiRequest) -> Response[bytes]:
        """Ask a link to end; GET shows it until its owner has drained it."""
        check_id(link_id, path="/v1/links/{id}")
        query = Query(request.scope["query_string"], known=("removeRemote",))
        removes_remote = query.choice("removeRemote", ("true", "false")) == "true"
        query.check()
        known = LinkId(link_id)
        if not await self.registry.delete(known, removes_remote=removes_remote):
            raise _no_link(known)
        await self.snapshots.forget(known)
        await self.hints.publish()
        return Response(b"", status_code=HTTPStatus.ACCEPTED)


def json_answer(
    body: msgspec.Struct, *, headers: dict[str, str], status: int = HTTPStatus.OK
) -> Response[bytes]:
    """Answer with JSON that nobody on the way may keep."""
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type="application/json",
        headers={"Cache-Control": "no-store", **headers},
    )


def next_link(query: Query, path: str, after: str | None) -> dict[str, str]:
    """Return the Link header that names the following page, if there is one."""
    return {} if after is None else {"Link": f'<{query.next_url(path, after)}>; rel="next"'}


def _answer(body: LinkBody, *, status: int = HTTPStatus.OK) -> Response[bytes]:
    return json_answer(body, status=status, headers={"ETag": etag(body.metadata.generation)})


def _link_id(value: str, request: ApiRequest) -> LinkId:
    check_id(value, path="/v1/links/{id}")
    Query(request.scope["query_string"], known=()).check()
    return LinkId(value)


def _no_link(link_id: LinkId) -> NotFound:
    return NotFound(f"no link {link_id} is registered")


async def read_body(request: ApiRequest) -> bytes:
    """Read the body; a client that leaves in its middle is no fault of ours."""
    try:
        return await request.body()
    except InternalServerException as error:
        raise Unreadable("it was cut off") from error


def _preconditions(request: ApiRequest) -> tuple[int | None, bool]:
    """Read If-Match and If-None-Match; only `*` makes sense in the latter."""
    if_match, none_match = (
        request.headers.get("if-match"),
        request.headers.get("if-none-match"),
    )
    if none_match not in {None, "*"}:
        raise Invalid([Violation(path="If-None-Match", message="may only be *")])
    if if_match is None:
        return None, none_match == "*"
    tag = _ENTITY_TAG.fullmatch(if_match)
    if tag is None:
        message = "must be one entity tag, as the ETag of an earlier answer"
        raise Invalid([Violation(path="If-Match", message=message)])
    return int(tag[1]), none_match == "*"
