"""What every description in OpenAPI is made of: operations, answers, problems, parameters."""

from collections.abc import Mapping, Sequence

Json = Mapping[str, object]

SCHEMAS = "#/components/schemas/{name}"
"""Where a struct's schema stands in the document."""

_PROBLEMS = {
    400: "The body is not JSON.",
    401: "The API key is missing or wrong.",
    404: "There is no such link, record or operation.",
    409: "The identity is taken or would change, a record cannot be replayed, a budget is used, or "
    "the link is being deleted.",
    412: "If-Match or If-None-Match does not hold.",
    413: "The body is too large.",
    422: "The request breaks the rules listed in `violations`, or credentials are known as bad.",
    410: "Events behind the cursor are gone; list again.",
    429: "As many links wait, or streams are open, as may.",
    503: "Postgres is out of reach; try again.",
}


def guarded(
    name: str,
    summary: str,
    *,
    answers: Mapping[int, Json],
    problems: Sequence[int],
    parameters: Sequence[Json] = (),
) -> Json:
    """Describe an operation that needs the key."""
    refusals = {status: _problem(status) for status in problems}
    return {
        **operation(name, summary, answers={**answers, **refusals}),
        "parameters": parameters,
        "security": [{"key": []}],
    }


def operation(name: str, summary: str, *, answers: Mapping[int, Json]) -> Json:
    """Describe an operation by its answers; it may always fail by a fault of ours."""
    responses = {str(status): answer for status, answer in answers.items()}
    responses["500"] = problem_answer("brokerd failed; the log knows why.")
    return {"operationId": name, "summary": summary, "responses": responses}


def _problem(status: int) -> Json:
    return problem_answer(_PROBLEMS[status])


def problem_answer(text: str) -> Json:
    """Describe an answer that is a problem."""
    content = {"application/problem+json": {"schema": ref("ProblemBody")}}
    return {"description": text, "content": content}


def answer(text: str, body: str, *, headers: Sequence[str] = ()) -> Json:
    """Describe an answer with a body."""
    shown = {name: {"schema": {"type": "string"}} for name in headers}
    return {"description": text, "headers": shown, "content": json_of(body)}


def json_of(body: str) -> Json:
    """Describe JSON of a struct."""
    return {"application/json": {"schema": ref(body)}}


def ref(name: str) -> Json:
    """Refer to a struct's schema."""
    return {"$ref": SCHEMAS.format(name=name)}


def parameter(name: str, schema: Json, *, place: str = "header", text: str = "") -> Json:
    """Describe a parameter; one of a path is always required."""
    is_list = schema.get("type") == "array"
    return {
        **({"style": "form", "explode": False} if is_list else {}),
        "name": name,
        "in": place,
        "required": place == "path",
        "description": text,
        "schema": schema,
    }
