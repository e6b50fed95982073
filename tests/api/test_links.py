"""What PUT, GET and DELETE of links answer."""

import pytest
from structlog.testing import capture_logs

from brokerd.clock import SystemClock
from brokerd.domain import Phase
from brokerd.store.memory import MemoryState

PATH = "/v1/links/u-17-main"


async def test_put_creates_replaces_and_repeats(api):
    """201 for a new link, 200 and the same generation for the same spec, a new one for another."""
    first = await api.client.put(PATH, json=api.put_body())
    assert (first.status_code, first.headers["etag"]) == (201, '"1"')
    same = await api.client.put(PATH, json=api.put_body())
    assert (same.status_code, same.headers["etag"]) == (200, '"1"')
    other = await api.client.put(PATH, json=api.put_body(labels={}))
    assert (other.status_code, other.headers["etag"]) == (200, '"2"')
    assert other.json()["metadata"]["resourceVersion"] == "2"


async def test_get_shows_the_body_of_the_reference(api):
    """The answer has exactly the documented shape; the spec is what was put."""
    await api.client.put(PATH, json=api.put_body())
    answer = await api.client.get(PATH)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body["spec"] == api.put_body()["spec"]
    assert set(body) == {"id", "metadata", "spec", "status"}
    assert set(body["metadata"]) == {"generation", "resourceVersion", "createdAt"}
    status = body["status"]
    assert set(status) == {
        *("observedGeneration", "phase", "node", "leaseEpoch", "since", "nextAttemptAt"),
        *("attempt", "queue", "sync", "userAction", "conditions"),
        *("metaapiAccountId", "credentialVersion"),
    }
    assert set(status["queue"]) == {"position", "positionAgeSeconds", "waitingSeconds"}
    assert set(status["sync"]) == {
        *("watermark", "lagSeconds", "balanceProof", "lastAuditAt", "deals", "openGaps"),
    }
    assert [condition["type"] for condition in status["conditions"]] == [
        *("Ready", "Claimed", "CredentialsValid", "Provisioned", "TransportConnected"),
        *("BrokerConnected", "IdentityVerified", "Synchronized", "LedgerProven"),
        *("WithinBudget", "MarketOpen", "Draining"),
    ]
    assert set(status["conditions"][0]) == {
        *("type", "status", "reason", "message", "lastTransitionTime", "observedGeneration"),
    }
    assert (status["phase"], status["queue"]["position"], status["userAction"]) == (
        "queued",
        1,
        "none",
    )


async def test_get_shows_the_owner(api):
    """A running link names its node and epoch, and has no place in the queue."""
    await api.client.put(PATH, json=api.put_body())
    api.own("u-17-main")
    status = (await api.client.get(PATH)).json()["status"]
    assert (status["phase"], status["node"], status["leaseEpoch"]) == ("live", "n7", 1)
    assert status["queue"] is None
    ready = status["conditions"][0]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "True", "Live")


async def test_a_dead_owner_s_report_is_not_believed(api):
    """A link whose node died is queued, whatever the node last said of it."""
    await api.client.put(PATH, json=api.put_body())
    api.own("u-17-main", phase=Phase.LIVE)
    api.release("u-17-main")
    status = (await api.client.get(PATH)).json()["status"]
    assert (status["phase"], status["queue"]["position"]) == ("queued", 1)
    assert status["conditions"][0]["status"] == "False"


async def test_delete_ends_a_link(api):
    """202, then `deleting` while a node still drains it, then 404; the wake-up hint is given."""
    await api.client.put(PATH, json=api.put_body())
    api.own("u-17-main")
    api.wake.clear()
    answer = await api.client.delete(PATH)
    assert (answer.status_code, answer.content) == (202, b"")
    assert api.wake.is_set()
    assert (await api.client.get(PATH)).json()["status"]["phase"] == "deleting"
    assert (await api.client.delete(PATH)).status_code == 202
    api.release("u-17-main")
    for gone in (await api.client.get(PATH), await api.client.delete(PATH)):
        problem(gone, 404, "not-found")


