"""Our own commands' way to the control API: every end of a call is a value or one of our errors."""

import httpx
import pytest

from brokerd.api.client import ControlClient, open_client
from brokerd.config.settings import ApiSettings, Secret
from brokerd.errors import ConfigInvalid, ControlRefused, ControlUnavailable

KEY = Secret("planted-key-0123456789")


def client_that_gets(answer):
    """Build a client whose every request ends so."""

    def handle(_request):
        if isinstance(answer, Exception):
            raise answer
        return answer

    http = httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://node")
    return ControlClient(http)


async def test_links_are_read_page_by_page(api, monkeypatch):
    """All of them, however many pages they fill."""
    monkeypatch.setattr("brokerd.api.client.MAX_PAGE", 2)
    for number in range(5):
        body = api.put_body(login=str(number + 1))
        await api.client.put(f"/v1/links/l-{number}", json=body)
    links = await ControlClient(api.client).links()
    assert [link.id for link in links] == [f"l-{number}" for number in range(5)]


async def test_an_audit_is_started_and_read(api):
    """Twice asked it is the same; read it is the same again."""
    await api.client.put("/v1/links/l-1", json=api.put_body())
    client = ControlClient(api.client)
    first = await client.audit("l-1")
    assert (await client.audit("l-1")).id == first.id
    assert await client.operation(first.id) == first


@pytest.mark.parametrize("link_id", ["nobody", "a b", "a/b", "../../x", "a:b", "%00"])
async def test_a_refusal_is_told_in_the_words_of_the_api(api, link_id):
    """Whatever was typed as a link's id goes into the one place of the address."""
    with pytest.raises(ControlRefused):
        await ControlClient(api.client).audit(link_id)


async def test_what_may_be_tried_again_is_no_refusal(api):
    """A store that is away is the API's own retryable problem."""
    api.registry.is_reachable = False
    with pytest.raises(ControlUnavailable, match="The store is out of reach"):
        await ControlClient(api.client).links()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("planted-key-0123456789"),
        httpx.ReadTimeout("planted-key-0123456789"),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(502, content=b"Bad Gateway"),
    ],
    ids=repr,
)
async def test_no_answer_is_said_without_secrets(answer):
    """Nobody there, or somebody else: the kind of failure and the address, nothing quoted."""
    with pytest.raises(ControlUnavailable, match="GET /v1/links") as failure:
        await client_that_gets(answer).links()
    assert "planted" not in str(failure.value)
    assert failure.value.__cause__ is None


async def test_a_node_on_any_port_cannot_be_found():
    """It is said which setting to change."""
    with pytest.raises(ConfigInvalid, match=r"api\.port"):
        async with open_client(ApiSettings(key=KEY, port=0)):
            pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_every_loopback_address_can_be_called(host):
    """Also one with colons in it; nobody listens there."""
    async with open_client(ApiSettings(key=KEY, host=host, port=1)) as client:
        with pytest.raises(ControlUnavailable, match="ConnectError"):
            await client.links()
