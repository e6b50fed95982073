"""What a client of the stream is refused: too much, or because its token or region is gone."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import httpx
import pytest

from brokerd.sandbox.conditions import region_of_host
from brokerd.sandbox.faults import Fault, StagedFault
from brokerd.sandbox.limits import (
    CreditLimits,
    Limits,
    RequestRate,
    SubscriptionLimits,
    SynchronizationLimit,
    Window,
)
from brokerd.sandbox.server import SandboxSettings, running_sandbox
from brokerd.sandbox.stream import StreamSettings
from brokerd.sandbox.trading import AccountSpec
from brokerd.sandbox.users import User

QUIET = SandboxSettings(deals_per_account_minute=0, stream=StreamSettings(status_seconds=0.1))
OTHER = "an.other.token"


@asynccontextmanager
async def running(accounts=1):
    """Serve a sandbox in which nothing happens by itself."""
    async with running_sandbox(QUIET) as sandbox:
        ids = [sandbox.add_account().metaapi_id for _ in range(accounts)]
        yield sandbox, ids


async def refused(client, account_id, *, instance=0):
    """Subscribe; return the refusal."""
    answer = await client.ask("subscribe", account_id, instanceIndex=instance, sessionId="s")
    assert answer["error"] == "TooManyRequestsError", answer
    assert answer["metadata"]["recommendedRetryTime"].endswith("Z")
    return answer


async def accepted(client, account_id):
    """Subscribe, and be heard."""
    answer = await client.ask("subscribe", account_id, instanceIndex=0, sessionId="s")
    assert answer["type"] == "response", answer


async def test_nothing_is_limited_at_first(connect):
    """A sandbox as it starts lets everyone in."""
    async with running(accounts=30) as (sandbox, ids), connect(sandbox) as client:
        for account_id in ids:
            await client.subscribe(account_id)
        assert client.errors == {}


async def test_a_user_has_so_many_subscriptions_for_each_deployed_account(connect):
    """The quota is told as MetaApi tells it; a subscription that is given back counts no more."""
    async with running(accounts=3) as (sandbox, ids), connect(sandbox) as client:
        sandbox.state.limits.subscriptions = SubscriptionLimits(per_deployed_account=1)
        for account_id in ids:
            await client.subscribe(account_id)
        async with connect(sandbox) as second:
            said = await refused(second, ids[0])
            assert said["metadata"]["type"] == "LIMIT_ACCOUNT_SUBSCRIPTIONS_PER_USER"
            assert said["metadata"]["maxAccountsPerUser"] == said["metadata"]["accountsCount"] == 3
            assert "You have 3 account subscriptions available" in said["message"]
            await client.ask("unsubscribe", ids[0], instanceIndex=0)
            await accepted(second, ids[0])


async def test_the_second_instance_of_one_terminal_is_no_subscription(connect):
    """What carries nothing counts for nothing; a second terminal does count."""
    async with running() as (sandbox, ids), connect(sandbox) as client:
        reliable = sandbox.add_account(reliability="high").metaapi_id
        sandbox.state.limits.subscriptions = SubscriptionLimits(per_deployed_account=1)
        await client.subscribe(ids[0], instance=0)
        await client.subscribe(ids[0], instance=1)
        await client.subscribe(reliable, instance=0)
        await refused(client, reliable, instance=1)


async def test_limits_may_be_on_from_the_start(connect):
    """A sandbox is started with them; the settings stay as they were."""
    limits = Limits(subscriptions=SubscriptionLimits(per_deployed_account=0))
    async with running_sandbox(replace(QUIET, accounts=1, limits=limits)) as sandbox:
        async with connect(sandbox) as client:
            await refused(client, next(iter(sandbox.broker.accounts)))
        sandbox.state.limits.subscriptions = None
        assert limits.subscriptions is not None


async def test_other_programs_subscriptions_count(connect):
    """And show among the account's connections."""
    async with running() as (sandbox, ids), connect(sandbox) as client:
        sandbox.state.limits.subscriptions = SubscriptionLimits(per_deployed_account=1)
        sandbox.state.conditions.subscribers = {ids[0]: ("CopyFactory",)}
        await refused(client, ids[0])
        headers = {"auth-token": sandbox.settings.token}
        async with httpx.AsyncClient(base_url=sandbox.url, headers=headers) as http:
            shown = (await http.get(f"/users/current/accounts/{ids[0]}")).json()
        applications = [connection["application"] for connection in shown["connections"]]
        assert applications == ["MetaApi", "CopyFactory"]


