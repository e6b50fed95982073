import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest
import respx

from brokerd.connector.metaapi_rest.discovery import REMEMBERED_SECONDS
from brokerd.errors import MalformedAnswer, RemoteUnavailable, Unauthorized

if TYPE_CHECKING:
    from tests.connector.metaapi_rest.conftest import Rig

DISCOVERY = "http://provisioning.test/users/current/servers/mt-client-api"
FOUND = {"url": "https://x.test", "hostname": "mt-client-api-v1", "domain": "found.test"}
INFORMATION = {
    "platform": "mt5",
    "login": 1,
    "server": "Broker-Demo",
    "currency": "USD",
    "balance": 1,
}


def information(domain: str = "found.test", region: str = "london") -> respx.Route:
    """Answer for the account information of any account there."""
    host = f"mt-client-api-v1.{region}.{domain}"
    return respx.get(host=host, scheme="https").respond(json=INFORMATION)


@respx.mock
async def test_the_domain_is_asked_for_once_in_a_while(rig: "Rig") -> None:
    """One discovery serves every region for ten minutes, then MetaApi is asked again."""
    asked = respx.get(DISCOVERY).respond(json=FOUND)
    london, york = information(), information(region="new-york")
    client = rig.client(client_url=None)
    await client.account_information(rig.remote)
    await client.account_information(replace(rig.remote, region="new-york"))
    assert (asked.call_count, london.call_count, york.call_count) == (1, 1, 1)
    assert asked.calls.last.request.headers["auth-token"] == rig.token
    rig.clock.seconds = REMEMBERED_SECONDS
    await client.account_information(rig.remote)
    assert asked.call_count == 2


@respx.mock
async def test_a_moved_domain_is_followed(rig: "Rig") -> None:
    """A user moved to servers of their own is found there after the ten minutes."""
    asked = respx.get(DISCOVERY).respond(json=FOUND)
    information()
    client = rig.client(client_url=None)
    await client.account_information(rig.remote)
    asked.respond(json=FOUND | {"domain": "dedicated.test"})
    moved = information("dedicated.test")
    rig.clock.seconds = REMEMBERED_SECONDS
    await client.account_information(rig.remote)
    assert moved.call_count == 1


@respx.mock
async def test_waiting_links_share_one_answer(rig: "Rig") -> None:
    """A hundred links that start together ask once; each token asks for itself."""

    async def slowly(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.01)
        return httpx.Response(200, json=FOUND)

    asked = respx.get(DISCOVERY).mock(side_effect=slowly)
    information()
    client = rig.client(client_url=None)
    other = replace(rig.remote, token="other")
    remotes = [rig.remote, other] * 50
    await asyncio.gather(*(client.account_information(remote) for remote in remotes))
    assert asked.call_count == 2


@respx.mock
async def test_an_old_answer_is_better_than_none(rig: "Rig") -> None:
    """While discovery is down, what was found goes on serving."""
    asked = respx.get(DISCOVERY).respond(json=FOUND)
    served = information()
    client = rig.client(client_url=None)
    await client.account_information(rig.remote)
    asked.respond(503)
    rig.clock.seconds = REMEMBERED_SECONDS
    await client.account_information(rig.remote)
    assert served.call_count == 2


@respx.mock
async def test_a_refused_token_is_not_papered_over(rig: "Rig") -> None:
    """An old answer does not hide that the token was revoked."""
    asked = respx.get(DISCOVERY).respond(json=FOUND)
    information()
    client = rig.client(client_url=None)
    await client.account_information(rig.remote)
    asked.respond(401)
    rig.clock.seconds = REMEMBERED_SECONDS
    with pytest.raises(Unauthorized):
        await client.account_information(rig.remote)


@respx.mock
async def test_without_any_answer_the_call_fails(rig: "Rig") -> None:
    """No discovery yet and none to be had: the call says so, and the next one asks again."""
    asked = respx.get(DISCOVERY).mock(side_effect=httpx.ConnectError("refused"))
    information()
    client = rig.client(client_url=None)
    with pytest.raises(RemoteUnavailable, match="client servers"):
        await client.account_information(rig.remote)
    asked.mock(return_value=httpx.Response(200, json=FOUND))
    await client.account_information(rig.remote)


@pytest.mark.parametrize(
    "body",
    [{}, [], {"domain": 5}, {"domain": "evil.test/path"}, {"domain": "a@evil.test"}],
    ids=repr,
)
@respx.mock
async def test_a_discovery_we_cannot_use_is_malformed(rig: "Rig", body: object) -> None:
    """The token is not sent to what is no host."""
    respx.get(DISCOVERY).respond(json=body)
    with pytest.raises(MalformedAnswer, match="discovery"):
        await rig.client(client_url=None).account_information(rig.remote)
