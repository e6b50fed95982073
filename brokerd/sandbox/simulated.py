"""MetaApi in process: the sandbox's truth behind the connector's ports, for virtual time.

No sockets, no SDK, no tasks. Of the faults it knows delay, throttle (both kinds), server error,
synchronizing, mute, stop status, lose and duplicate packets; `is_down`, `drop` and `kill` stand for
the network.
"""

import asyncio
from datetime import datetime

from brokerd.connector.ports import PAGE_LIMIT, AccountInformation, DealsPage, RemoteAccount
from brokerd.domain import DealId, MetaApiRef, Platform
from brokerd.errors import (
    Forbidden,
    NotConnected,
    NotFound,
    RemoteUnavailable,
    Throttled,
    Unauthorized,
)
from brokerd.sandbox.credits import Call
from brokerd.sandbox.facts import TruthDeal
from brokerd.sandbox.faults import FaultKind, Faults
from brokerd.sandbox.refusals import Refused
from brokerd.sandbox.simulated_session import (
    SimulatedNetwork,
    SimulatedSession,
    SimulatedSettings,
    domain_amount,
    domain_deal,
)
from brokerd.sandbox.state import MetaApiState, ServiceSettings
from brokerd.sandbox.truth import Broker, Change, TruthAccount
from brokerd.sandbox.users import TopUp, User


