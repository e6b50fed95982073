import io
import json
import logging
import traceback
from typing import TYPE_CHECKING

import httpx
import pytest
import respx
import structlog

from brokerd.config.settings import Secret
from brokerd.errors import BrokerdError, RemoteUnavailable, Unauthorized
from brokerd.logs import configure_logging

if TYPE_CHECKING:
    from tests.connector.metaapi_rest.conftest import Rig

SECRET = "planted-secret-payload"
URL = "http://provisioning.test/users/current/accounts/1eda642a-a9a3-457c-99af-3bc5e8d5c4c9"


def everything_told(error: BaseException) -> str:
    """Return all that a log, a debugger or an API could show of an error, locals included."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [frame for frame in shown.stack if "/brokerd/" in frame.filename]
    assert ours
    frames = "".join(traceback.StackSummary.from_list(ours).format())
    locals_shown = "".join(str(frame.locals) for frame in ours)
    return (
        frames
        + locals_shown
        + str(error)
        + repr(error)
        + "".join(traceback.format_exception(error))
    )


async def failure_of(rig: "Rig", **changes: object) -> BrokerdError:
    """Return what reading the account raises."""
    with pytest.raises(BrokerdError) as caught:
        await rig.client(request_attempts=1, **changes).account(rig.remote)
    return caught.value


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429, 500, 504, 302])
@respx.mock
async def test_an_echoed_token_is_blotted_out(rig: "Rig", status: int) -> None:
    """A server that quotes our token back cannot make us log it."""
    message = f"token {rig.token} is not welcome"
    respx.get(URL).respond(status, json={"error": "E", "message": message, "details": rig.token})
    assert SECRET not in everything_told(await failure_of(rig))


@pytest.mark.parametrize(
    "problem",
    [
        httpx.LocalProtocolError(f"Illegal header value b'{SECRET}'"),
        httpx.ReadError(SECRET),
        httpx.UnsupportedProtocol(SECRET),
    ],
    ids=lambda problem: type(problem).__name__,
)
@respx.mock
async def test_the_libraries_texts_are_not_passed_on(rig: "Rig", problem: Exception) -> None:
    """Errors of the HTTP library may quote what we sent: only their kind is told."""
    respx.get(URL).mock(side_effect=problem)
    error = await failure_of(rig)
    assert isinstance(error, RemoteUnavailable)
    assert type(problem).__name__ in str(error)
    assert SECRET not in everything_told(error)


@pytest.mark.parametrize("body", [b"<html>", b'{"_id": 5}'], ids=repr)
@respx.mock
async def test_malformed_answers_tell_no_token(rig: "Rig", body: bytes) -> None:
    """Nor does the reading of answers know it."""
    respx.get(URL).respond(content=body)
    assert SECRET not in everything_told(await failure_of(rig))


async def test_a_refused_connection_tells_no_token(rig: "Rig") -> None:
    """With the real transport underneath, nothing of the request shows either."""
    error = await failure_of(rig, provisioning_url="http://127.0.0.1:9")
    assert "ConnectError" in str(error)
    assert SECRET not in everything_told(error)


@pytest.mark.parametrize(
    "token", ["", f"{SECRET}\n", f"a {SECRET}", f"{SECRET}ü", f"{SECRET}\x00"], ids=repr
)
async def test_a_token_that_is_none_is_not_shown(rig: "Rig", token: str) -> None:
    """A token file with a stray line is refused by name, before any library quotes its content."""
    error = await failure_of(rig, tokens={"main": Secret(token)})
    assert isinstance(error, Unauthorized)
    assert "token 'main' is not one word" in str(error)
    assert SECRET not in everything_told(error)


@respx.mock
async def test_a_logged_failure_tells_no_token(rig: "Rig") -> None:
    """The whole way into the log line, traceback and all, there is no token."""
    respx.get(URL).mock(side_effect=httpx.ReadError(SECRET))
    error = await failure_of(rig)
    stream = io.StringIO()
    handlers, level = logging.root.handlers, logging.root.level
    try:
        configure_logging(level="debug", stream=stream)
        structlog.get_logger("test").warning("link.lost", exc_info=error)
    finally:
        logging.root.handlers, logging.root.level = handlers, level
        structlog.reset_defaults()
    line = json.loads(stream.getvalue())
    assert line["event"] == "link.lost"
    assert "exception" in line
    assert SECRET not in stream.getvalue()