async def test_a_put_that_changes_something_wakes_the_node(api):
    """The hint is given for a change, and not for a repetition."""
    await api.client.put(PATH, json=api.put_body())
    assert api.wake.is_set()
    api.wake.clear()
    await api.client.put(PATH, json=api.put_body())
    assert not api.wake.is_set()


async def test_preconditions(api):
    """If-Match and If-None-Match guard a PUT with 412; nonsense in them is 422."""
    body = api.put_body()
    problem(
        await api.client.put(PATH, json=body, headers={"If-Match": '"1"'}),
        412,
        "version-conflict",
    )
    new = {"If-None-Match": "*"}
    assert (await api.client.put(PATH, json=body, headers=new)).status_code == 201
    problem(await api.client.put(PATH, json=body, headers=new), 412, "version-conflict")
    changed = api.put_body(labels={})
    tag = {"If-Match": (await api.client.get(PATH)).headers["etag"]}
    assert (await api.client.put(PATH, json=changed, headers=tag)).status_code == 200
    stale = await api.client.put(PATH, json=changed, headers=tag)
    problem(stale, 412, "version-conflict")
    for name, value in (("If-Match", "1"), ("If-Match", "*"), ("If-None-Match", '"1"')):
        answer = await api.client.put(PATH, json=body, headers={name: value})
        assert problem(answer, 422, "validation")["violations"][0]["path"] == name


async def test_conflicts(api):
    """A taken or changed identity is 409 and names the link in its way."""
    await api.client.put(PATH, json=api.put_body())
    taken = await api.client.put("/v1/links/other", json=api.put_body())
    assert "u-17-main" in problem(taken, 409, "conflict")["detail"]
    changed = await api.client.put(PATH, json=api.put_body(login="2"))
    assert problem(changed, 409, "conflict")["retryable"] is False


async def test_a_full_queue(new_api):
    """429 with Retry-After, and the same link is taken once there is room."""
    api = new_api(MemoryState(clock=SystemClock()), max_length=1)
    async with api.client:
        await api.client.put("/v1/links/a", json=api.put_body())
        full = await api.client.put("/v1/links/b", json=api.put_body(login="2"))
        found = problem(full, 429, "queue-full")
        assert found["retryable"] is True
        assert int(full.headers["retry-after"]) >= found["retryAfterSeconds"] > 0
        api.own("a")
        again = await api.client.put("/v1/links/b", json=api.put_body(login="2"))
        assert again.status_code == 201


async def test_a_store_that_is_away(api):
    """503 with Retry-After on every call that needs it; nothing of the inside is told."""
    api.registry.is_reachable = False
    for answer in (
        await api.client.put(PATH, json=api.put_body()),
        await api.client.get(PATH),
        await api.client.get("/v1/links"),
        await api.client.delete(PATH),
    ):
        assert problem(answer, 503, "dependency-unavailable")["retryable"] is True
        assert answer.headers["retry-after"] == "1"


async def test_what_nobody_foresaw_is_logged_and_not_told(api):
    """A bug answers 500 without its text, and the log has it under the same request id."""

    async def break_down(*_):
        raise RuntimeError("secret inside")

    api.registry.get = break_down
    with capture_logs() as logs:
        answer = await api.client.get(PATH)
    found = problem(answer, 500, "internal")
    assert "secret" not in answer.text
    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == ("api.failed", "error")
    assert str(entry["exc_info"]) == "secret inside"
    assert found["requestId"] == answer.headers["x-request-id"]


async def test_a_client_that_leaves_in_the_middle_is_no_fault(api):
    """A body that breaks off is answered to nobody, and is not logged as an error."""
    words = [
        {"type": "http.request", "body": b'{"spec":', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent = []

    async def receive():
        return words.pop(0)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "PUT",
        "path": PATH,
        "raw_path": PATH.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"authorization", api.client.headers["authorization"].encode())],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("brokerd", 80),
        "client": ("127.0.0.1", 1),
    }
    with capture_logs() as logs:
        await api.app(scope, receive, send)
    assert sent[0]["status"] == 400
    assert logs == []


