"""systemd hears what it must, over either kind of socket, and its absence hurts nobody."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from brokerd.health.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Bind a notify socket as systemd does, and give it with the name it is announced by."""
    name = f"@brokerd-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(name.replace("@", "\0"))
        server.settimeout(5)
        yield server, name


def test_messages(listener: tuple[socket.socket, str]) -> None:
    """Each call is one datagram in systemd's words; a status is one line."""
    server, name = listener
    notifier = Notifier(environ={"NOTIFY_SOCKET": name}, pid=1)
    notifier.ready()
    notifier.alive()
    notifier.status("300 of 300\nlinks live")
    notifier.stopping()
    assert [server.recv(100) for _ in range(4)] == [
        b"READY=1",
        b"WATCHDOG=1",
        b"STATUS=300 of 300 links live",
        b"STOPPING=1",
    ]


def test_nobody_listens(tmp_path: Path) -> None:
    """Without a socket nothing is sent; with a dead one the failure is logged and no more."""
    with capture_logs() as logs:
        Notifier(environ={}, pid=1).ready()
        assert logs == []
        Notifier(environ={"NOTIFY_SOCKET": str(tmp_path / "gone")}, pid=1).ready()
    assert [entry["event"] for entry in logs] == ["notify.failed"]


@pytest.mark.parametrize(
    ("environ", "ping_seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_watchdog_interval(environ: dict[str, str], ping_seconds: float | None) -> None:
    """We ping twice in the time allowed, if there is a watchdog and it means us."""
    assert Notifier(environ=environ, pid=7).ping_seconds == ping_seconds
