"""A sandbox is one address: REST, stream and control on it, started and stopped cleanly."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import aiohttp
import pytest

from brokerd.sandbox.server import DEFAULT_TOKEN, SandboxSettings, running_sandbox

Connect = Callable[..., AbstractAsyncContextManager[Any]]

QUIET = SandboxSettings(deals_per_account_minute=0)
READY_SECONDS = 20


async def test_the_services_share_one_address_and_one_truth(connect: Connect) -> None:
    """A deal placed over the control is streamed, and read back over REST."""
    async with (
        running_sandbox(QUIET) as sandbox,
        connect(sandbox) as client,
        aiohttp.ClientSession(sandbox.url, headers={"auth-token": DEFAULT_TOKEN}) as http,
    ):
        account = sandbox.add_account()
        await client.synchronize(account.metaapi_id)
        path = f"/control/accounts/{account.metaapi_id}/deals"
        body = {"type": "DEAL_TYPE_BALANCE", "profit": "12.34"}
        async with http.post(path, json=body) as answer:
            assert answer.status == 201
        await client.until(lambda: len(client.deal_ids()) == 1)
        (ticket,) = client.deal_ids()
        path = f"/users/current/accounts/{account.metaapi_id}/history-deals/ticket/{ticket}"
        async with http.get(path) as answer:
            (deal,) = await answer.json()
        assert deal == client.of("update")[0]["deals"][0]


async def test_discovery_leads_back_to_the_sandbox() -> None:
    """What the SDK is told to use is this server, in the form of sdk.md 4 way 3."""
    async with (
        running_sandbox(QUIET) as sandbox,
        aiohttp.ClientSession(sandbox.url, headers={"auth-token": DEFAULT_TOKEN}) as http,
        http.get("/users/current/servers/mt-client-api") as answer,
    ):
        assert (await answer.json())["domain"] == f"x@{sandbox.url.removeprefix('http://')}"


@pytest.mark.parametrize("instance", [0, 1])
async def test_the_control_cuts_the_sockets_of_one_instance(
    connect: Connect, instance: int
) -> None:
    """Only the socket of the asked instance ends, at once."""
    async with (
        running_sandbox(QUIET) as sandbox,
        connect(sandbox) as first,
        connect(sandbox) as second,
        aiohttp.ClientSession(sandbox.url) as http,
    ):
        account = sandbox.add_account(reliability="high")
        clients = (first, second)
        for number, client in enumerate(clients):
            await client.subscribe(account.metaapi_id, instance=number)
        body = {"instance_index": instance, "account_ids": [account.metaapi_id]}
        async with http.post("/control/sockets/drop", json=body) as answer:
            assert await answer.json() == {"sockets": 1}
        with pytest.raises(EOFError):
            await clients[instance].read_for(2)
        await clients[1 - instance].read_for(0.2)


async def test_the_same_seed_gives_the_same_broker() -> None:
    """Accounts, logins and histories repeat, all but their times."""

    async def fingerprint() -> list[tuple[str, str, list[tuple[str, str, str]]]]:
        async with running_sandbox(
            SandboxSettings(accounts=3, seed=7, deals_per_account_minute=0)
        ) as sandbox:
            return [
                (a.metaapi_id, a.login, [(d.ticket, d.type, str(d.profit)) for d in a.deals()])
                for a in sandbox.broker.accounts.values()
            ]

    assert await fingerprint() == await fingerprint()


async def test_an_error_inside_the_block_comes_out_as_it_was() -> None:
    """A failing test fails with its own exception, and the sandbox is gone."""
    with pytest.raises(KeyError, match="mine"):
        async with running_sandbox(QUIET) as sandbox:
            raise KeyError("mine")
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(sandbox.url)


async def test_a_stopping_sandbox_does_not_wait_for_its_clients(connect: Connect) -> None:
    """Open sockets and hanging polls end with it, in well under a second."""
    async with AsyncExitStack() as clients, AsyncExitStack() as serving:
        sandbox = await serving.enter_async_context(running_sandbox(QUIET))
        client = await clients.enter_async_context(connect(sandbox))
        http = await clients.enter_async_context(aiohttp.ClientSession())
        url = f"{sandbox.url}/ws/?auth-token={DEFAULT_TOKEN}&EIO=3&transport=polling&b64=1"
        async with http.get(url) as answer:
            sid = (await answer.text()).partition('"sid":"')[2][:32]
        poll = asyncio.create_task(http.get(f"{url}&sid={sid}"))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(1):
            await serving.aclose()
        assert (await poll).status == 400
        with pytest.raises(EOFError):
            await client.read_for(5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_serves_until_it_is_told_to_stop(number: signal.Signals) -> None:
    """Its first line says where it is; a signal ends it with exit code 0 and nothing on stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from brokerd.cli import main; main()"),
        *("sandbox", "--accounts", "2", "--deals-per-minute", "60"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ,
    )
    try:
        assert process.stdout is not None
        ready = json.loads(await asyncio.wait_for(process.stdout.readline(), READY_SECONDS))
        assert len(ready["accounts"]) == 2
        headers = {"auth-token": ready["token"]}
        async with aiohttp.ClientSession(ready["url"], headers=headers) as http:
            async with http.get("/users/current/accounts") as answer:
                assert [account["_id"] for account in await answer.json()] == ready["accounts"]
            websocket = await http.ws_connect(
                f"/ws/?auth-token={ready['token']}&EIO=3&transport=websocket"
            )
            process.send_signal(number)
            output, errors = await asyncio.wait_for(process.communicate(), READY_SECONDS)
            await websocket.close()
        assert (process.returncode, output, errors) == (0, b"", b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
