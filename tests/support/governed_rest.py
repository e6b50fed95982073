"""A `RestPort` behind a governor, as the HTTP client is, for links on virtual time."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from brokerd.clock import Clock
from brokerd.connector.governor.governor import Governor
from brokerd.connector.governor.ports import Call, Service
from brokerd.connector.ports import AccountInformation, DealsPage, RemoteAccount, RestPort
from brokerd.domain import DealId, MetaApiRef

T = TypeVar("T")


class GovernedRest:
    """Passes every call through the governor; `sent` are those it let out, with their times."""

    def __init__(self, rest: RestPort, *, governor: Governor, clock: Clock) -> None:
        self._rest = rest
        self._governor = governor
        self._clock = clock
        self.sent: list[tuple[float, str]] = []

    async def account(self, remote: MetaApiRef) -> RemoteAccount:
        """Read the account's record."""
        return await self._pass(remote, "account", lambda: self._rest.account(remote))

    async def account_information(self, remote: MetaApiRef) -> AccountInformation:
        """Read what the terminal shows."""

        def ask() -> Awaitable[AccountInformation]:
            return self._rest.account_information(remote)

        return await self._pass(remote, "account_information", ask)

    async def deals(
        self, remote: MetaApiRef, *, start: datetime, end: datetime, offset: int
    ) -> DealsPage:
        """Read a page of history."""

        def ask() -> Awaitable[DealsPage]:
            return self._rest.deals(remote, start=start, end=end, offset=offset)

        return await self._pass(remote, "deals", ask)

    async def deals_by_ticket(self, remote: MetaApiRef, *, deal_id: DealId) -> DealsPage:
        """Read the deals of a ticket."""

        def ask() -> Awaitable[DealsPage]:
            return self._rest.deals_by_ticket(remote, deal_id=deal_id)

        return await self._pass(remote, "deals_by_ticket", ask)

    async def _pass(self, remote: MetaApiRef, method: str, ask: Callable[[], Awaitable[T]]) -> T:
        is_record = method == "account"
        call = Call(
            service=Service.PROVISIONING if is_record else Service.CLIENT,
            method=method,
            token=remote.token,
            region=None if is_record else remote.region,
            account_id=remote.account_id,
        )
        async with self._governor.passing(call) as passage:
            self.sent.append((self._clock.monotonic(), method))
            try:
                return await ask()
            finally:
                now = self._clock.now()
                passage.note_date(None, sent_at=now, received_at=now)
