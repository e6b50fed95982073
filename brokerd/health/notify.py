"""What systemd is told over its notify socket: ready, alive, stopping, and a line of status."""

import socket
from collections.abc import Mapping

import structlog

log = structlog.get_logger(__name__)


class Notifier:
    """Sends datagrams to the socket that `environ` names; without one, every call does nothing.

    A message that cannot be delivered is logged and forgotten: systemd draws its own conclusions.
    """

    def __init__(self, *, environ: Mapping[str, str], pid: int) -> None:
        """Read NOTIFY_SOCKET and the watchdog's settings, which may be meant for another pid."""
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._watchdog_seconds = _watchdog_seconds(environ, pid)

    @property
    def ping_seconds(self) -> float | None:
        """Return how often to call `alive`, half of what is allowed; None without a watchdog."""
        return self._watchdog_seconds and self._watchdog_seconds / 2

    def ready(self) -> None:
        """Say that the service has started."""
        self._send("READY=1")

    def alive(self) -> None:
        """Say that work progresses."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the service drains."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Say what the service does now, in one line."""
        self._send(f"STATUS={' '.join(text.split())}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(), self._address)
        except OSError as error:
            log.warning("notify.failed", message=message, error=str(error))


def _watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    microseconds = environ.get("WATCHDOG_USEC", "")
    is_meant_for_us = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
    if not (microseconds.isdecimal() and is_meant_for_us):
        return None
    return int(microseconds) / 1_000_000 or None
