"""Which attempts to open a socket of the stream failed: those after which nothing lived.

A server that accepts and closes at once answers every attempt; only a terminal that speaks proves
that a socket works.
"""

from itertools import count

from brokerd.connector.governor.ports import Call, Service, Socket


class Sockets:
    """What was tried, and what lived since."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._tried: dict[tuple[str, str], set[str]] = {}

    def turn(self, socket: Socket) -> tuple[Call, bool]:
        """Return the call of a socket's next attempt, and whether its last one failed."""
        tried = self._tried.setdefault((socket.token, socket.region), set())
        has_failed = socket.name in tried
        tried.add(socket.name)
        return self._call(socket.token, socket.region), has_failed

    def lived(self, *, token: str, region: str) -> Call:
        """Forgive all attempts of a region."""
        self._tried.pop((token, region), None)
        return self._call(token, region)

    def _call(self, token: str, region: str) -> Call:
        return Call(
            service=Service.STREAM,
            method="socket",
            token=token,
            region=region,
            caller=f"socket-{next(self._numbers)}",
        )