async def test_pages_join(api):
    """Pages follow the ids; `next` and the Link header lead through all links once."""
    for number, name in enumerate("edcba"):
        body = api.put_body(login=str(number), userId="even" if number % 2 == 0 else "odd")
        await api.client.put(f"/v1/links/{name}", json=body)
    address, found = "/v1/links?limit=2", []
    while address:
        answer = await api.client.get(address)
        found += [item["id"] for item in answer.json()["items"]]
        link = answer.headers.get("link")
        assert (link is None) == (answer.json()["next"] is None)
        address = link and link.removeprefix("<").removesuffix('>; rel="next"')
    assert found == ["a", "b", "c", "d", "e"]
    filtered = (await api.client.get("/v1/links?user=odd&limit=1")).json()
    assert [item["id"] for item in filtered["items"]] == ["b"]
    after = await api.client.get("/v1/links", params={"user": "odd", "after": filtered["next"]})
    assert [item["id"] for item in after.json()["items"]] == ["d"]
    assert after.json()["next"] is None


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "?limit"),
        ("limit=1001", "?limit"),
        ("limit=x", "?limit"),
        ("limit=%C2%B2", "?limit"),
        ("after=nonsense", "?after"),
        ("after=WyJkIiwieCJd", "?after"),
        ("usr=u", "?usr"),
        ("user=%00", "?user"),
        ("user=a&user=b", "?"),
        ("&".join(f"a{n}=1" for n in range(40)), "?"),
    ],
)
async def test_bad_queries(api, query, path):
    """What a query means must be certain: unknown, doubled or unreadable parameters are 422."""
    answer = await api.client.get(f"/v1/links?{query}")
    assert problem(answer, 422, "validation")["violations"][0]["path"] == path


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic 0123456789abcdef0123456789abcdef"},
        {"Authorization": "Bearer 0123456789abcdef0123456789abcde\xff"},
    ],
    ids=["none", "wrong", "empty", "basic", "not ascii"],
)
@pytest.mark.parametrize("path", [PATH, "/v1/links", "/v1/deals?user=u"])
async def test_the_key_is_needed(api, path, headers):
    """Without the key every /v1 address is 401, and says which scheme it wants."""
    del api.client.headers["authorization"]
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = await api.client.get(path, headers=raw)
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "0123" not in answer.text


async def test_unknown_addresses_and_methods(api):
    """They are problems as well, and are counted under one label."""
    problem(await api.client.get("/nowhere"), 404, "not-found")
    wrong = await api.client.post(PATH)
    problem(wrong, 405, "method-not-allowed")
    assert "PUT" in wrong.headers["allow"]
    count = api.metrics.registry.get_sample_value
    labels = {"route": "other", "method": "GET", "code": "404"}
    assert count("brokerd_api_requests_total", labels) == 1


async def test_requests_are_counted_by_route(api):
    """The label is the route's template, never an id."""
    await api.client.get(PATH)
    labels = {"route": "/v1/links/{link_id}", "method": "GET", "code": "404"}
    assert api.metrics.registry.get_sample_value("brokerd_api_requests_total", labels) == 1


async def test_a_harmless_request_id_is_taken_over(api):
    """The caller's id goes through; one that could forge a log line does not."""
    mine = await api.client.get(PATH, headers={"X-Request-Id": "abc-1"})
    assert (mine.headers["x-request-id"], mine.json()["requestId"]) == ("abc-1", "abc-1")
    forged = await api.client.get(PATH, headers={"X-Request-Id": "a b"})
    assert forged.headers["x-request-id"] not in {"a b", "abc-1"}


def problem(answer, status, kind):
    """Check the form of a problem and return it."""
    body = answer.json()
    assert (answer.status_code, body["status"], body["type"]) == (
        status,
        status,
        f"/problems/{kind}",
    )
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["requestId"] == answer.headers["x-request-id"]
    assert body["title"]
    assert body["retryable"] in {True, False}
    return body
