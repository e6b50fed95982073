"""A client that is wedged is replaced beside its healthy links, on real sockets."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from brokerd.connector.metaapi_stream import client, clients, stream, wedge
from brokerd.connector.metaapi_stream.overrides import subscriptions
from brokerd.connector.metaapi_stream.wedge import Vitals
from brokerd.connector.ports import Connected, DealSeen, Disconnected, Synchronized
from brokerd.errors import LinkLost, TimedOut
from brokerd.sandbox.faults import Fault, FaultKind
from brokerd.sandbox.server import SandboxSettings, running_sandbox
from brokerd.sandbox.stream import StreamSettings

QUIET = SandboxSettings(deals_per_account_minute=0, stream=StreamSettings(status_seconds=0.5))

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge in tenths of what are seconds in production."""
    monkeypatch.setattr(client, "DEAF_SECONDS", 0.1)
    monkeypatch.setattr(wedge, "CLOSE_SECONDS", 0.3)
    monkeypatch.setattr(wedge, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(stream, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(subscriptions, "UNSUBSCRIBE_SECONDS", 0.2)
    monkeypatch.setattr(stream, "STUCK_CLOSE_SECONDS", 0.5)


async def never(*_: object, **__: object) -> None:
    """Hang."""
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("is_judged", [True, False], ids=["replaced", "without judgement"])
async def test_a_wedged_client_is_replaced_without_touching_healthy_links(
    streaming: Run, monkeypatch: pytest.MonkeyPatch, *, is_judged: bool
) -> None:
    """Links that hear nothing come up on a new client; the healthy one keeps session and socket.

    Without the judgement they never do.
    """
    if not is_judged:
        monkeypatch.setattr(clients, "why_wedged", lambda *_, **__: None)
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        healthy = sandbox.add_account()
        watched = await ours.open(healthy.metaapi_id)
        await watched.until(lambda: watched.of(Synchronized))
        (socket,) = sandbox.sockets.sockets
        (old,) = ours.clients
        # a loop that died inside: no account gets a place on a socket any more
        old._ws._create_socket_instance_by_account = never
        for _ in range(5):
            deaf = await ours.open(sandbox.add_account().metaapi_id)
            await asyncio.sleep(0.15)
            await deaf.session.close()
        account = sandbox.add_account()
        moved = await ours.open(account.metaapi_id)
        with suppress(TimeoutError):
            await moved.until(lambda: moved.of(Synchronized), seconds=3 if is_judged else 1)
        assert bool(moved.of(Connected)) is is_judged
        assert len(ours.clients) == (2 if is_judged else 1)
        sandbox.market.trade(healthy, deals=1)
        await watched.until(lambda: watched.of(DealSeen), seconds=2)
        assert watched.of(Disconnected) == []
        assert len(watched.of(Connected)) == 1
        assert socket in sandbox.sockets.sockets
        if is_judged:
            await ours.stream.tend()
            assert old in ours.clients  # while its healthy link is on it
            await watched.session.close()
            await ours.stream.tend()
            assert old not in ours.clients
            assert socket not in sandbox.sockets.sockets
            sandbox.market.trade(account, deals=1)
            await moved.until(lambda: moved.of(DealSeen), seconds=2)


async def test_a_client_that_was_replaced_leaves_no_task(streaming: Run) -> None:
    """Dismantled alone, beside one that lives on, it is gone without a trace."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        first = await ours.open(sandbox.add_account().metaapi_id)
        await first.until(lambda: first.of(Synchronized))
        await first.session.close()
        await first.until(lambda: first.ended)
        before = names()
        ours.clients[0].calls.start(never(), name="sdk-hangs")
        ours.clients[0].vitals = lambda **_: Vitals(hanging_calls=99)
        stays = await ours.open(sandbox.add_account().metaapi_id)
        await stays.until(lambda: stays.of(Synchronized))
        assert len(ours.clients) == 2
        await ours.stream.tend()
        await asyncio.sleep(0.2)
        assert len(ours.clients) == 1
        await stays.session.close()
        await stays.until(lambda: stays.ended)
        await asyncio.sleep(0.2)
        assert names() == before
        assert len(sandbox.sockets.sockets) == 1


def names() -> list[str]:
    """Return what every task runs."""
    return sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks())


async def test_after_its_time_a_replaced_client_ends_what_stayed(
    streaming: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session that never left is lost, as one that a link opens again."""
    monkeypatch.setattr(clients, "RETIRED_SECONDS", 0.0)
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account = sandbox.add_account()
        stays = await ours.open(account.metaapi_id)
        await stays.until(lambda: stays.of(Synchronized))
        ours.clients[0].vitals = lambda **_: Vitals(hanging_calls=99)
        other = await ours.open(sandbox.add_account().metaapi_id)
        await ours.stream.tend()
        await stays.until(lambda: stays.ended, seconds=1)
        assert isinstance(stays.ended, LinkLost)
        await stays.session.close()
        again = await ours.open(account.metaapi_id)
        for watched in (other, again):
            await watched.until(lambda: watched.of(Synchronized))  # noqa: B023  # awaited here
        assert len(sandbox.stream.registry.of_account(account.metaapi_id)) == 1


async def test_a_stuck_close_moves_its_account_alone(streaming: Run) -> None:
    """Re-opened while its close hangs, it streams once, on a new client; the other one stays."""
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        stays, moves = (sandbox.add_account() for _ in range(2))
        kept = await ours.open(stays.metaapi_id)
        first = await ours.open(moves.metaapi_id)
        for watched in (kept, first):
            await watched.until(lambda: watched.of(Synchronized))  # noqa: B023  # awaited here
        (old,) = ours.clients
        hanging, old._ws.unsubscribe = old._ws.unsubscribe, never
        await first.session.close()
        again = await ours.open(moves.metaapi_id)
        await again.until(lambda: again.of(Synchronized))
        await asyncio.sleep(1.0)  # the old client says farewell to what it still hears of
        assert len(sandbox.stream.registry.of_account(moves.metaapi_id)) == 1
        sandbox.market.trade(moves, deals=1)
        await again.until(lambda: len(again.of(DealSeen)) == 1, seconds=2)
        sandbox.market.trade(stays, deals=1)
        await kept.until(lambda: kept.of(DealSeen), seconds=2)
        assert kept.of(Disconnected) == []
        assert first.of(DealSeen) == []
        # the close that comes after all says nothing: neither to the server nor to the new session
        await hanging(moves.metaapi_id)
        sandbox.market.trade(moves, deals=1)
        await again.until(lambda: len(again.of(DealSeen)) == 2, seconds=2)


async def test_a_stuck_close_waits_while_its_client_may_not_be_replaced(
    streaming: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same client the account would be deaf, so its link is told to come back later."""
    monkeypatch.setattr(wedge, "FIRST_PAUSE_SECONDS", 60.0)
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        account_id = sandbox.add_account().metaapi_id
        first = await ours.open(account_id)
        await first.until(lambda: first.of(Synchronized))
        ours.clients[0]._ws.unsubscribe = never
        await first.session.close()
        with pytest.raises(TimedOut):
            await ours.open(account_id)
        ours.clients[0].made_at -= 60
        again = await ours.open(account_id)
        await again.until(lambda: again.of(Synchronized))


async def test_a_mute_server_is_not_taken_for_a_wedge_for_ever(
    streaming: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing at all is heard clients are replaced at growing pauses; then all is well."""
    monkeypatch.setattr(wedge, "FIRST_PAUSE_SECONDS", 0.5)
    monkeypatch.setattr(wedge, "CLOSE_SECONDS", 15.0)  # as it is: a mute close takes seven
    async with running_sandbox(QUIET) as sandbox, streaming(sandbox) as ours:
        sandbox.faults.switch_on(Fault(kind=FaultKind.MUTE))
        for _ in range(20):
            deaf = await ours.open(sandbox.add_account().metaapi_id)
            await asyncio.sleep(0.15)
            await deaf.session.close()
            await ours.stream.tend()
        replaced = ours.clients_replaced()
        assert 1 <= replaced <= 3
        sandbox.faults.switch_off(FaultKind.MUTE)
        watched = await ours.open(sandbox.add_account().metaapi_id)
        await watched.until(lambda: watched.of(Synchronized))
        async with asyncio.timeout(5):
            while len(ours.clients) > 1:
                await asyncio.sleep(0.2)
                await ours.stream.tend()
