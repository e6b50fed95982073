"""Whose turn it is to synchronize: a link that left, whatever became of its turn, blocks nobody."""

import asyncio
from collections.abc import Callable
from typing import Any

from brokerd.connector.ports import Connected, Synchronized
from brokerd.sandbox.faults import Fault, FaultKind
from brokerd.sandbox.server import SandboxSettings, running_sandbox

Run = Callable[..., Any]
QUIET = SandboxSettings(deals_per_account_minute=0)


async def test_b33_a_link_that_left_gives_its_turn_back(streaming: Run) -> None:
    """Its synchronization never ended; the SDK would keep the turn for 20 s, here its only one."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        stuck, other = sandbox.add_account(), sandbox.add_account()
        lost = Fault(kind=FaultKind.LOSE_PACKETS, account_ids=frozenset({stuck.metaapi_id}))
        sandbox.faults.switch_on(lost)
        first = await ours.open(stuck.metaapi_id)
        await first.until(lambda: sandbox.faults.injected[FaultKind.LOSE_PACKETS])
        await first.session.close()
        second = await ours.open(other.metaapi_id)
        await second.until(lambda: second.of(Synchronized), seconds=3)


async def test_b33_a_link_that_left_while_it_waited_takes_no_turn(streaming: Run) -> None:
    """Five wait behind one that is stuck and leave; when all came back, all synchronize at once."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        stuck, *others = (sandbox.add_account() for _ in range(6))
        lost = Fault(kind=FaultKind.LOSE_PACKETS, account_ids=frozenset({stuck.metaapi_id}))
        sandbox.faults.switch_on(lost)
        first = await ours.open(stuck.metaapi_id)
        await first.until(lambda: sandbox.faults.injected[FaultKind.LOSE_PACKETS])
        waiting = [await ours.open(account.metaapi_id) for account in others]
        for each in waiting:
            await each.until(lambda: each.of(Connected))  # noqa: B023  # awaited here
        await asyncio.sleep(0.5)
        for each in (first, *waiting):
            await each.session.close()
        again = [await ours.open(account.metaapi_id) for account in others[:3]]
        for each in again:
            await each.until(lambda: each.of(Synchronized), seconds=3)  # noqa: B023  # likewise
