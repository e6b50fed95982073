"""Who listens to what: the streams of every socket and of every account."""

from collections.abc import Iterator

from brokerd.sandbox.eio_socket import Socket
from brokerd.sandbox.terminal import Stream


class Registry:
    """The open streams, found by account or by socket."""

    def __init__(self) -> None:
        self._by_account: dict[str, list[Stream]] = {}
        self._by_socket: dict[Socket, dict[tuple[str, int], Stream]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_socket.values()))

    def add(self, stream: Stream) -> None:
        """Take in a stream; its socket has none for the same instance yet."""
        streams = self._by_socket.setdefault(stream.socket, {})
        assert (stream.account_id, stream.instance_index) not in streams
        streams[stream.account_id, stream.instance_index] = stream
        self._by_account.setdefault(stream.account_id, []).append(stream)

    def find(self, socket: Socket, account_id: str, instance_index: int) -> Stream | None:
        """Return the socket's stream of an instance."""
        return self._by_socket.get(socket, {}).get((account_id, instance_index))

    def of_account(self, account_id: str) -> tuple[Stream, ...]:
        """Return the account's streams that carry packets."""
        streams = self._by_account.get(account_id, ())
        return tuple(stream for stream in streams if not stream.is_idle)

    def forget(self, account_id: str) -> None:
        """Forget all streams of an account, those that carry nothing among them."""
        for stream in list(self._by_account.get(account_id, ())):
            self.remove(stream)

    def of_owner(self, owner: str) -> tuple[Stream, ...]:
        """Return the streams of a user's accounts that carry packets."""
        return tuple(
            stream
            for streams in self._by_account.values()
            for stream in streams
            if stream.owner == owner and not stream.is_idle
        )

    def sockets(self) -> Iterator[tuple[Socket, tuple[Stream, ...]]]:
        """Yield the sockets that anyone subscribed on, with their streams."""
        for socket, streams in list(self._by_socket.items()):
            yield socket, tuple(streams.values())

    def of_socket(self, socket: Socket) -> tuple[Stream, ...]:
        """Return the socket's streams."""
        return tuple(self._by_socket.get(socket, {}).values())

    def remove(self, stream: Stream) -> None:
        """Forget a stream."""
        stream.is_over = True
        streams = self._by_socket.get(stream.socket, {})
        streams.pop((stream.account_id, stream.instance_index), None)
        if not streams:
            self._by_socket.pop(stream.socket, None)
        of_account = self._by_account.get(stream.account_id, [])
        if stream in of_account:
            of_account.remove(stream)
        if not of_account:
            self._by_account.pop(stream.account_id, None)

    def remove_socket(self, socket: Socket) -> None:
        """Forget a socket and all its streams."""
        for stream in self.of_socket(socket):
            self.remove(stream)
