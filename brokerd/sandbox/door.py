"""The stream's door: who may open a socket, whether it is upgraded, where its requests go."""

import msgspec

from brokerd.sandbox.eio_socket import Socket
from brokerd.sandbox.faults import FaultKind
from brokerd.sandbox.state import MetaApiState
from brokerd.sandbox.stream import StreamService

_UNAUTHORIZED = 401
_FORBIDDEN = 403
_UNAVAILABLE = 503


class Door:
    """Lets sockets in, and hands what they say to the stream service."""

    def __init__(self, stream: StreamService, *, state: MetaApiState) -> None:
        self._stream = stream
        self._state = state

    def turn_away(self, token: str, *, region: str | None) -> int | None:
        """Accept the tokens that open the REST services too, while their region is up.

        A client that does not show its region is turned away when all its accounts' are down.
        """
        user = self._state.users.of_token(token)
        if user is None:
            return _UNAUTHORIZED
        if user.is_forbidden:
            return _FORBIDDEN
        down = set(self._state.conditions.down_regions)
        regions = {a.spec.region for a in self._state.provisioner.accounts(user)}
        is_down = region in down if region is not None else bool(regions) and regions <= down
        return _UNAVAILABLE if is_down else None

    def may_upgrade(self, _socket: Socket) -> bool:
        """Answer the probe unless the fault that stalls upgrades strikes."""
        return self._state.faults.strike(FaultKind.STALL_UPGRADE) is None

    def received(self, socket: Socket, *, event: str, body: msgspec.Raw) -> None:
        """Pass requests on; clients send nothing else."""
        if event == "request":
            self._stream.received(socket, body)

    def closed(self, socket: Socket) -> None:
        """Forget the socket's subscriptions."""
        self._stream.closed(socket)
