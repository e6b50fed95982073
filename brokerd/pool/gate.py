"""Keeps a frozen node from opening anything: its leases may already be somebody else's."""

from datetime import datetime

from brokerd.connector.ports import RemoteAccount, Session, StreamPort
from brokerd.domain import MetaApiRef
from brokerd.errors import LinkLost
from brokerd.pool.heartbeat import Heartbeat


class GatedStream:
    """A `StreamPort` that opens only while this node's heartbeat is confirmed."""

    def __init__(self, stream: StreamPort, *, heartbeat: Heartbeat) -> None:
        self._stream = stream
        self._heartbeat = heartbeat

    async def open(
        self, remote: MetaApiRef, *, account: RemoteAccount, synced_through: datetime
    ) -> Session:
        """Open the session; raises `LinkLost` while the node is frozen."""
        self._require_confirmed()
        session = await self._stream.open(remote, account=account, synced_through=synced_through)
        try:
            self._require_confirmed()  # its turn may have come late
        except LinkLost:
            await session.close()
            raise
        return session

    def _require_confirmed(self) -> None:
        if self._heartbeat.is_frozen:
            raise LinkLost("this node has no confirmed heartbeat and opens nothing until it has")
