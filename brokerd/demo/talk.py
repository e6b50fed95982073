"""How the demo talks to its own programs: one request, or a failure with words."""

import httpx

from brokerd.errors import EngineFailed

PATIENCE_SECONDS = 30.0


async def is_ready(http: httpx.AsyncClient) -> bool:
    """Say what the readiness probe says; raises `EngineFailed` when it does not answer at all."""
    try:
        return (await http.get("/readyz", timeout=PATIENCE_SECONDS)).is_success
    except httpx.HTTPError as error:
        raise EngineFailed(f"/readyz failed: {type(error).__name__} {error}") from error


async def talk(
    http: httpx.AsyncClient, method: str, path: str, *, content: bytes = b""
) -> httpx.Response:
    """Make one request; raises `EngineFailed` unless it succeeds."""
    try:
        answer = await http.request(method, path, content=content, timeout=PATIENCE_SECONDS)
    except httpx.HTTPError as error:
        problem = f"{method} {path} failed: {type(error).__name__} {error}"
        raise EngineFailed(problem) from error
    if not answer.is_success:
        raise EngineFailed(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
    return answer
