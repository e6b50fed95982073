"""What MetaApi refuses tells how much it allows."""

import asyncio
from collections.abc import Callable
from typing import Any

from brokerd.connector.metaapi_stream.parts import StreamPorts
from brokerd.sandbox.limits import SubscriptionLimits
from brokerd.sandbox.server import SandboxSettings, running_sandbox

QUIET = SandboxSettings(deals_per_account_minute=0)


async def test_a_refused_subscription_tells_the_limit(
    streaming: Callable[..., Any], ports: StreamPorts
) -> None:
    """Of no account at all, here: the first open hears of it."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        sandbox.state.limits.subscriptions = SubscriptionLimits(per_deployed_account=0)
        account = sandbox.add_account()
        await ours.open(account.metaapi_id)
        for _ in range(100):
            if hasattr(ports.sockets, "subscriptions"):
                break
            await asyncio.sleep(0.1)
        assert ports.sockets.subscriptions == {"main": 0}
