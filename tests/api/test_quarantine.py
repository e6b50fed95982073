"""The quarantine over HTTP: what operators see, and what they may do."""

import pytest

from brokerd.connector.poison import bad_record
from brokerd.domain import BadReason, Fence, Source
from brokerd.ledger.memory_quarantine import MemoryQuarantine

GOOD = (
    b'{"id":"7","type":"DEAL_TYPE_BALANCE","time":"2026-03-02T12:00:00Z","profit":5,'
    b'"platform":"mt5"}'
)


@pytest.fixture
async def keep(api):
    """Give the way to put a record into quarantine."""
    await api.client.put("/v1/links/l-1", json=api.put_body())
    api.own("l-1")
    account_id = api.account("l-1")
    lease = api.state.leases[account_id]
    fence = Fence(account_id=account_id, incarnation=lease.owner, epoch=lease.epoch)

    async def keep(record, reason=BadReason.MALFORMED, problem="bad"):
        made = bad_record(record, reason=reason, problem=problem)
        await MemoryQuarantine(api.state).keep(fence, [made], source=Source.PULL)
        return max(api.state.quarantine)

    return keep


async def test_the_link_says_that_it_lacks_a_deal(api, keep):
    """Its proof is unknown with the reason, whatever was proven before; a discard ends that."""
    before = (await api.client.get("/v1/links/l-1")).json()["status"]
    assert before["sync"]["openGaps"] == 0
    record = await keep(b"{}")
    status = (await api.client.get("/v1/links/l-1")).json()["status"]
    assert (status["sync"]["openGaps"], status["sync"]["balanceProof"]) == (1, "unknown")
    (proven,) = [each for each in status["conditions"] if each["type"] == "LedgerProven"]
    assert (proven["status"], proven["reason"]) == ("Unknown", "DealsQuarantined")
    assert "1" in proven["message"]
    url = f"/v1/links/l-1/quarantine/{record}:discard"
    answer = await api.client.post(url, json={"note": "a test deal of the broker"})
    assert answer.status_code == 200
    assert answer.json()["state"] == "discarded"
    assert answer.json()["note"] == "a test deal of the broker"
    after = (await api.client.get("/v1/links/l-1")).json()["status"]
    assert after["sync"]["openGaps"] == 0
    assert (await api.client.post(url, json={"note": "again"})).status_code == 409


async def test_records_are_listed_by_state_and_page(api, keep):
    """Oldest first, with raw, reason and times; `next` leads on."""
    ids = [await keep(f'{{"id":"{n}"}}'.encode()) for n in range(3)]
    await api.client.post(f"/v1/links/l-1/quarantine/{ids[1]}:discard", json={"note": "x"})
    url = "/v1/links/l-1/quarantine"
    page = (await api.client.get(url, params={"state": "open", "limit": 1})).json()
    assert [each["id"] for each in page["items"]] == [ids[0]]
    assert page["items"][0]["raw"] == '{"id":"0"}'
    assert (page["items"][0]["dealId"], page["items"][0]["reason"]) == ("0", "malformed")
    params = {"state": "open", "limit": 9, "after": page["next"]}
    page = (await api.client.get(url, params=params)).json()
    assert ([each["id"] for each in page["items"]], page["next"]) == ([ids[2]], None)
    assert len((await api.client.get(url)).json()["items"]) == 3


async def test_hostile_text_is_json_and_nothing_else(api, keep):
    """Control characters, markup and SQL leave as data of application/json."""
    await keep(b'{"symbol":"\x1b[2J\0\xff<script>"}', problem="\r\n\x1b[31m{{x}}<img src=x>")
    answer = await api.client.get("/v1/links/l-1/quarantine")
    assert answer.headers["content-type"].startswith("application/json")
    (shown,) = answer.json()["items"]
    assert shown["problem"] == "\\x0d\\x0a\\x1b[31m{{x}}<img src=x>"
    assert b"\x1b" not in answer.content
    assert b"\0" not in answer.content


async def test_a_replay_is_left_to_the_owner(api, keep):
    """A readable record is accepted; what is unreadable or cut is a conflict with its reason."""
    url = "/v1/links/l-1/quarantine"
    readable = await keep(GOOD)
    answer = await api.client.post(f"{url}/{readable}:replay")
    assert answer.status_code == 202
    assert answer.json()["replayAskedAt"] is not None
    assert answer.json()["state"] == "open"
    broken = await keep(b'{"id":"8","profit":NaN}')
    answer = await api.client.post(f"{url}/{broken}:replay")
    assert answer.status_code == 409
    assert "still unreadable" in answer.json()["detail"]
    huge = await keep(b"[" + b"1" * 100_000)
    answer = await api.client.post(f"{url}/{huge}:replay")
    assert (answer.status_code, "too large" in answer.json()["detail"]) == (409, True)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("l-1/quarantine/99:replay", None, 404),
        ("l-1/quarantine/99:discard", {"note": "x"}, 404),
        ("l-1/quarantine/x:replay", None, 422),
        ("l-1/quarantine/1:explode", None, 422),
        ("l-1/quarantine/1:discard", {"note": ""}, 422),
        ("l-1/quarantine/1:discard", {"note": "\x1b[31m"}, 422),
        ("l-1/quarantine/1:discard", {"note": "x" * 501}, 422),
        ("l-1/quarantine/1:discard", {"why": "x"}, 422),
        ("l-1/quarantine/1:discard", None, 400),
        ("nobody/quarantine/1:replay", None, 404),
    ],
)
async def test_what_cannot_be_asked(api, keep, path, body, status):
    """Each refusal has its status, and changes nothing."""
    assert await keep(b"{}") == 1
    answer = await api.client.post(f"/v1/links/{path}", json=body)
    if body is None and path.endswith("discard"):
        answer = await api.client.post(f"/v1/links/{path}")
    assert answer.status_code == status, answer.text
    (row,) = api.state.quarantine.values()
    assert (row.state, row.replay_asked_at) == ("open", None)


async def test_an_unknown_link_has_no_quarantine(api):
    """404, not an empty list."""
    answer = await api.client.get("/v1/links/nobody/quarantine")
    assert answer.status_code == 404