async def test_a_lost_sockets_subscriptions_may_count_for_a_while(connect):
    """A crashed client holds its own against the next one."""
    async with running() as (sandbox, ids):
        limits = SubscriptionLimits(per_deployed_account=1, stale_seconds=1.0)
        sandbox.state.limits.subscriptions = limits
        async with connect(sandbox) as client:
            await client.subscribe(ids[0])
        async with connect(sandbox) as client:
            await refused(client, ids[0])
            await asyncio.sleep(1.1)
            await accepted(client, ids[0])


@pytest.mark.parametrize(
    ("limits", "type_", "field"),
    [
        (
            SubscriptionLimits(per_server=1, per_user_per_server=None, servers=4),
            "LIMIT_ACCOUNT_SUBSCRIPTIONS_PER_SERVER",
            {"changeClientIdHeader": True},
        ),
        (
            SubscriptionLimits(per_user_per_server=1, servers=4),
            "LIMIT_ACCOUNT_SUBSCRIPTIONS_PER_USER_PER_SERVER",
            {"maxAccountsPerUserPerServer": 1, "accountsCount": 1},
        ),
    ],
    ids=["server", "user and server"],
)
async def test_a_full_server_is_left_with_another_client_id(connect, limits, type_, field):
    """The refusal's type says what to do; the other client id is another server."""
    async with running(accounts=2) as (sandbox, ids), connect(sandbox) as client:
        sandbox.state.limits.subscriptions = limits
        await client.subscribe(ids[0])
        said = await refused(client, ids[1])
        assert said["metadata"]["type"] == type_
        assert field.items() <= said["metadata"].items()
        async with connect(sandbox, clientId="0.5") as other:
            await accepted(other, ids[1])


async def test_only_so_many_synchronizations_run_at_once(connect):
    """One more is refused, with when the first of them will be over."""
    async with running(accounts=2) as (sandbox, ids), connect(sandbox) as client:
        limit = SynchronizationLimit(concurrent=1, seconds=0.5)
        sandbox.state.limits.synchronizations = limit
        await client.synchronize(ids[0])
        await client.subscribe(ids[1])
        said = await client.ask("synchronize", ids[1], instanceIndex=0, version=2)
        assert said["error"] == "TooManyRequestsError"
        assert said["metadata"]["type"] == "LIMIT_CONCURRENT_SYNCHRONIZATIONS"
        await asyncio.sleep(0.6)
        await client.synchronize(ids[1])


async def test_requests_over_the_socket_cost_credits(connect):
    """The same credits as over REST, named with their transport."""
    async with running() as (sandbox, ids), connect(sandbox) as client:
        sandbox.state.limits.credits = CreditLimits(
            per_account=(Window(seconds=10, credits=130),), per_user=(), per_server=()
        )
        await client.subscribe(ids[0])
        asked = "getDealsByTimeRange"
        assert "deals" in await client.ask(asked, ids[0], limit=1000)
        said = await client.ask("getPositions", ids[0])
        assert "The ws:getPositions API allows 130 cpu credits per 10s" in said["message"]
        headers = {"auth-token": sandbox.settings.token}
        async with httpx.AsyncClient(base_url=sandbox.url, headers=headers) as http:
            path = f"/users/current/accounts/{ids[0]}"
            usage = (await http.get(f"{path}/credits")).json()
            assert usage["perAccount"][0]["available"] < 50
            answer = await http.get(f"{path}/account-information")
            assert answer.status_code == 429
            assert "The getAccountInformation API allows 130" in answer.json()["message"]
            assert int(answer.headers["Retry-After"]) >= 1


async def test_provisioning_may_be_asked_so_often():
    """More is refused in the old form, for this user alone."""
    async with running() as (sandbox, _):
        sandbox.state.limits.provisioning = RequestRate(requests=2, minutes=1)
        sandbox.state.users.add(User(name="other", token=OTHER))
        async with httpx.AsyncClient(base_url=sandbox.url) as http:
            mine, theirs = {"auth-token": sandbox.settings.token}, {"auth-token": OTHER}
            path = "/users/current/accounts"
            statuses = [(await http.get(path, headers=mine)).status_code for _ in range(3)]
            assert statuses == [200, 200, 429]
            body = (await http.get(path, headers=mine)).json()
            assert body["metadata"]["periodInMinutes"] == 1
            assert body["metadata"]["requestsPerPeriodAllowed"] == 2
            assert (await http.get(path, headers=theirs)).status_code == 200


