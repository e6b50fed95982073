"""The plain SDK as a process of its own, and the story of a lost second socket, for any client."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from brokerd.sandbox.faults import Fault, FaultKind
from brokerd.sandbox.outages import is_second
from brokerd.sandbox.server import Sandbox
from brokerd.sandbox.truth import TruthAccount

PLAIN_SDK = Path(__file__).parents[2] / "examples" / "plain_sdk.py"


class Watcher(Protocol):
    """A client that follows one account, whatever it is made of."""

    async def synchronized(self) -> None:
        """Wait until the client believes that it is up to date."""

    def seen(self) -> set[str]:
        """Return the ids of all deals the stream has shown it."""


@dataclass
class PlainSdk:
    """`examples/plain_sdk.py`, running."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, is_enough: Callable[[], bool], *, seconds: float = 30) -> None:
        """Wait until the condition holds; raises `TimeoutError`."""
        async with asyncio.timeout(seconds), self.arrived:
            await self.arrived.wait_for(is_enough)

    async def synchronized(self) -> None:
        """Wait until the SDK says `synchronized`."""
        await self.until(lambda: any("synchronized" in message for message in self.messages))

    def seen(self) -> set[str]:
        """Return the ids of the deals its listener was told of."""
        return {message["deal"] for message in self.messages if "deal" in message}

    async def listen(self, output: asyncio.StreamReader) -> None:
        """Take in what the process prints; the SDK's own chatter is left out."""
        async for line in output:
            if line.startswith(b"{"):
                async with self.arrived:
                    self.messages.append(json.loads(line))
                    self.arrived.notify_all()


RunPlainSdk = Callable[..., AbstractAsyncContextManager[PlainSdk]]


@pytest.fixture
def plain_sdk(tmp_path: Path) -> RunPlainSdk:
    """Return how to run the plain SDK against a sandbox, for as long as a block lasts.

    Without a CA it is told the sandbox's address; with one it builds its addresses itself.
    """

    @asynccontextmanager
    async def run(
        sandbox: Sandbox, account: TruthAccount, *, ca: Path | None = None
    ) -> AsyncIterator[PlainSdk]:
        target = ("--url", sandbox.url) if ca is None else ("--domain", sandbox.domain)
        trust = {} if ca is None else {"SSL_CERT_FILE": str(ca)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(PLAIN_SDK), *target, "--account", account.metaapi_id),
            cwd=tmp_path,  # the SDK writes its history into the working directory
            env=os.environ | {"METAAPI_TOKEN": sandbox.settings.token} | trust,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        client = PlainSdk()
        try:
            listening = asyncio.create_task(client.listen(process.stdout))
            yield client
        finally:
            process.kill()
            await process.wait()
            await listening

    return run


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What became of the deals traded after a second socket was lost."""

    was_dropped: bool
    made: frozenset[str]
    seen: frozenset[str]


LoseSecondSocket = Callable[..., Coroutine[None, None, Loss]]


@pytest.fixture
def lose_second_socket() -> LoseSecondSocket:
    """Return the story of must-show 7, to be played to any client.

    The client is synchronized; its second socket, if it opened one, is cut once and comes back;
    then at least `deals` deals are traded, and the client has `patience_seconds` to see them.
    """

    async def play(
        sandbox: Sandbox,
        account: TruthAccount,
        watcher: Watcher,
        *,
        is_dropping: bool = True,
        deals: int = 100,
        patience_seconds: float = 10,
    ) -> Loss:
        await watcher.synchronized()
        was_dropped = is_dropping and await _cut_second(sandbox, account)
        made: set[str] = set()
        known = {deal.deal_id for deal in account.deals()}
        while len(made) < deals:
            sandbox.market.trade(account)
            made = {deal.ticket for deal in account.deals() if deal.deal_id not in known}
            await asyncio.sleep(0.01)
        await _until(lambda: made <= watcher.seen(), seconds=patience_seconds)
        seen = frozenset(made & watcher.seen())
        return Loss(was_dropped=was_dropped, made=frozenset(made), seen=seen)

    return play


async def _cut_second(sandbox: Sandbox, account: TruthAccount) -> bool:
    """Cut the account's second socket and wait until it is back; say whether there was one."""
    second = [
        socket
        for socket, streams in sandbox.stream.registry.sockets()
        if is_second(streams) and any(s.account_id == account.metaapi_id for s in streams)
    ]
    if not second:
        return False
    sockets = set(sandbox.sockets.sockets)
    fault = Fault(
        kind=FaultKind.DROP_IDLE_SOCKETS, account_ids=frozenset({account.metaapi_id}), limit=1
    )
    sandbox.faults.switch_on(fault)
    assert await _until(lambda: bool(set(sandbox.sockets.sockets) - sockets), seconds=20)
    await asyncio.sleep(1)  # the client finishes what it does on reconnecting
    return sandbox.faults.injected[FaultKind.DROP_IDLE_SOCKETS] == 1


async def _until(is_enough: Callable[[], bool], *, seconds: float) -> bool:
    """Wait until the condition holds; say whether it did in time."""
    for _ in range(int(seconds * 10)):
        if is_enough():
            return True
        await asyncio.sleep(0.1)
    return is_enough()
