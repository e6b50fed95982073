"""MetaApi's provisioning in process, for virtual time: the same rules as over REST.

Where MetaApi would refuse it raises `Refused`; where the request would not get so far, what
`SimulatedMetaApi` raises.
"""

from collections.abc import Callable
from decimal import Decimal

from brokerd.connector.ports import RemoteAccount
from brokerd.sandbox.orders import AccountUpdate, NewAccount
from brokerd.sandbox.provisioner import Accepted, Created
from brokerd.sandbox.simulated import SimulatedMetaApi, remote_account
from brokerd.sandbox.users import User

_MAX_PAGE = 1000


class SimulatedProvisioning:
    """The verbs; `token` is the name of a user, as in a link's spec."""

    def __init__(self, service: SimulatedMetaApi) -> None:
        self._service = service
        self._verbs = service.state.provisioner

    async def create(
        self, token: str, wanted: NewAccount, *, transaction_id: str
    ) -> Created | Accepted:
        """Add an account and deploy it, or hear that this takes longer."""
        user = await self._service.admit(token)
        return self._verbs.create(user, wanted, transaction_id=transaction_id)

    async def update(self, token: str, account_id: str, wanted: AccountUpdate) -> None:
        """Change what MetaApi was told."""
        user = await self._service.admit(token, account_id=account_id)
        self._verbs.update(user, account_id, wanted)

    async def deploy(self, token: str, account_id: str) -> None:
        """Begin to deploy."""
        await self._order(self._verbs.deploy, token, account_id)

    async def undeploy(self, token: str, account_id: str) -> None:
        """Begin to undeploy."""
        await self._order(self._verbs.undeploy, token, account_id)

    async def redeploy(self, token: str, account_id: str) -> None:
        """Begin to redeploy."""
        await self._order(self._verbs.redeploy, token, account_id)

    async def delete(self, token: str, account_id: str) -> None:
        """Remove the account."""
        await self._order(self._verbs.delete, token, account_id)

    async def accounts(
        self, token: str, *, offset: int = 0, limit: int = _MAX_PAGE
    ) -> list[RemoteAccount]:
        """Read one page of the user's accounts, oldest first."""
        user = await self._service.admit(token)
        page = self._verbs.accounts(user)[offset : offset + limit]
        return [remote_account(account) for account in page]

    async def balance(self, token: str) -> Decimal:
        """Read what is left of the money."""
        return self._verbs.balance(await self._service.admit(token))

    async def _order(self, verb: Callable[[User, str], None], token: str, account_id: str) -> None:
        verb(await self._service.admit(token, account_id=account_id), account_id)
