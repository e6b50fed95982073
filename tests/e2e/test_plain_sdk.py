"""The unmodified SDK against the sandbox: it synchronizes, and loses what it is known to lose."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificate

from brokerd.sandbox.habits import Past
from brokerd.sandbox.limits import Limits, SubscriptionLimits, SynchronizationLimit
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox

pytestmark = pytest.mark.e2e

RunPlainSdk = Callable[..., AbstractAsyncContextManager[Any]]
QUIET = SandboxSettings(deals_per_account_minute=0)


async def synchronize_and_trade(
    sandbox: Sandbox, plain_sdk: RunPlainSdk, *, ca: Path | None = None
) -> None:
    """Let the plain SDK synchronize an account, then see a live deal."""
    account = sandbox.add_account(past=Past(deals=30, positions=2))
    async with plain_sdk(sandbox, account, ca=ca) as client:
        await client.synchronized()
        history = {deal.ticket for deal in account.deals()}
        assert client.seen() == history
        state = next(message for message in client.messages if "synchronized" in message)
        assert state["synchronized"] is True
        assert state["specifications"] == len(account.server.specs)
        assert state["positions"] == 2
        assert state["balance"] == pytest.approx(float(account.balance), abs=1e-9)
        await asyncio.sleep(1.5)  # what comes at once after a sync the plain SDK may lose (A2)
        sandbox.market.trade(account)
        live = {deal.ticket for deal in account.deals()} - history
        await client.until(lambda: live <= client.seen())


async def test_the_unmodified_sdk_synchronizes_and_sees_deals(plain_sdk: RunPlainSdk) -> None:
    """With nothing replaced but its addresses it gets state, history and a live deal."""
    async with running_sandbox(QUIET) as sandbox:
        await synchronize_and_trade(sandbox, plain_sdk)


async def test_the_sdk_needs_no_patch_at_all(plain_sdk: RunPlainSdk, tmp_path: Path) -> None:
    """Over TLS it builds its own addresses, and everything works the same."""
    ca, certificate = await make_certificate(tmp_path)
    settings = SandboxSettings(deals_per_account_minute=0, certificate=certificate)
    async with running_sandbox(settings) as sandbox:
        assert sandbox.url.startswith("https://")
        await synchronize_and_trade(sandbox, plain_sdk, ca=ca)


async def test_the_plain_sdk_goes_deaf_when_its_idle_socket_is_lost(
    plain_sdk: RunPlainSdk, lose_second_socket: Callable[..., Any]
) -> None:
    """One drop of the socket that carries nothing, and 0 of 100 live deals arrive (sdk.md A1)."""
    async with running_sandbox(QUIET) as sandbox:
        account = sandbox.add_account()
        async with plain_sdk(sandbox, account) as client:
            loss = await lose_second_socket(sandbox, account, client)
        story = f"plain SDK, regular account: {len(loss.seen)} of {len(loss.made)} deals by stream"
        print(story)  # noqa: T201  # shown beside our own adapter's
        assert loss.was_dropped
        assert len(loss.made) >= 100
        assert loss.seen == frozenset()


async def test_the_plain_sdk_hears_all_while_nothing_is_lost(
    plain_sdk: RunPlainSdk, lose_second_socket: Callable[..., Any]
) -> None:
    """The same story without a second socket to lose: the loss above is the socket's doing."""
    async with running_sandbox(QUIET) as sandbox:
        account = sandbox.add_account()
        async with plain_sdk(sandbox, account) as client:
            await client.synchronized()
            await asyncio.sleep(1.5)
            loss = await lose_second_socket(sandbox, account, client, is_dropping=False)
        assert not loss.was_dropped
        assert loss.seen == loss.made


@pytest.mark.parametrize(
    "limits",
    [
        Limits(subscriptions=SubscriptionLimits(per_server=0, retry_seconds=1)),
        Limits(subscriptions=SubscriptionLimits(per_user_per_server=0, retry_seconds=1)),
        Limits(synchronizations=SynchronizationLimit(concurrent=0, seconds=1)),
    ],
    ids=["server", "user and server", "synchronizations"],
)
async def test_the_plain_sdk_understands_the_limits(plain_sdk: RunPlainSdk, limits: Limits) -> None:
    """It reads every refusal of the stream, waits, and synchronizes once there is room."""
    async with running_sandbox(replace(QUIET, limits=limits)) as sandbox:
        account = sandbox.add_account(past=Past(deals=5, positions=0))
        async with plain_sdk(sandbox, account) as client:
            async with asyncio.timeout(30):
                while sandbox.stream.limits.refused.total() < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            assert client.messages == []
            sandbox.state.limits.subscriptions = sandbox.state.limits.synchronizations = None
            await client.synchronized()
            assert client.seen() == {deal.ticket for deal in account.deals()}
