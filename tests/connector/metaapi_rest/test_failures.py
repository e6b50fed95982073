import json
from datetime import UTC, datetime

import httpx
import pytest

from brokerd.connector.metaapi_rest.failures import DEFAULT_THROTTLE_SECONDS, Answer, failure
from brokerd.errors import (
    BrokerdError,
    Forbidden,
    InvalidRequest,
    MalformedAnswer,
    NotConnected,
    NotFound,
    QuotaExceeded,
    Rejected,
    RemoteUnavailable,
    Synchronizing,
    Throttled,
    TopUpRequired,
    Transient,
    Unauthorized,
)

NOW = datetime(2024, 3, 1, 12, 0, 0, tzinfo=UTC)
CALL = "reading deals of MetaApi account 1eda642a (token 'main', region 'london')"
REQUEST_ID = "(d4f10b1c2a3e4f5061728394a5b6c7d8)"
NOT_CONNECTED = (
    "It seems like the account 1eda642a is not connected to broker yet or request URL you use"
    " does not match the account region"
)
HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"


def failed(status: int, body: object, **headers: str) -> BrokerdError:
    """Return the error of an answer; a body that is not bytes is sent as JSON."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = httpx.Headers({key.replace("_", "-"): value for key, value in headers.items()})
    answer = Answer(status=status, headers=named, body=sent, answered_at=NOW)
    return failure(answer, call=CALL)


def body_of(error: str, message: str = "Something failed", **more: object) -> dict[str, object]:
    """Return MetaApi's error object."""
    return {"id": 3, "error": error, "message": f"{message} {REQUEST_ID}", **more}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        pytest.param(400, body_of("ValidationError"), InvalidRequest, id="400"),
        pytest.param(400, body_of("QuotaExceededError"), QuotaExceeded, id="400_quota"),
        pytest.param(401, body_of("UnauthorizedError"), Unauthorized, id="401"),
        pytest.param(402, body_of("PaymentRequired"), TopUpRequired, id="402"),
        pytest.param(403, body_of("ForbiddenError"), Forbidden, id="403"),
        pytest.param(404, body_of("NotFoundError"), NotFound, id="404"),
        pytest.param(405, body_of("MethodNotAllowed"), InvalidRequest, id="405"),
        pytest.param(408, HTML, RemoteUnavailable, id="408"),
        pytest.param(409, body_of("ConflictError"), Transient, id="409"),
        pytest.param(422, body_of("Unprocessable"), InvalidRequest, id="422"),
        pytest.param(429, body_of("TooManyRequestsError"), Throttled, id="429"),
        pytest.param(500, body_of("InternalError"), RemoteUnavailable, id="500"),
        pytest.param(500, body_of("InternalError", NOT_CONNECTED), NotConnected, id="500_broker"),
        pytest.param(502, HTML, RemoteUnavailable, id="502"),
        pytest.param(503, b"", RemoteUnavailable, id="503_empty"),
        pytest.param(504, body_of("TimeoutError"), RemoteUnavailable, id="504"),
        pytest.param(504, body_of("TimeoutError", NOT_CONNECTED), NotConnected, id="504_broker"),
        pytest.param(504, body_of("NotSynchronizedError"), Synchronizing, id="504_synchronizing"),
        pytest.param(599, b"", RemoteUnavailable, id="599"),
        pytest.param(202, body_of("AcceptedError"), MalformedAnswer, id="202"),
        pytest.param(204, b"", MalformedAnswer, id="204"),
        pytest.param(302, b"", MalformedAnswer, id="302"),
        pytest.param(401, HTML, Unauthorized, id="401_html"),
        pytest.param(403, b"{", Forbidden, id="403_truncated"),
        pytest.param(404, [], NotFound, id="404_array"),
        pytest.param(500, b"\xff\xfe", RemoteUnavailable, id="500_not_utf8"),
        pytest.param(500, b"[" * 100_000, RemoteUnavailable, id="500_deep"),
        pytest.param(500, {"error": 5, "message": ["x"]}, RemoteUnavailable, id="500_wrong_types"),
    ],
)
def test_every_status_has_its_error(status: int, body: object, expected: type) -> None:
    """The status decides, whatever the body is; the text says what failed and for whom."""
    error = failed(status, body)
    assert type(error) is expected
    assert str(error).startswith(f"{CALL} failed: HTTP {status}")
    assert isinstance(error, Transient | Rejected)


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_refusal_says_what_to_do(status: int) -> None:
    """Where only a human can help, the text ends in advice."""
    error = failed(status, body_of("SomeError"))
    assert str(error).rpartition("; ")[2].split(" ")[0] in {"put", "top", "check"}


def test_no_broker_says_what_it_may_be() -> None:
    """MetaApi's one text for four troubles is explained."""
    error = failed(504, body_of("TimeoutError", NOT_CONNECTED))
    assert "undeployed" in str(error)
    assert "another region" in str(error)


