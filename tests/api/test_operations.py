"""Long work over HTTP: who asks is answered at once, and can follow what becomes of it."""

from dataclasses import replace
from decimal import Decimal

import pytest
from structlog.testing import capture_logs

from brokerd.domain import Phase, Proof
from brokerd.operations import (
    AuditResult,
    Difference,
    Findings,
    OperationFailure,
    OperationState,
    Progress,
)

AUDIT = "/v1/links/l-1:audit"
RESULT = AuditResult(
    proof=Proof.MISMATCH,
    detail="broker minus ledger: balance 12.50, credit 0 USD",
    findings=Findings(windows=9, inserted=1, revised=2, missing=3, false_receipts=4),
    difference=Difference(balance=Decimal("12.50"), credit=Decimal("0.00"), currency="USD"),
)


@pytest.fixture
async def asked(api):
    """Register a link that is live, ask for its audit, and give the answer."""
    await api.client.put("/v1/links/l-1", json=api.put_body())
    api.own("l-1")
    api.wake.clear()
    return await api.client.post(AUDIT)


def change(api, **values):
    """Change the one operation, as an owner or a sweep does."""
    ((operation_id, operation),) = api.state.operations.items()
    api.state.operations[operation_id] = replace(operation, **values)


async def test_an_audit_is_accepted_and_can_be_followed(api, asked):
    """202 with its place; the hint goes out; GET shows the same."""
    assert asked.status_code == 202
    body = asked.json()
    assert asked.headers["location"] == f"/v1/operations/{body['id']}"
    assert (body["kind"], body["linkId"], body["state"]) == ("audit", "l-1", "pending")
    assert (body["waitingFor"], body["result"], body["problem"]) == (None, None, None)
    assert body["progress"] == {"windowsRead": 0, "windowsLeft": 0, "note": ""}
    assert api.wake.is_set()
    followed = await api.client.get(asked.headers["location"])
    assert (followed.status_code, followed.json()) == (200, body)
    assert followed.headers["cache-control"] == "no-store"


async def test_a_second_request_gets_the_audit_that_is_open(api, asked):
    """200, the same operation, no second hint and no second log entry."""
    api.wake.clear()
    with capture_logs() as logs:
        again = await api.client.post(AUDIT, content=b"{}")
    assert (again.status_code, again.json()["id"]) == (200, asked.json()["id"])
    assert again.headers["location"] == asked.headers["location"]
    assert not api.wake.is_set()
    assert logs == []
    change(api, state=OperationState.DONE, finished_at=api.state.clock.now(), result=RESULT)
    other = await api.client.post(AUDIT)
    assert other.status_code == 202
    assert other.json()["id"] != asked.json()["id"]


async def test_progress_and_result_are_told(api, asked):
    """Running with what it waits for, then done with the exact difference as text."""
    url = asked.headers["location"]
    findings = Findings(windows=4)
    progress = Progress(findings=findings, windows_left=5, note="mismatch 1 of 3")
    change(
        api,
        state=OperationState.RUNNING,
        started_at=api.state.clock.now(),
        progress=progress,
    )
    running = (await api.client.get(url)).json()
    assert running["state"] == "running"
    assert running["progress"] == {"windowsRead": 4, "windowsLeft": 5, "note": "mismatch 1 of 3"}
    change(api, state=OperationState.DONE, finished_at=api.state.clock.now(), result=RESULT)
    done = (await api.client.get(url)).json()
    assert done["result"] == {
        "proof": "mismatch",
        "detail": RESULT.detail,
        "windows": 9,
        "inserted": 1,
        "revised": 2,
        "missing": 3,
        "falseReceipts": 4,
        "difference": {"balance": "12.5", "credit": "0", "currency": "USD"},
    }
    assert done["finishedAt"] is not None
    assert done["waitingFor"] is None


@pytest.mark.parametrize("failure", list(OperationFailure))
async def test_a_failure_is_a_problem(api, asked, failure):
    """With a stable type and reason."""
    change(
        api,
        state=OperationState.FAILED,
        finished_at=api.state.clock.now(),
        failure=failure,
    )
    failed = (await api.client.get(asked.headers["location"])).json()
    assert failed["state"] == "failed"
    assert failed["problem"]["reason"] == failure
    assert failed["problem"]["type"] == f"/problems/{failure.replace('_', '-')}"
    assert failed["problem"]["title"]


@pytest.mark.parametrize(
    ("phase", "reason"), [(Phase.SYNCING, "Syncing"), (Phase.BACKOFF, "Backoff")]
)
async def test_it_says_why_nobody_carries_it_out(api, asked, phase, reason):
    """While the link is not live, the link's own phase and reason."""
    api.own("l-1", phase=phase)
    shown = (await api.client.get(asked.headers["location"])).json()
    assert shown["waitingFor"] == {"phase": phase, "reason": reason, "message": ""}


async def test_a_link_that_nobody_runs_keeps_it_waiting(api):
    """Queued, then paused; both are said, by the POST too."""
    await api.client.put("/v1/links/l-1", json=api.put_body())
    asked = (await api.client.post(AUDIT)).json()
    assert asked["waitingFor"]["phase"] == "queued"
    await api.client.put("/v1/links/l-1", json=api.put_body(desired="paused"))
    shown = (await api.client.get(f"/v1/operations/{asked['id']}")).json()
    assert (shown["state"], shown["waitingFor"]["phase"]) == ("pending", "paused")


@pytest.mark.usefixtures("asked")
async def test_a_link_that_ends_cannot_be_audited(api):
    """409 while it drains, 404 once it is gone."""
    await api.client.delete("/v1/links/l-1")
    draining = await api.client.post(AUDIT)
    assert draining.status_code == 409
    assert draining.json()["linkId"] == "l-1"
    api.release("l-1")
    gone = await api.client.post(AUDIT)
    assert gone.status_code == 404


@pytest.mark.parametrize(
    ("request_line", "content", "status", "kind"),
    [
        ("POST nobody:audit", b"", 404, "not-found"),
        ("POST l-1:explode", b"", 404, "not-found"),
        ("POST l-1:audit?x=1", b"", 422, "validation"),
        ("POST l-1:audit", b'{"from": 1}', 422, "validation"),
        ("POST l-1:audit", b"nonsense", 422, "validation"),
        ("POST a:b:audit", b"", 422, "validation"),
        ("POST :audit", b"", 422, "validation"),
        ("POST l-1", b"", 405, "method-not-allowed"),
        ("GET ../operations/nothing", b"", 404, "not-found"),
        ("GET ../operations/a_b", b"", 422, "validation"),
        ("GET ../operations/1?x=1", b"", 422, "validation"),
    ],
)
async def test_what_cannot_be_asked(api, request_line, content, status, kind):
    """Each refusal is a problem with its status, and starts nothing."""
    await api.client.put("/v1/links/l-1", json=api.put_body())
    method, path = request_line.split()
    answer = await api.client.request(method, f"/v1/links/{path}", content=content)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"/problems/{kind}"
    assert api.state.operations == {}
    if status == 405:
        assert "PUT" in answer.headers["allow"]


async def test_it_needs_the_key(api):
    """Neither asking nor following goes without."""
    for method, path in (("POST", AUDIT), ("GET", "/v1/operations/x")):
        answer = await api.client.request(method, path, headers={"Authorization": ""})
        assert answer.status_code == 401


@pytest.mark.usefixtures("asked")
async def test_without_the_store_it_is_said(api):
    """503, to be tried again."""
    api.registry.is_reachable = False
    answer = await api.client.post(AUDIT)
    assert (answer.status_code, answer.json()["retryable"]) == (503, True)
