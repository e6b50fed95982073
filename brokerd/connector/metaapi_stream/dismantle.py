"""Ends a MetaApi client for good, in bounded time, whatever its server does (sdk.md 5)."""
# ruff: noqa: SLF001  # the SDK's own close() leaves loops behind that open sockets again (B9)

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import engineio
import metaapi_cloud_sdk
import socketio
from metaapi_cloud_sdk import MetaApi

from brokerd.connector.metaapi_stream.calls import Calls
from brokerd.connector.metaapi_stream.sdk import SocketRecord

FAREWELL_SECONDS = 0.3
"""How long the sockets may take to close in order; a mute server would take ten seconds each."""
CANCEL_SECONDS = 0.3

_FOLDERS = tuple(
    str(Path(module.__file__ or "").parent) for module in (metaapi_cloud_sdk, socketio, engineio)
)


async def dismantle(api: MetaApi, *, calls: Calls) -> None:
    """Stop what runs in a client and close its sockets; never raises.

    What the SDK still runs for it ends by itself within a minute, or by `cancel_leftovers`.
    """
    ws = api._metaapi_websocket_client
    subscriptions = ws._subscription_manager
    for connection in api._connection_registry.streaming_connections.values():
        connection._closed = True  # its loops look at it before they synchronize again
    for subscription in list(subscriptions._subscriptions):
        subscriptions.cancel_subscribe(subscription)
    instances = list(_instances(ws._socket_instances))
    ws.stop()
    try:
        closing = calls.start(ws.close(), name="sdk-close")
        await calls.wait(closing, limit_seconds=FAREWELL_SECONDS)
    except Exception:  # noqa: BLE001, S110  # it is thrown away either way
        pass
    calls.end()
    for instance in instances:
        instance["connected"] = False
        instance["synchronizationThrottler"].stop()
        await _cut(instance["socket"])
    ws._packet_orderer.stop()
    for timer in ws._status_timers.values():
        timer.cancel()
    api._terminal_hash_manager._stop()
    await _cancel(set(calls.running))


async def cancel_leftovers(*, calls: Iterable[Calls]) -> int:
    """Cancel every task that runs SDK code; return how many did not end.

    Only for the end of the process's last client: it cannot tell whose a task is.
    """
    leftovers = {task for task in asyncio.all_tasks() if _is_sdk(task)}
    return await _cancel(leftovers.union(*(each.running for each in calls)))


async def _cancel(tasks: Collection["asyncio.Task[object]"]) -> int:
    """Cancel what is thrown away anyhow; return how many did not end."""
    for task in tasks:
        task.cancel()
    if not tasks:
        return 0
    _, pending = await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
    return len(pending)


async def _cut(sio: socketio.AsyncClient) -> None:
    """Close a socket without asking its server; state first, or its loops would not end."""
    sio.eio.state = "disconnected"
    if sio.eio.ping_loop_event is not None:
        sio.eio.ping_loop_event.set()
    if sio.eio.http is not None and not sio.eio.http.closed:
        await sio.eio.http.close()


def _instances(
    table: Mapping[str, Mapping[int, list[SocketRecord]]],
) -> Iterator[SocketRecord]:
    for numbers in table.values():
        for instances in numbers.values():
            yield from instances


def _is_sdk(task: asyncio.Task[object]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_FOLDERS)
