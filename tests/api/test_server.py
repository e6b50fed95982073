"""The listener runs inside our loop, on a socket it bound, and leaves signals alone."""

import asyncio
import os
import signal
import socket

import httpx
import pytest

from brokerd.api.server import ApiServer, bind
from brokerd.clock import SystemClock
from brokerd.config.settings import ApiSettings, Secret
from brokerd.errors import ConfigInvalid
from brokerd.store.memory import MemoryState

SETTINGS = ApiSettings(key=Secret("k" * 32), port=0)


@pytest.fixture
def server(new_api):
    """Bind a server over an empty store."""
    made = ApiServer(new_api(MemoryState(clock=SystemClock())).app, listener=bind(SETTINGS))
    yield made
    made.close()


async def test_it_answers_and_stops_when_told(server):
    """It serves over a real socket; told to stop it returns, and the address is free again."""
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        running = group.create_task(server.run(), name=server.name)
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.get("/livez")).status_code == 200
            server.stop()
            await running
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((server.host, server.port))


async def test_it_takes_no_signals(server):
    """Our own handler of SIGTERM runs while it serves, and it goes on serving."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    try:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            running = group.create_task(server.run())
            async with httpx.AsyncClient(base_url=server.url) as client:
                await client.get("/livez")
                os.kill(os.getpid(), signal.SIGTERM)
                await told.wait()
                await asyncio.sleep(0.3)  # uvicorn looks every 0.1 s whether it should exit
                assert not running.done()
                assert (await client.get("/livez")).status_code == 200
            server.stop()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def test_cancelled_it_leaves_nothing_open(server):
    """Cancellation ends it at once and gives the address back."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.run())
        async with httpx.AsyncClient(base_url=server.url) as client:
            await client.get("/livez")
        running.cancel()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((server.host, server.port))


def test_a_taken_port_is_said_so(server):
    """It is a fault of configuration that names the address, not an exit."""
    taken = ApiSettings(key=SETTINGS.key, port=server.port)
    server._socket.listen()
    with pytest.raises(ConfigInvalid, match=f"127.0.0.1:{server.port}"):
        bind(taken)


def test_it_listens_on_loopback(server):
    """The default address is loopback."""
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert server.port > 0