async def test_a_revoked_token_opens_nothing_and_hears_nothing_more(connect):
    """Requests are refused as unauthorized, streams fall silent; other users notice nothing."""
    async with running() as (sandbox, ids):
        sandbox.state.users.add(User(name="other", token=OTHER))
        spec = AccountSpec(server=sandbox.broker.account(ids[0]).server, owner="other")
        theirs = sandbox.broker.add_account(spec).metaapi_id
        async with connect(sandbox) as client, connect(sandbox, token=OTHER) as other:
            await client.subscribe(ids[0])
            await other.subscribe(theirs)
            sandbox.state.users.default.is_revoked = True
            await asyncio.sleep(0.3)
            said = await client.ask("subscribe", ids[0], instanceIndex=0, sessionId="s")
            assert said["error"] == "UnauthorizedError"
            heard = len(client.packets)
            await client.read_for(0.4)
            assert len(client.packets) == heard
            await other.read_for(0.4)
            assert len(other.of("status")) >= 3
        with pytest.raises(aiohttp.WSServerHandshakeError) as handshake:
            async with connect(sandbox):
                pass
        assert handshake.value.status == 401


async def test_a_removed_account_ends_its_streams(connect):
    """Its terminal leaves, nobody knows it any more, and no outage stumbles over what it left."""
    async with running() as (sandbox, ids), connect(sandbox) as client:
        await client.subscribe(ids[0], instance=0)
        await client.subscribe(ids[0], instance=1)
        user = sandbox.state.users.default
        sandbox.state.provisioner.delete(user, ids[0])
        await client.until(lambda: bool(client.of("disconnected")))
        await asyncio.sleep(0.4)
        said = await client.ask("subscribe", ids[0], instanceIndex=0, sessionId="s")
        assert said["error"] == "NotFoundError"
        assert len(sandbox.stream.registry) == 0
        sandbox.state.conditions.down_regions = ("london",)
        sandbox.tick()


async def test_a_forbidden_token_opens_no_socket(connect):
    """It is known, and may do nothing."""
    async with running() as (sandbox, _):
        sandbox.state.users.add(User(name="other", token=OTHER, is_forbidden=True))
        with pytest.raises(aiohttp.WSServerHandshakeError) as handshake:
            async with connect(sandbox, token=OTHER):
                pass
        assert handshake.value.status == 403


async def test_accounts_of_another_user_do_not_exist(connect):
    """Subscribing to one is answered as for one that never was."""
    async with running() as (sandbox, ids):
        sandbox.state.users.add(User(name="other", token=OTHER))
        async with connect(sandbox, token=OTHER) as client:
            said = await client.ask("subscribe", ids[0], instanceIndex=0, sessionId="s")
            assert said["error"] == "NotFoundError"


async def test_a_region_that_is_down_answers_no_client(connect):
    """Sockets of it are cut, handshakes refused, REST times out; another region lives on."""
    async with running() as (sandbox, ids):
        server = sandbox.broker.account(ids[0]).server
        london = sandbox.broker.add_account(AccountSpec(server=server, region="london")).metaapi_id
        headers = {"auth-token": sandbox.settings.token}
        async with (
            connect(sandbox) as client,
            connect(sandbox) as second,
            connect(sandbox) as both,
            httpx.AsyncClient(base_url=sandbox.url, headers=headers) as http,
        ):
            await client.subscribe(ids[0])
            await second.subscribe(london)
            for account_id in (ids[0], london):
                await both.subscribe(account_id)
            sandbox.state.conditions.down_regions = ("new-york",)
            with pytest.raises(EOFError):
                await client.read_for(2)
            await second.read_for(0.3)
            assert second.of("status")[-1]["connected"]
            await both.read_for(0.1)  # what was sent before
            before = len(both.packets)
            await both.read_for(0.4)
            assert {packet["accountId"] for packet in both.packets[before:]} == {london}
            said = await both.ask("subscribe", ids[0], instanceIndex=0, sessionId="s")
            assert said["error"] == "TimeoutError"
            path = "/users/current/accounts"
            assert (await http.get(f"{path}/{ids[0]}/positions")).status_code == 504
            assert (await http.get(f"{path}/{london}/positions")).status_code == 200
            assert (await http.get(f"{path}/{ids[0]}")).status_code == 200
        for host, status in (("x.new-york-a.y", 503), ("x.london-a.y", None)):
            assert await handshake_status(sandbox, host) == status
        sandbox.state.conditions.down_regions = ("new-york", "london")
        assert await handshake_status(sandbox, "127.0.0.1") == 503


