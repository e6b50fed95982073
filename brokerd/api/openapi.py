"""The API described in OpenAPI 3.1, built from the very structs that read and write it.

msgspec's schemas are JSON Schema 2020-12, which is what OpenAPI 3.1 speaks; unlike those that
Litestar would generate they say that unknown fields are refused.
"""

from functools import cache
from importlib.metadata import version

import msgspec

from brokerd.api.bodies import (
    ID_PATTERN,
    MAX_PAGE,
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
from brokerd.api.money_bodies import BudgetsBody, CredentialsBody, CredentialVersionBody
from brokerd.api.openapi_parts import (
    SCHEMAS,
    Json,
    answer,
    guarded,
    json_of,
    operation,
    parameter,
    ref,
)
from brokerd.api.operation_bodies import OperationBody
from brokerd.api.query import DEFAULT_DAYS, DEFAULT_PAGE, MAX_WAIT_SECONDS
from brokerd.api.replica import LAG_HEADER
from brokerd.domain import QuarantineState
from brokerd.ledger.feed import EventType

_ACT: Json = {
    "name": "act",
    "in": "path",
    "required": True,
    "description": "A record and what to do: `12:replay`, or `12:discard` with a body.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}:(replay|discard)$"},
}
_ID: Json = {"type": "string", "pattern": ID_PATTERN, "minLength": 1, "maxLength": 128}
_OPERATION_ID: Json = {"type": "string", "pattern": "^[A-Za-z0-9-]{1,64}$"}
_TEXT: Json = {"type": "string", "minLength": 1, "maxLength": 512}
_MOMENT: Json = {"type": "string", "format": "date-time"}
_LIMIT: Json = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_PAGE,
    "default": DEFAULT_PAGE,
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
            OperationBody,
            ProblemBody,
            ReadyBody,
        ],
        ref_template=SCHEMAS,
    )
    schemas["EventsBody"]["properties"]["items"]["items"] = ref("EventBody")  # sent as encoded
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
    link_id = parameter("link_id", _ID, place="path", text="The id the client chose.")
    return {
        "/v1/links": {"get": _list_links()},
        "/v1/links/{link_id}": {
            "parameters": [link_id],
            "put": _put_link(),
            "get": guarded(
                "get_link",
                "Show what is wanted of a link and what is.",
                answers={200: answer("The link.", "LinkBody", headers=("ETag",))},
                problems=(401, 404, 422, 503),
            ),
            "delete": guarded(
                "delete_link",
                "End a link; its ledger stays.",
                answers={202: {"description": "It ends; GET shows it until it is drained."}},
                problems=(401, 404, 422, 503),
                parameters=[
                    parameter(
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
            "get": guarded(
                "explain_link",
                "Tell a link's story: what is wanted, what is and why, what comes next.",
                answers={200: answer("The story, for people.", "ExplainBody")},
                problems=(401, 404, 422, 503),
            ),
        },
        "/v1/links/{link_id}/credentials": {"parameters": [link_id], "put": _put_credentials()},
        "/v1/budgets": {
            "get": guarded(
                "show_budgets",
                "Show what MetaApi was paid, and what it may be paid.",
                answers={200: answer("Budgets, charges and prices.", "BudgetsBody")},
                problems=(401, 422, 503),
            )
        },
        "/v1/links/{link_id}/quarantine": {"parameters": [link_id], "get": _list_quarantine()},
        "/v1/links/{link_id}/quarantine/{act}": {
            "parameters": [link_id, _ACT],
            "post": _act_on_quarantined(),
        },
        "/v1/links/{link_id}:audit": {"parameters": [link_id], "post": _audit_link()},
        "/v1/operations/{operation_id}": {
            "parameters": [parameter("operation_id", _OPERATION_ID, place="path")],
            "get": guarded(
                "get_operation",
                "Show how far an operation is, and what came of it.",
                answers={200: answer("The operation.", "OperationBody")},
                problems=(401, 404, 422, 503),
            ),
        },
        "/v1/deals": {"get": _list_deals()},
        "/v1/events": {"get": _list_events()},
        "/v1/totals": {"get": _list_totals()},
        "/livez": {"get": _probe("livez", "Whether the process lives.", problem=None)},
        "/readyz": {"get": _probe("readyz", "Whether it may be sent work.", problem=503)},
        "/metrics": {
            "get": operation(
                "metrics",
                "Every metric of the process, for Prometheus.",
                answers={200: {"description": "Metrics.", "content": {"text/plain": {}}}},
            )
        },
        "/openapi.json": {
            "get": operation(
                "openapi",
                "This document.",
                answers={200: {"description": "OpenAPI.", "content": {"application/json": {}}}},
            )
        },
    }


def _put_link() -> Json:
    return {
        **guarded(
            "put_link",
            "Create a link or replace its spec; an identical spec changes nothing.",
            answers={
                200: answer("The link, changed or not.", "LinkBody", headers=("ETag",)),
                201: answer("The link, new.", "LinkBody", headers=("ETag",)),
            },
            problems=(400, 401, 409, 412, 413, 422, 429, 503),
            parameters=[
                parameter("If-Match", {"type": "string", "pattern": '^"[0-9]{1,18}"$'}),
                parameter("If-None-Match", {"const": "*"}),
            ],
        ),
        "requestBody": {"required": True, "content": json_of("PutBody")},
    }


def _put_credentials() -> Json:
    return {
        **guarded(
            "put_credentials",
            "Submit the account's password; it is sealed, used by the link's owner, and erased.",
            answers={
                200: answer("The newest password already.", "CredentialVersionBody"),
                202: answer("The link's owner will use it.", "CredentialVersionBody"),
            },
            problems=(400, 401, 404, 409, 413, 422, 503),
        ),
        "requestBody": {"required": True, "content": json_of("CredentialsBody")},
    }


def _list_links() -> Json:
    return guarded(
        "list_links",
        "Show links in the order of their ids.",
        answers={200: answer("A page.", "LinksBody", headers=("Link", LAG_HEADER))},
        problems=(401, 422, 503),
        parameters=[
            parameter("user", _ID, place="query", text="Only links of this user."),
            parameter("limit", _LIMIT, place="query"),
            parameter("after", _TEXT, place="query", text="`next` of the page before."),
        ],
    )


def _list_deals() -> Json:
    return guarded(
        "list_deals",
        "Show deals of exactly one of `link` and `user`, in the order of their time.",
        answers={200: answer("A page.", "DealsBody", headers=("Link", LAG_HEADER))},
        problems=(401, 422, 503),
        parameters=[
            parameter("link", _ID, place="query", text="Also of a deleted link."),
            parameter("user", _ID, place="query"),
            parameter("symbol", _TEXT, place="query"),
            parameter("kind", {"enum": ["trade", "cash"]}, place="query"),
            parameter("from", _MOMENT, place="query", text="The first time inside."),
            parameter("to", _MOMENT, place="query", text="The first time outside."),
            parameter("order", {"enum": ["newest", "oldest"], "default": "newest"}, place="query"),
            parameter("limit", _LIMIT, place="query"),
            parameter("after", _TEXT, place="query", text="`next` of the page before."),
        ],
    )


def _list_events() -> Json:
    page = answer("Events in order, maybe none; as a stream if that is accepted.", "EventsBody")
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    return guarded(
        "list_events",
        "Follow what happens to deals, links and proofs, by page, long poll or stream.",
        answers={200: {**page, "content": {**json_of("EventsBody"), **stream}}},
        problems=(401, 410, 422, 429, 503),
        parameters=[
            parameter("link", _ID, place="query"),
            parameter("user", _ID, place="query"),
            parameter(
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
            parameter(
                "after",
                _TEXT,
                place="query",
                text="`next`, or an event's id; absent: all that is kept; `latest`: the end.",
            ),
            parameter("limit", _LIMIT, place="query"),
            parameter(
                "wait",
                {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_SECONDS, "default": 0},
                place="query",
                text="Seconds to wait for an event when there is none.",
            ),
            parameter("Last-Event-ID", _TEXT, text="Instead of `after`, when a stream returns."),
        ],
    )


def _list_quarantine() -> Json:
    return guarded(
        "list_quarantine",
        "Show the records of a link that are no deals, oldest first; of a deleted link too.",
        answers={200: answer("A page.", "QuarantineBody", headers=("Link",))},
        problems=(401, 404, 422, 503),
        parameters=[
            parameter("state", {"enum": [each.value for each in QuarantineState]}, place="query"),
            parameter("limit", _LIMIT, place="query"),
            parameter("after", _TEXT, place="query", text="`next` of the page before."),
        ],
    )


def _act_on_quarantined() -> Json:
    return {
        **guarded(
            "act_on_quarantined",
            "Have a record read again and written by the link's owner, or discard it.",
            answers={
                200: answer("Discarded.", "QuarantinedBody"),
                202: answer("The owner writes it at its next pull.", "QuarantinedBody"),
            },
            problems=(400, 401, 404, 409, 413, 422, 503),
        ),
        "requestBody": {"required": False, "content": json_of("DiscardBody")},
    }


def _audit_link() -> Json:
    return guarded(
        "audit_link",
        "Read the link's whole history again and prove its balance; one audit at a time.",
        answers={
            200: answer("The audit that is open already.", "OperationBody", headers=("Location",)),
            202: answer("A new one.", "OperationBody", headers=("Location",)),
        },
        problems=(401, 404, 409, 413, 422, 503),
    )


def _list_totals() -> Json:
    return guarded(
        "list_totals",
        "Sum up the deals of exactly one of `link` and `user` by account and UTC day.",
        answers={200: answer("A page.", "TotalsBody", headers=("Link", LAG_HEADER))},
        problems=(401, 422, 503),
        parameters=[
            parameter("link", _ID, place="query", text="Also of a deleted link."),
            parameter("user", _ID, place="query"),
            parameter("from", _MOMENT, place="query", text="The first time inside."),
            parameter("to", _MOMENT, place="query", text="The first time outside."),
            parameter("limit", {**_LIMIT, "default": DEFAULT_DAYS}, place="query"),
            parameter("after", _TEXT, place="query", text="`next` of the page before."),
        ],
    )


def _probe(name: str, summary: str, *, problem: int | None) -> Json:
    answers = {200: answer("Yes.", "ReadyBody")}
    if problem is not None:
        answers[problem] = answer("Not now; `stage` says why.", "ReadyBody")
    return operation(name, summary, answers=answers)
