"""The stream's door: who may open a socket, whether it is upgraded, where its requests go."""

import msgspec

from brokerd.sandbox.eio_socket import Socket
from brokerd.sandbox.faults import FaultKind, Faults
from brokerd.sandbox.stream import StreamService
from brokerd.sandbox.users import Users


class Door:
    """Lets sockets in, and hands what they say to the stream service."""

    def __init__(self, stream: StreamService, *, faults: Faults, users: Users) -> None:
        self._stream = stream
        self._faults = faults
        self._users = users

    def is_authorized(self, token: str) -> bool:
        """Accept the tokens that open the REST services too."""
        return self._users.of_token(token) is not None

    def may_upgrade(self, _socket: Socket) -> bool:
        """Answer the probe unless the fault that stalls upgrades strikes."""
        return self._faults.strike(FaultKind.STALL_UPGRADE) is None

    def received(self, socket: Socket, *, event: str, body: msgspec.Raw) -> None:
        """Pass requests on; clients send nothing else."""
        if event == "request":
            self._stream.received(socket, body)

    def closed(self, socket: Socket) -> None:
        """Forget the socket's subscriptions."""
        self._stream.closed(socket)