async def handshake_status(sandbox, host):
    """Return the status that refuses a handshake under a host name; None when it succeeds."""
    url = f"{sandbox.url}/ws/?auth-token={sandbox.settings.token}&EIO=3&transport=websocket"
    async with aiohttp.ClientSession() as http:
        try:
            async with http.ws_connect(url, headers={"Host": host}):
                return None
        except aiohttp.WSServerHandshakeError as refused:
            return refused.status


@pytest.mark.parametrize(
    ("headers", "region"),
    [
        ({"Host": "mt-client-api-v1.new-york-a.agiliumtrade.ai:443"}, "new-york"),
        ({"Host": "mt-client-api-v1.london-b.agiliumtrade.ai"}, "london"),
        ({"Host": "127.0.0.1:8080"}, None),
        ({"Host": "127.0.0.1", "Authorization": "Basic bXQudmludC1oaWxsLWEueDo="}, "vint-hill"),
        ({"Authorization": "Basic !"}, None),
        ({"Authorization": "Bearer bXQudmludC1oaWxsLWEueDo="}, None),
        ({}, None),
    ],
)
def test_the_region_shows_in_the_name_that_was_asked_for(headers, region):
    """Of the host, or of the user part that the SDK makes of it for a sandbox."""
    assert region_of_host(headers) == region


async def test_a_black_hole_stays_open_and_carries_nothing(connect):
    """Not even a pong; a socket of another account is not swallowed."""
    async with (
        running(accounts=2) as (sandbox, ids),
        connect(sandbox) as client,
        connect(sandbox) as other,
    ):
        await client.subscribe(ids[0])
        await other.subscribe(ids[1])
        fault = Fault(kind=StagedFault.BLACK_HOLE, account_ids=frozenset({ids[0]}))
        sandbox.faults.switch_on(fault)
        await asyncio.sleep(0.3)
        await client.read_for(0.1)
        heard = len(client.packets)
        await client._websocket.send_str("2")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client._websocket.receive()
        assert len(client.packets) == heard
        await other.read_for(0.3)
        assert other.of("status")
        assert sandbox.faults.staged[StagedFault.BLACK_HOLE] == 1


async def test_a_server_may_ignore_hashes(connect):
    """It sends every specification, though the client has shown that it holds them."""
    async with running() as (sandbox, ids), connect(sandbox) as client:
        account = sandbox.broker.account(ids[0])
        known = sandbox.stream.views.specifications(account.server).hash
        first = await client.synchronize(ids[0], specificationsHashes=[known])
        assert first[0]["specificationsHashIndex"] == 0
        sandbox.faults.switch_on(Fault(kind=StagedFault.IGNORE_HASHES))
        await client.ask("unsubscribe", ids[0], instanceIndex=0)
        await client.synchronize(ids[0], specificationsHashes=[known])
        started = client.of("synchronizationStarted")[-1]
        assert "specificationsHashIndex" not in started
        assert len(client.of("specifications")[0]["specifications"]) == len(account.server.specs)


async def test_a_changed_symbol_is_streamed_and_makes_hashes_stale(connect):
    """Who listens learns it; who shows the old hash is sent everything."""
    async with running() as (sandbox, ids), connect(sandbox) as client:
        server = sandbox.broker.account(ids[0]).server
        known = sandbox.stream.views.specifications(server).hash
        await client.synchronize(ids[0])
        symbol = next(iter(server.specs))
        async with httpx.AsyncClient(base_url=sandbox.url) as http:
            path = f"/control/servers/{server.name}/symbols/{symbol}"
            answer = await http.patch(path, json={"max_volume": "77"})
            assert answer.json()["max_volume"] == "77"
            assert (await http.patch(f"{path}X", json={})).status_code == 404
        await client.until(lambda: len(client.of("specifications")) == 2)
        (changed,) = client.of("specifications")[1]["specifications"]
        assert (changed["symbol"], changed["maxVolume"]) == (symbol, 77)
        assert sandbox.stream.views.specifications(server).hash != known
