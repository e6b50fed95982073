"""Keeps a frozen node from opening or buying anything: its leases may be somebody else's."""

from collections.abc import Sequence
from datetime import datetime

from brokerd.config.settings import Secret
from brokerd.connector.ports import RemoteAccount, Session, StreamPort
from brokerd.connector.provisioning.ports import Created, NewAccount, Pending, ProvisioningPort
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
        require_confirmed(self._heartbeat)
        session = await self._stream.open(remote, account=account, synced_through=synced_through)
        try:
            require_confirmed(self._heartbeat)  # its turn may have come late
        except LinkLost:
            await session.close()
            raise
        return session


class GatedProvisioning:
    """A `ProvisioningPort` that changes something only while the heartbeat is confirmed."""

    def __init__(self, provisioning: ProvisioningPort, *, heartbeat: Heartbeat) -> None:
        self._provisioning = provisioning
        self._heartbeat = heartbeat

    async def accounts(
        self, token: str, *, login: str | None = None, states: Sequence[str] = ()
    ) -> Sequence[RemoteAccount]:
        """List accounts; a frozen node may look."""
        return await self._provisioning.accounts(token, login=login, states=states)

    async def create(
        self, token: str, account: NewAccount, *, transaction_id: str
    ) -> Created | Pending:
        """Create an account."""
        require_confirmed(self._heartbeat)
        return await self._provisioning.create(token, account, transaction_id=transaction_id)

    async def update(self, remote: MetaApiRef, *, password: Secret) -> None:
        """Give the account another password."""
        require_confirmed(self._heartbeat)
        await self._provisioning.update(remote, password=password)

    async def deploy(self, remote: MetaApiRef) -> None:
        """Start the account's terminal."""
        require_confirmed(self._heartbeat)
        await self._provisioning.deploy(remote)

    async def undeploy(self, remote: MetaApiRef) -> None:
        """Stop the account's terminal."""
        require_confirmed(self._heartbeat)
        await self._provisioning.undeploy(remote)

    async def delete(self, remote: MetaApiRef) -> None:
        """Remove the account."""
        require_confirmed(self._heartbeat)
        await self._provisioning.delete(remote)


def require_confirmed(heartbeat: Heartbeat) -> None:
    """Raise `LinkLost` while the node is frozen."""
    if heartbeat.is_frozen:
        raise LinkLost("this node has no confirmed heartbeat and opens nothing until it has")