@pytest.mark.parametrize(
    ("details", "shown"),
    [
        pytest.param("E_AUTH", "Validation failed · E_AUTH", id="string"),
        pytest.param({"code": "E_SRV_NOT_FOUND", "serversByBrokers": {}}, "E_SRV_", id="object"),
        pytest.param(
            [
                {"parameter": "login", "value": "hunter2", "message": "Required value."},
                {"parameter": "server", "message": "Too long."},
            ],
            "login: Required value., server: Too long.",
            id="list",
        ),
        pytest.param([1, None, ["E_X"]], "E_X", id="list_of_anything"),
        pytest.param(None, "Validation failed", id="null"),
        pytest.param(5, "Validation failed", id="number"),
    ],
)
def test_details_come_in_any_shape(details: object, shown: str) -> None:
    """List, string or object: what explains the refusal is quoted, an echoed value never."""
    error = failed(400, body_of("ValidationError", "Validation failed", details=details))
    assert isinstance(error, Rejected)
    assert shown in str(error)
    assert "hunter2" not in str(error)


def test_the_quota_is_told() -> None:
    """A used-up quota is a refusal that says so."""
    error = failed(400, body_of("QuotaExceededError", "Quota Exceeded Error"))
    assert "Quota Exceeded" in str(error)


def test_the_request_id_is_cut_off() -> None:
    """Equal failures read equal: the 32 hex digits MetaApi appends are not shown."""
    assert REQUEST_ID not in str(failed(404, body_of("NotFoundError", "Account not found")))
    assert str(failed(404, body_of("E", "x"))) == str(failed(404, {"error": "E", "message": "x"}))


def test_messages_are_one_bounded_line() -> None:
    """However much a server says, and in how many lines, a log line stays one."""
    error = failed(400, {"error": "E", "message": "first\nsecond\r\n" + "x" * 100_000})
    assert "first second" in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 600


METADATA = {
    "exceededConfig": "perUser",
    "recommendedRetryTime": "2024-03-01T12:00:04Z",
    "method": "getAccountInformation",
}


@pytest.mark.parametrize(
    ("config", "scope"),
    [
        ("perUser", "user"),
        ("perServer", "server"),
        ("perAccount", "account"),
        ("perMoon", "unknown"),
        (None, "unknown"),
        (["perUser"], "unknown"),
    ],
    ids=repr,
)
def test_a_429_names_its_scope(config: object, scope: str) -> None:
    """What was exhausted is told apart, so that only that need wait."""
    error = failed(
        429, body_of("TooManyRequestsError", metadata=METADATA | {"exceededConfig": config})
    )
    assert isinstance(error, Throttled)
    assert error.scope == scope
    assert error.retry_after_seconds == 4.0


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        pytest.param(body_of("E", metadata=METADATA), {}, 4.0, id="metadata"),
        pytest.param(body_of("E", metadata=METADATA), {"retry_after": "8"}, 8.0, id="header_first"),
        pytest.param(body_of("E"), {}, DEFAULT_THROTTLE_SECONDS, id="no_metadata"),
        pytest.param(body_of("E", metadata="x"), {}, DEFAULT_THROTTLE_SECONDS, id="metadata_text"),
        pytest.param(
            body_of("E", metadata={"recommendedRetryTime": 5}), {}, 10.0, id="time_is_a_number"
        ),
        pytest.param(HTML, {}, DEFAULT_THROTTLE_SECONDS, id="html"),
        pytest.param(HTML, {"retry_after": "8"}, 8.0, id="html_with_header"),
        pytest.param(b"", {}, DEFAULT_THROTTLE_SECONDS, id="empty"),
        pytest.param(
            body_of("E", metadata={"recommendedRetryTime": "2020-01-01T00:00:00Z"}),
            {},
            1.0,
            id="past",
        ),
        pytest.param(
            body_of("E", metadata=METADATA),
            {"date": "Fri, 01 Mar 2024 12:00:02 GMT"},
            2.0,
            id="our_clock_is_slow",
        ),
    ],
)
def test_a_429_always_has_a_wait(body: object, headers: dict[str, str], seconds: float) -> None:
    """Header, metadata, neither, nonsense: there is a wait of at least a second."""
    error = failed(429, body, **headers)
    assert isinstance(error, Throttled)
    assert error.retry_after_seconds == seconds


def test_a_5xx_keeps_its_hint() -> None:
    """A server that fails and says until when is believed; one that does not leaves it to us."""
    hinted = failed(503, HTML, retry_after="30")
    silent = failed(503, HTML)
    assert isinstance(hinted, RemoteUnavailable)
    assert isinstance(silent, RemoteUnavailable)
    assert (hinted.retry_after_seconds, silent.retry_after_seconds) == (30.0, None)
