"""Keeps a stream from being opened where nothing can come of it, and tells what lived."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from brokerd.connector.governor.ports import Call, Service
from brokerd.connector.ports import Connected, RemoteAccount, Session, StreamEvent, StreamPort
from brokerd.domain import MetaApiRef


class StreamGate(Protocol):
    """What the governor says of sessions."""

    def check(self, call: Call) -> None:
        """Raise `Held` while the call is broken."""

    def note_life(self, *, token: str, region: str) -> None:
        """Note that a terminal spoke on a socket of the region."""


class GovernedStream:
    """A `StreamPort` that opens nothing while token, balance or the region's sockets are broken."""

    def __init__(self, stream: StreamPort, *, gate: StreamGate) -> None:
        self._stream = stream
        self._gate = gate

    async def open(
        self, remote: MetaApiRef, *, account: RemoteAccount, synced_through: datetime
    ) -> "GovernedSession":
        """Open the session; raises `Held`. See `StreamPort`."""
        self._gate.check(
            Call(
                service=Service.STREAM,
                method="session",
                token=remote.token,
                region=remote.region,
                account_id=remote.account_id,
            )
        )
        session = await self._stream.open(remote, account=account, synced_through=synced_through)
        return GovernedSession(session, remote=remote, gate=self._gate)


class GovernedSession:
    """A `Session` whose terminals, when they answer, prove that the region's sockets work."""

    def __init__(self, session: Session, *, remote: MetaApiRef, gate: StreamGate) -> None:
        self._session = session
        self._remote = remote
        self._gate = gate

    async def receive(self) -> Sequence[StreamEvent]:
        """Wait for events; see `Session`."""
        events = await self._session.receive()
        if any(isinstance(event, Connected) for event in events):
            self._gate.note_life(token=self._remote.token, region=self._remote.region)
        return events

    def acknowledge(self, through: datetime) -> None:
        """Note that the ledger is durable through that time."""
        self._session.acknowledge(through)

    async def close(self) -> None:
        """Leave in bounded time; never raises."""
        await self._session.close()
