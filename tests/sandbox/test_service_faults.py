"""Answers that are none, a clock that is wrong, records that are strange, all over REST."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import pytest
from provisioning_client import ACCOUNTS, provisioning_client

from brokerd.sandbox.bill import ChargeKind
from brokerd.sandbox.faults import Fault, FaultKind, StagedFault


async def test_a_garbled_answer_is_cut_in_half():
    """It says 200, and no reader of JSON can take it for an answer, or for an empty one."""
    async with provisioning_client() as client:
        client.sandbox.faults.switch_on(Fault(kind=StagedFault.GARBLE, limit=1))
        answer = await client.http.get("/users/current/regions")
        assert answer.status_code == 200
        with pytest.raises(json.JSONDecodeError):
            answer.json()
        assert (await client.http.get("/users/current/regions")).json()


async def test_an_answer_may_be_a_page_of_html():
    """As from a proxy: 200, and of another type."""
    async with provisioning_client() as client:
        client.sandbox.faults.switch_on(Fault(kind=StagedFault.GARBLE, is_html=True))
        answer = await client.http.get(ACCOUNTS)
        assert (answer.status_code, answer.headers["Content-Type"][:9]) == (200, "text/html")
        assert answer.text.startswith("<html>")


async def test_an_error_may_say_that_all_is_well():
    """A 200 whose body is an error's."""
    async with provisioning_client() as client:
        account_id = await client.created()
        fault = Fault(kind=StagedFault.ERROR_AS_OK, account_ids=frozenset({account_id}))
        client.sandbox.faults.switch_on(fault)
        answer = await client.http.get(f"{ACCOUNTS}/{account_id}/positions")
        assert (answer.status_code, answer.json()["error"]) == (200, "InternalError")
        assert (await client.http.get(ACCOUNTS)).json()[0]["_id"] == account_id


async def test_an_order_may_be_carried_out_without_an_answer():
    """The connection is cut after it; sent again it finds what was done."""
    async with provisioning_client() as client:
        client.sandbox.faults.switch_on(Fault(kind=StagedFault.LOSE_ANSWER, limit=3))
        with pytest.raises(httpx.TransportError):
            await client.create("d" * 32)
        (account_id,) = client.sandbox.broker.accounts
        client.sandbox.faults.switch_off_all()
        assert (await client.create("d" * 32)).json()["id"] == account_id
        assert client.charged(ChargeKind.ACCOUNT_ADDED) == 1
        await client.until(account_id, state="DEPLOYED")
        client.sandbox.faults.switch_on(Fault(kind=StagedFault.LOSE_ANSWER))
        with pytest.raises(httpx.TransportError):
            await client.tell(account_id, "undeploy")
        await client.until(account_id, state="UNDEPLOYED")


@pytest.mark.parametrize("offset", [-600.0, 600.0])
async def test_the_services_clock_may_be_wrong(offset):
    """Header Date and every absolute hint are by it; a wait in seconds is not."""
    async with provisioning_client() as client:
        account_id = await client.created()
        client.sandbox.state.conditions.clock_offset_seconds = offset
        client.sandbox.faults.switch_on(Fault(kind=FaultKind.THROTTLE, seconds=5))
        expected = datetime.now(UTC) + timedelta(seconds=offset)
        slack = timedelta(seconds=3)
        answer = await client.http.get(ACCOUNTS)
        assert abs(parsedate_to_datetime(answer.headers["Date"]) - expected) < slack
        hint = datetime.fromisoformat(answer.json()["metadata"]["recommendedRetryTime"])
        wait = timedelta(seconds=5)
        assert abs(hint - expected - wait) < slack
        assert abs(parsedate_to_datetime(answer.headers["Retry-After"]) - expected - wait) < slack
        answer = await client.http.get(f"{ACCOUNTS}/{account_id}/positions")
        assert answer.headers["Retry-After"] == "5"
        hint = datetime.fromisoformat(answer.json()["metadata"]["recommendedRetryTime"])
        assert abs(hint - expected - wait) < slack


async def test_a_deal_may_have_fields_and_values_that_nobody_knows():
    """Warped so, it is sound JSON with everything else in its place (F27)."""
    async with provisioning_client() as client:
        account_id = await client.created()
        warp = {"reason": '"DEAL_REASON_ORACLE"', "quantumState": '{"spin":[1,null]}'}
        path = f"accounts/{account_id}/deals"
        placed = await client.control("POST", path, {"profit": "3.5", "warp": warp})
        ticket = placed["ticket"]
        answer = await client.http.get(f"{ACCOUNTS}/{account_id}/history-deals/ticket/{ticket}")
        (deal,) = answer.json()
        assert (deal["reason"], deal["quantumState"]) == ("DEAL_REASON_ORACLE", {"spin": [1, None]})
        assert deal["profit"] == pytest.approx(3.5)