class SimulatedMetaApi:
    """Both ports over one broker.

    `is_down`: nothing answers, and sessions that are dropped do not come back.
    `is_token_revoked`: every request and every new session of the first user is refused. Accounts
    belong to users, and a link's token is the name of one. `state` is what the sandbox's services
    share; `simulated_provisioning` asks it as a client would.
    """

    def __init__(
        self, broker: Broker, *, faults: Faults, settings: SimulatedSettings | None = None
    ) -> None:
        self.broker = broker
        self.faults = faults
        self.settings = settings or SimulatedSettings()
        service = ServiceSettings(
            token="simulated",  # noqa: S106  # users are known by name here
            rules=self.settings.rules,
        )
        self.state = MetaApiState(broker, faults=faults, settings=service)
        self.users = self.state.users
        self._network = SimulatedNetwork(
            clock=broker.clock,
            faults=faults,
            settings=self.settings,
            conditions=self.state.conditions,
        )
        self._sessions: dict[str, list[SimulatedSession]] = {}
        broker.listen(self._changed)

    @property
    def is_down(self) -> bool:
        """Say whether the whole service is away."""
        return self._network.is_down

    @is_down.setter
    def is_down(self, is_down: bool) -> None:
        self._network.is_down = is_down
        if is_down:
            for account_id in self._sessions:
                self.drop(account_id)

    @property
    def is_token_revoked(self) -> bool:
        """Say whether the token of the first user is known no longer."""
        return self.users.default.is_revoked

    @is_token_revoked.setter
    def is_token_revoked(self, is_revoked: bool) -> None:
        self.users.default.is_revoked = is_revoked

    @property
    def open_sessions(self) -> int:
        """Return how many sessions are open: a closed link must leave none."""
        return sum(len(sessions) for sessions in self._sessions.values())

    def drop(self, account_id: str) -> None:
        """Interrupt the account's sessions; they come back by themselves, as the SDK's do."""
        for session in self._sessions.get(account_id, ()):
            session.interrupt()

    def kill(self, account_id: str) -> None:
        """Break the account's sessions beyond repair."""
        for session in self._sessions.get(account_id, ()):
            session.kill()

    async def account(self, remote: MetaApiRef) -> RemoteAccount:
        """Read the account's deployment state."""
        await self.admit(remote.token, account_id=remote.account_id)
        return remote_account(self._account(remote))

    async def account_information(self, remote: MetaApiRef) -> AccountInformation:
        """Read who is connected and the account's balance and credit now."""
        account = await self._asked(remote, "getAccountInformation")
        is_mt5 = account.platform is Platform.MT5
        mode = "HEDGING" if account.spec.is_hedging else "NETTING"
        return AccountInformation(
            platform=account.platform,
            login=account.login,
            server=account.server.name,
            currency=account.spec.currency,
            balance=domain_amount(account.balance),
            credit=domain_amount(account.credit),
            margin_mode=f"ACCOUNT_MARGIN_MODE_RETAIL_{mode}" if is_mt5 else None,
            trade_mode="ACCOUNT_TRADE_MODE_DEMO",
            currency_digits=2,
        )

    async def deals(
        self, remote: MetaApiRef, *, start: datetime, end: datetime, offset: int
    ) -> DealsPage:
        """Read one page of the deals with start <= time < end."""
        account = await self._asked(remote, "getDealsByTimeRange")
        if self._is_synchronizing(account):
            return _partial(account, account.deals(start=start, end=end))
        deals = account.deals(start=start, end=end, offset=offset, limit=PAGE_LIMIT)
        self.state.credits.spend_on_items(_call(account, "getDealsByTimeRange"), items=len(deals))
        return _page(account, deals)

    async def deals_by_ticket(self, remote: MetaApiRef, *, deal_id: DealId) -> DealsPage:
        """Read the deals the broker holds under one ticket."""
        account = await self._asked(remote, "getDealsByTicket")
        ticket = deal_id.partition(":")[0]
        deals = [deal for deal in account.deals() if deal.ticket == ticket]
        is_partial = self._is_synchronizing(account)
        return _partial(account, deals) if is_partial else _page(account, deals)

    async def open(
        self, remote: MetaApiRef, *, account: RemoteAccount, synced_through: datetime
    ) -> SimulatedSession:
        """Open the session; it stays silent until the account's terminal is up."""
        del account  # both terminals of a reliable one tell the same
        self._refuse(remote.token)
        truth = self._account(remote)
        session = SimulatedSession(
            self._network, account=truth, synced_through=synced_through, left=self._left
        )
        self._sessions.setdefault(truth.metaapi_id, []).append(session)
        return session

    def _left(self, session: SimulatedSession) -> None:
        sessions = self._sessions.get(session.account.metaapi_id, [])
        if session in sessions:
            sessions.remove(session)

    def _changed(self, change: Change) -> None:
        for session in self._sessions.get(change.account.metaapi_id, ()):
            session.changed(change)

    def _is_synchronizing(self, account: TruthAccount) -> bool:
        struck = self.faults.strike(FaultKind.SYNCHRONIZING, account_id=account.metaapi_id)
        return struck is not None

    def user(self, token: str) -> User:
        """Return whose token it is: links name it, and whatever else they call it is the first's.

        Raises what a client is answered that may not ask.
        """
        named = {user.name: user for user in self.users.all}
        user = named.get(token, self.users.default)
        if user.is_revoked:
            raise Unauthorized("the simulated MetaApi does not know the token")
        if user.is_forbidden:
            raise Forbidden("the simulated MetaApi forbids it")
        return user

    async def admit(self, token: str, *, account_id: str | None = None) -> User:
        """Let a request in, or what the faults and the network make of it."""
        delay = self.faults.strike(FaultKind.DELAY, account_id=account_id)
        await asyncio.sleep(self.settings.rest_seconds if delay is None else delay.seconds)
        user = self._refuse(token)
        if self.faults.strike(FaultKind.SERVER_ERROR, account_id=account_id) is not None:
            raise RemoteUnavailable("the simulated MetaApi failed")
        throttle = self.faults.strike(FaultKind.THROTTLE, account_id=account_id)
        if throttle is not None:
            wait_seconds = max(1.0, throttle.seconds)
            raise Throttled("too many requests", retry_after_seconds=wait_seconds, scope="user")
        if self.faults.strike(FaultKind.THROTTLE_BARE, account_id=account_id) is not None:
            raise Throttled("too many requests", retry_after_seconds=1.0)
        if user.top_up is TopUp.ALL:
            raise Forbidden(str(self.state.provisioner.top_up_refusal()))
        return user

    async def _asked(self, remote: MetaApiRef, method: str) -> TruthAccount:
        """Let a client's request in; return the account that it is for."""
        await self.admit(remote.token, account_id=remote.account_id)
        account = self._account(remote)
        if account.spec.region in self.state.conditions.down_regions:
            raise RemoteUnavailable(f"region {account.spec.region} is down")
        try:
            self.state.credits.spend(_call(account, method))
        except Refused as refused:
            raise self._throttled(refused) from None
        if not account.is_reachable:
            raise NotConnected(f"account {remote.account_id} is not connected to its broker yet")
        return account

    def _throttled(self, refused: Refused) -> Throttled:
        assert refused.hint is not None
        wait = (refused.hint.retry_at - self.broker.now()).total_seconds()
        scope = str(refused.hint.metadata["exceededConfig"]).removeprefix("per").lower()
        return Throttled(str(refused), retry_after_seconds=max(1.0, wait), scope=scope)

    def _account(self, remote: MetaApiRef) -> TruthAccount:
        account = self.broker.account(remote.account_id)
        if account.owner != self.user(remote.token).name:
            raise NotFound(f"no account {remote.account_id}")
        return account

    def _refuse(self, token: str) -> User:
        if self._network.is_down:
            raise RemoteUnavailable("the simulated MetaApi is down")
        return self.user(token)


def _call(account: TruthAccount, method: str) -> Call:
    return Call(method=method, owner=account.owner, account_id=account.metaapi_id, server="")


def remote_account(account: TruthAccount) -> RemoteAccount:
    """Return the account as a client reads it."""
    return RemoteAccount(
        account_id=account.metaapi_id,
        state=account.state,
        connection_status=account.connection_status,
        platform=account.platform,
        login=account.login,
        server=account.server.name,
        region=account.spec.region,
        reliability=account.spec.reliability,
    )


def _page(account: TruthAccount, deals: list[TruthDeal]) -> DealsPage:
    read = tuple(domain_deal(deal, server=account.server) for deal in deals)
    return DealsPage(deals=read, is_synchronizing=False)


def _partial(account: TruthAccount, deals: list[TruthDeal]) -> DealsPage:
    half = deals[: min(PAGE_LIMIT, len(deals) // 2)]
    read = tuple(domain_deal(deal, server=account.server) for deal in half)
    return DealsPage(deals=read, is_synchronizing=True)
