"""The API described in OpenAPI 3.1, built from the very structs that read and write it.

msgspec's schemas are JSON Schema 2020-12, which is what OpenAPI 3.1 speaks; unlike those that
Litestar would generate they say that unknown fields are refused.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version

import msgspec

from brokerd.api.bodies import (
    ID_PATTERN,
    MAX_PAGE,
    BudgetsBody,
    CredentialsBody,
    CredentialVersionBody,
    DealsBody,
    DiscardBody,
    EventBody,
    EventsBody,
    ExplainBody,
    LinkBody,
    LinksBody,
    ProblemBody,
    PutBody,
    QuarantineBody,
    QuarantinedBody,
    ReadyBody,
    TotalsBody,
)
from brokerd.api.query import DEFAULT_DAYS, DEFAULT_PAGE, MAX_WAIT_SECONDS
from brokerd.api.replica import LAG_HEADER
from brokerd.domain import QuarantineState
from brokerd.ledger.feed import EventType

Json = Mapping[str, object]

_ACT: Json = {
    "name": "act",
    "in": "path",
    "required": True,
    "description": "A record and what to do: `12:replay`, or `12:discard` with a body.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}:(replay|discard)$"},
}
_SCHEMAS = "#/components/schemas/{name}"
_ID: Json = {"type": "string", "pattern": ID_PATTERN, "minLength": 1, "maxLength": 128}
_TEXT: Json = {"type": "string", "minLength": 1, "maxLength": 512}
_MOMENT: Json = {"type": "string", "format": "date-time"}
_LIMIT: Json = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_PAGE,
    "default": DEFAULT_PAGE,
}
_PROBLEMS = {
    400: "The body is not JSON.",
    401: "The API key is missing or wrong.",
    404: "There is no such link, or no such record.",
    409: "The identity is taken or would change, a record cannot be replayed, or a budget is used.",
    412: "If-Match or If-None-Match does not hold.",
    413: "The body is too large.",
    422: "The request breaks the rules listed in `violations`, or credentials are known as bad.",
    410: "Events behind the cursor are gone; list again.",
    429: "As many links wait, or streams are open, as may.",
    503: "Postgres is out of reach; try again.",
}


@cache
def openapi_document() -> bytes:
    """Return the document as JSON."""
    _, schemas = msgspec.json.schema_components(
        [
            PutBody,
            ExplainBody,
            CredentialsBody,
            CredentialVersionBody,
            BudgetsBody,
            LinkBody,
            LinksBody,
            DealsBody,
            DiscardBody,
            QuarantineBody,
            QuarantinedBody,
            EventBody,
            EventsBody,
            TotalsBody,
            ProblemBody,
            ReadyBody,
        ],
        ref_template=_SCHEMAS,
    )
    schemas["EventsBody"]["properties"]["items"]["items"] = _ref("EventBody")  # sent as encoded
    document: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "brokerd",
            "version": version("brokerd"),
            "description": "Keeps one healthy, proven MetaApi link per user.",
        },
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    return msgspec.json.encode(document)


def _paths() -> Json:
    link_id = _parameter("link_id", _ID, place="path", text="The id the client chose.")
    return {
        "/v1/links": {"get": _list_links()},
        "/v1/links/{link_id}": {
            "parameters": [link_id],
            "put": _put_link(),
            "get": _guarded(
                "get_link",
                "Show what is wanted of a link and what is.",
                answers={200: _answer("The link.", "LinkBody", headers=("ETag",))},
                problems=(401, 404, 422, 503),
            ),
            "delete": _guarded(
                "delete_link",
                "End a link; its ledger stays.",
                answers={202: {"description": "It ends; GET shows it until it is drained."}},
                problems=(401, 404, 422, 503),
                parameters=[
                    _parameter(
                        "removeRemote",
                        {"enum": ["true", "false"], "default": "false"},
                        place="query",
                        text="Remove the MetaApi account as well.",
                    )
                ],
            ),
        },
        "/v1/links/{link_id}/explain": {
            "parameters": [link_id],
            "get": _guarded(
                "explain_link",
                "Tell a link's story: what is wanted, what is and why, what comes next.",
                answers={200: _answer("The story, for people.", "ExplainBody")},
                problems=(401, 404, 422, 503),
            ),
        },
        "/v1/links/{link_id}/credentials": {"parameters": [link_id], "put": _put_credentials()},
        "/v1/budgets": {
            "get": _guarded(
                "show_budgets",
                "Show what MetaApi was paid, and what it may be paid.",
                answers={200: _answer("Budgets, charges and prices.", "BudgetsBody")},
                problems=(401, 422, 503),
            )
        },
        "/v1/links/{link_id}/quarantine": {"parameters": [link_id], "get": _list_quarantine()},
        "/v1/links/{link_id}/quarantine/{act}": {
            "parameters": [link_id, _ACT],
            "post": _act_on_quarantined(),
        },
        "/v1/deals": {"get": _list_deals()},
        "/v1/events": {"get": _list_events()},
        "/v1/totals": {"get": _list_totals()},
        "/livez": {"get": _probe("livez", "Whether the process lives.", problem=None)},
        "/readyz": {"get": _probe("readyz", "Whether it may be sent work.", problem=503)},
        "/metrics": {
            "get": _operation(
                "metrics",
                "Every metric of the process, for Prometheus.",
                answers={200: {"description": "Metrics.", "content": {"text/plain": {}}}},
            )
        },
        "/openapi.json": {
            "get": _operation(
                "openapi",
                "This document.",
                answers={200: {"description": "OpenAPI.", "content": {"application/json": {}}}},
            )
        },
    }


def _put_link() -> Json:
    return {
        **_guarded(
            "put_link",
            "Create a link or replace its spec; an identical spec changes nothing.",
            answers={
                200: _answer("The link, changed or not.", "LinkBody", headers=("ETag",)),
                201: _answer("The link, new.", "LinkBody", headers=("ETag",)),
            },
            problems=(400, 401, 409, 412, 413, 422, 429, 503),
            parameters=[
                _parameter("If-Match", {"type": "string", "pattern": '^"[0-9]{1,18}"$'}),
                _parameter("If-None-Match", {"const": "*"}),
            ],
        ),
        "requestBody": {"required": True, "content": _json("PutBody")},
    }


def _put_credentials() -> Json:
    return {
        **_guarded(
            "put_credentials",
            "Submit the account's password; it is sealed, used by the link's owner, and erased.",
            answers={
                200: _answer("The newest password already.", "CredentialVersionBody"),
                202: _answer("The link's owner will use it.", "CredentialVersionBody"),
            },
            problems=(400, 401, 404, 409, 413, 422, 503),
        ),
        "requestBody": {"required": True, "content": _json("CredentialsBody")},
    }


def _list_links() -> Json:
    return _guarded(
        "list_links",
        "Show links in the order of their ids.",
        answers={200: _answer("A page.", "LinksBody", headers=("Link", LAG_HEADER))},
        problems=(401, 422, 503),
        parameters=[
            _parameter("user", _ID, place="query", text="Only links of this user."),
            _parameter("limit", _LIMIT, place="query"),
            _parameter("after", _TEXT, place="query", text="`next` of the page before."),
        ],
    )


def _list_deals() -> Json:
    return _guarded(
        "list_deals",
        "Show deals of exactly one of `link` and `user`, in the order of their time.",
        answers={200: _answer("A page.", "DealsBody", headers=("Link", LAG_HEADER))},
        problems=(401, 422, 503),
        parameters=[
            _parameter("link", _ID, place="query", text="Also of a deleted link."),
            _parameter("user", _ID, place="query"),
            _parameter("symbol", _TEXT, place="query"),
            _parameter("kind", {"enum": ["trade", "cash"]}, place="query"),
            _parameter("from", _MOMENT, place="query", text="The first time inside."),
            _parameter("to", _MOMENT, place="query", text="The first time outside."),
            _parameter("order", {"enum": ["newest", "oldest"], "default": "newest"}, place="query"),
            _parameter("limit", _LIMIT, place="query"),
            _parameter("after", _TEXT, place="query", text="`next` of the page before."),
        ],
    )


def _list_events() -> Json:
    answer = _answer("Events in order, maybe none; as a stream if that is accepted.", "EventsBody")
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    return _guarded(
        "list_events",
        "Follow what happens to deals, links and proofs, by page, long poll or stream.",
        answers={200: {**answer, "content": {**_json("EventsBody"), **stream}}},
        problems=(401, 410, 422, 429, 503),
        parameters=[
            _parameter("link", _ID, place="query"),
            _parameter("user", _ID, place="query"),
            _parameter(
                "type",
                {
                    "type": "array",
                    "items": {"enum": [str(each) for each in EventType]},
                    "minItems": 1,
                    "maxItems": len(EventType),
                },
                place="query",
                text="Some of these, parted by commas.",
            ),
            _parameter(
                "after",
                _TEXT,
                place="query",
                text="`next`, or an event's id; absent: all that is kept; `latest`: the end.",
            ),
            _parameter("limit", _LIMIT, place="query"),
            _parameter(
                "wait",
                {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_SECONDS, "default": 0},
                place="query",
                text="Seconds to wait for an event when there is none.",
            ),
            _parameter("Last-Event-ID", _TEXT, text="Instead of `after`, when a stream returns."),
        ],
    )


def _list_quarantine() -> Json:
    return _guarded(
        "list_quarantine",
        "Show the records of a link that are no deals, oldest first; of a deleted link too.",
        answers={200: _answer("A page.", "QuarantineBody", headers=("Link",))},
        problems=(401, 404, 422, 503),
        parameters=[
            _parameter("state", {"enum": [each.value for each in QuarantineState]}, place="query"),
            _parameter("limit", _LIMIT, place="query"),
            _parameter("after", _TEXT, place="query", text="`next` of the page before."),
        ],
    )


def _act_on_quarantined() -> Json:
    return {
        **_guarded(
            "act_on_quarantined",
            "Have a record read again and written by the link's owner, or discard it.",
            answers={
                200: _answer("Discarded.", "QuarantinedBody"),
                202: _answer("The owner writes it at its next pull.", "QuarantinedBody"),
            },
            problems=(400, 401, 404, 409, 413, 422, 503),
        ),
        "requestBody": {"required": False, "content": _json("DiscardBody")},
    }


def _list_totals() -> Json:
    return _guarded(
        "list_totals",
        "Sum up the deals of exactly one of `link` and `user` by account and UTC day.",
        answers={200: _answer("A page.", "TotalsBody", headers=("Link", LAG_HEADER))},
        problems=(401, 422, 503),
        parameters=[
            _parameter("link", _ID, place="query", text="Also of a deleted link."),
            _parameter("user", _ID, place="query"),
            _parameter("from", _MOMENT, place="query", text="The first time inside."),
            _parameter("to", _MOMENT, place="query", text="The first time outside."),
            _parameter("limit", {**_LIMIT, "default": DEFAULT_DAYS}, place="query"),
            _parameter("after", _TEXT, place="query", text="`next` of the page before."),
        ],
    )


def _probe(name: str, summary: str, *, problem: int | None) -> Json:
    answers = {200: _answer("Yes.", "ReadyBody")}
    if problem is not None:
        answers[problem] = _answer("Not now; `stage` says why.", "ReadyBody")
    return _operation(name, summary, answers=answers)


def _guarded(
    name: str,
    summary: str,
    *,
    answers: Mapping[int, Json],
    problems: Sequence[int],
    parameters: Sequence[Json] = (),
) -> Json:
    refusals = {status: _problem(status) for status in problems}
    return {
        **_operation(name, summary, answers={**answers, **refusals}),
        "parameters": parameters,
        "security": [{"key": []}],
    }


def _operation(name: str, summary: str, *, answers: Mapping[int, Json]) -> Json:
    responses = {str(status): answer for status, answer in answers.items()}
    responses["500"] = _problem_answer("brokerd failed; the log knows why.")
    return {"operationId": name, "summary": summary, "responses": responses}


def _problem(status: int) -> Json:
    return _problem_answer(_PROBLEMS[status])


def _problem_answer(text: str) -> Json:
    content = {"application/problem+json": {"schema": _ref("ProblemBody")}}
    return {"description": text, "content": content}


def _answer(text: str, body: str, *, headers: Sequence[str] = ()) -> Json:
    shown = {name: {"schema": {"type": "string"}} for name in headers}
    return {"description": text, "headers": shown, "content": _json(body)}


def _json(body: str) -> Json:
    return {"application/json": {"schema": _ref(body)}}


def _ref(name: str) -> Json:
    return {"$ref": _SCHEMAS.format(name=name)}


def _parameter(name: str, schema: Json, *, place: str = "header", text: str = "") -> Json:
    is_list = schema.get("type") == "array"
    return {
        **({"style": "form", "explode": False} if is_list else {}),
        "name": name,
        "in": place,
        "required": place == "path",
        "description": text,
        "schema": schema,
    }
