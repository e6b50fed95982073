"""However links come, go and come back, also while a close is stuck: never deaf, never doubled."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest

from brokerd.connector.metaapi_stream import stream, wedge
from brokerd.connector.metaapi_stream.overrides import sockets, subscriptions
from brokerd.connector.ports import DealSeen, Synchronized
from brokerd.errors import LinkLost, TimedOut
from brokerd.sandbox.faults import Fault, FaultKind
from brokerd.sandbox.server import Sandbox, SandboxSettings, running_sandbox
from brokerd.sandbox.stream import StreamSettings
from brokerd.sandbox.truth import TruthAccount

QUIET = SandboxSettings(deals_per_account_minute=0, stream=StreamSettings(status_seconds=0.3))
ACCOUNTS = 4
STEPS = 25
SEEDS = range(int(os.environ.get("BROKERD_REOPENINGS", "3")))
SETTLE_SECONDS = 20

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what takes seconds in production take tenths."""
    monkeypatch.setattr(subscriptions, "UNSUBSCRIBE_SECONDS", 0.2)
    monkeypatch.setattr(sockets, "FAREWELL_SECONDS", 0.5)
    monkeypatch.setattr(wedge, "CLOSE_SECONDS", 2.0)
    monkeypatch.setattr(wedge, "FIRST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(stream, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(stream, "STUCK_CLOSE_SECONDS", 2.5)


class PlainLink:
    """A connection of the plain SDK."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def until_heard(self) -> None:
        """Wait for its synchronization."""
        await self._connection.wait_synchronized({"timeoutInSeconds": 10})

    def deals(self) -> int:
        """Count what it holds."""
        return len(self._connection.history_storage.deals)

    async def close(self) -> None:
        """Close it."""
        await self._connection.close()


class OurLink:
    """A session of ours."""

    def __init__(self, watched: Any) -> None:
        self._watched = watched

    async def until_heard(self) -> None:
        """Wait for its synchronization."""
        await self._watched.until(lambda: self._watched.of(Synchronized))

    def deals(self) -> int:
        """Count what it heard."""
        return len(self._watched.of(DealSeen))

    async def close(self) -> None:
        """Close it."""
        await self._watched.session.close()


async def open_as(kind: str, sdk: Any, ours: Any, url: str, account_id: str) -> Any:
    """Open a link of either kind."""
    if kind == "contained":
        return OurLink(await ours.open(account_id))
    sdk.api(kind, url)._metaapi_websocket_client._request_timeout = 0.5
    connection = sdk.connection(kind, url, account_id)
    await connection.connect()
    return PlainLink(connection)


class Program:
    """Links that do at random what links do, on a server that is mute at random."""

    def __init__(self, sandbox: Sandbox, ours: Any, random: Random) -> None:
        self.sandbox = sandbox
        self.ours = ours
        self.random = random
        self.accounts = [sandbox.add_account() for _ in range(ACCOUNTS)]
        self.open: dict[str, Any] = {}
        self.ended: list[Any] = []
        self.stuck: set[str] = set()

    async def step(self) -> None:
        """Do one thing."""
        account = self.random.choice(self.accounts).metaapi_id
        deeds = [self.toggle, self.toggle, self.cancel, self.mute, self.drop, self.stick]
        await self.random.choice(deeds)(account)
        await asyncio.sleep(self.random.choice([0.0, 0.01, 0.1, 0.3]))

    async def toggle(self, account: str) -> None:
        """Open what is closed, close what is open."""
        if account in self.open:
            await self.close(account)
            return
        try:
            self.open[account] = await self.ours.open(account)
        except (TimedOut, LinkLost):  # its close is stuck on a client that is too young
            return

    async def close(self, account: str) -> None:
        """Close a session."""
        watched = self.open.pop(account)
        self.ended.append(watched)
        await watched.session.close()

    async def cancel(self, account: str) -> None:
        """Give an open up in its middle."""
        if account in self.open:
            return
        opening = asyncio.ensure_future(self.ours.open(account))
        await asyncio.sleep(self.random.choice([0.0, 0.005, 0.02]))
        opening.cancel()
        await asyncio.wait({opening})
        if not opening.cancelled() and opening.exception() is None:
            self.open[account] = opening.result()

    async def mute(self, _account: str) -> None:
        """Mute the server, or let it speak again."""
        if self.sandbox.faults.get(FaultKind.MUTE):
            self.sandbox.faults.switch_off(FaultKind.MUTE)
        else:
            self.sandbox.faults.switch_on(Fault(kind=FaultKind.MUTE))

    async def drop(self, _account: str) -> None:
        """Cut every socket."""
        self.sandbox.drop_sockets()

    async def stick(self, account: str) -> None:
        """Let the next close of an account hang inside the SDK for ever."""
        for client in self.ours.clients:
            unsubscribe = client._ws.unsubscribe

            async def hang(left: str, unsubscribe: Any = unsubscribe) -> None:
                if left in self.stuck:
                    await asyncio.get_running_loop().create_future()
                await unsubscribe(left)

            client._ws.unsubscribe = hang
        if self.ours.clients:
            self.stuck.add(account)

    async def settle(self) -> None:
        """Let the server speak, and every link do what a link does until it hears."""
        self.sandbox.faults.switch_off_all()
        self.stuck.clear()
        for watched in self.open.values():
            watched.events.clear()
        async with asyncio.timeout(SETTLE_SECONDS):
            while not await self._all_hear():
                for account in [a for a, each in self.open.items() if not each.deal_ids()]:
                    await self.close(account)
                    await self.toggle(account)

    async def _all_hear(self) -> bool:
        """Deal until everyone heard, as long as the SDK takes to come back from a cut socket."""
        for _ in range(8):
            for account in self.accounts:
                self.sandbox.market.trade(account, deals=1)
            await asyncio.sleep(0.1 if all(e.deal_ids() for e in self.open.values()) else 1.0)
            if all(each.deal_ids() for each in self.open.values()):
                return True
        return False

    async def streams(self) -> Sequence[int]:
        """Return how often the server streams each account, once late farewells were said."""
        async with asyncio.timeout(SETTLE_SECONDS):
            while (now := self._streams()) != self._wanted():
                await self.ours.stream.tend()
                await asyncio.sleep(0.2)
        return now

    def _streams(self) -> Sequence[int]:
        of_account = self.sandbox.stream.registry.of_account
        return [len(of_account(account.metaapi_id)) for account in self.accounts]

    def _wanted(self) -> Sequence[int]:
        return [int(account.metaapi_id in self.open) for account in self.accounts]

    def heard(self, account: TruthAccount) -> tuple[Counter[str], set[str]]:
        """Return the new deals that an account's session and ended sessions heard."""
        known = {deal.deal_id for deal in account.deals()}
        live = self.open.get(account.metaapi_id)
        deals = Counter(each.deal.deal_id for each in live.of(DealSeen)) if live else Counter()
        late = {deal for each in self.ended for deal in each.deal_ids() if deal in known}
        return deals, late


@pytest.mark.parametrize(("kind", "is_heard"), [("plain", False), ("contained", True)])
async def test_b7_a_link_opened_while_its_last_close_is_under_way_is_heard(
    sdk: Any, streaming: Run, *, kind: str, is_heard: bool
) -> None:
    """The farewell is said twice; in the plain SDK the second one is meant for the new stream."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account = sandbox.add_account()
        first = await open_as(kind, sdk, ours, sandbox.url, account.metaapi_id)
        await first.until_heard()
        sandbox.faults.switch_on(Fault(kind=FaultKind.MUTE))
        closing = asyncio.ensure_future(first.close())
        await asyncio.sleep(0.15)
        sandbox.faults.switch_off(FaultKind.MUTE)
        again = await open_as(kind, sdk, ours, sandbox.url, account.metaapi_id)
        await asyncio.wait({closing}, timeout=3)
        await asyncio.sleep(2.0)
        before = again.deals()
        sandbox.market.trade(account, deals=1)
        await asyncio.sleep(0.5)
        assert (again.deals() > before) is is_heard


@pytest.mark.parametrize("seed", SEEDS)
async def test_links_that_come_and_go_end_neither_deaf_nor_doubled(
    streaming: Run, seed: int
) -> None:
    """At the end each open link hears a new deal once, on one stream; the others have none."""
    async with (
        running_sandbox(QUIET) as sandbox,
        streaming(sandbox, request_timeout_seconds=1, connect_timeout_seconds=2) as ours,
    ):
        program = Program(sandbox, ours, Random(seed))
        for _ in range(STEPS):
            await program.step()
        await program.settle()
        assert await program.streams() == program._wanted()
        for watched in (*program.open.values(), *program.ended):
            watched.events.clear()
        for account in program.accounts:
            sandbox.market.trade(account, deals=1)
        await asyncio.sleep(0.5)
        for account in program.accounts:
            deals, late = program.heard(account)
            assert late == set()
            is_open = account.metaapi_id in program.open
            assert bool(deals) is is_open
            assert all(count == 1 for count in deals.values())
