"""The ground truth: a seeded broker with trade servers, and the accounts that MetaApi has on it.

Everything else in the sandbox shows this truth, distorts it on purpose, or changes it through the
few methods here. Every change reaches the listeners at once, in order, as a `Change`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from random import Random
from uuid import UUID

from brokerd.clock import Clock
from brokerd.errors import NotFound
from brokerd.sandbox.facts import (
    Booking,
    ChangeKind,
    ConnectionStatus,
    ProvisioningState,
    SymbolSpec,
    TruthDeal,
    TruthOrder,
    TruthPosition,
    whole_ms,
)
from brokerd.sandbox.records import Access, Records
from brokerd.sandbox.trading import AccountSpec, TradeServer, TradingAccount

_S = ProvisioningState


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What just became true of an account."""

    account: "TruthAccount"
    kind: ChangeKind
    deals: tuple[TruthDeal, ...] = ()
    orders: tuple[TruthOrder, ...] = ()
    positions: tuple[TruthPosition, ...] = ()
    removed_position_ids: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()


ChangeListener = Callable[[Change], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosting:
    """What a client has set for its account at MetaApi, beside what `AccountSpec` says."""

    magic: int = 0
    manual_trades: bool = False
    quote_streaming_interval_in_seconds: float = 2.5
    tags: tuple[str, ...] = ()
    metadata: dict[str, object] = field(default_factory=dict)
    resource_slots: int = 1
    copy_factory_resource_slots: int = 1


class TruthAccount(TradingAccount):
    """One account at MetaApi, on a trading account of the broker.

    `password` is what MetaApi was told last, `moves_to` another trading account that it was told
    of; a terminal goes on with what it was started with.
    """

    def __init__(
        self,
        *,
        metaapi_id: str,
        trading: TradingAccount,
        spec: AccountSpec,
        created_at: datetime,
        tell: ChangeListener,
    ) -> None:
        super().__init__(spec=spec, records=trading.records)
        self.metaapi_id = metaapi_id
        self.created_at = created_at
        self.hosting = Hosting()
        self.state = spec.state
        self.password = trading.access.password
        is_up = spec.state is _S.DEPLOYED
        self.connection_status = (
            ConnectionStatus.CONNECTED if is_up else ConnectionStatus.DISCONNECTED
        )
        self._terminal_password = self.password
        self.moves_to: TradingAccount | None = None
        self._tell = tell
        self.records.listeners.append(self._heard)

    @property
    def owner(self) -> str:
        """Return the MetaApi user who holds the account."""
        return self.spec.owner

    @property
    def replicas(self) -> int:
        """Return how many terminals MetaApi runs for it."""
        return 2 if self.spec.reliability == "high" else 1

    @property
    def is_reachable(self) -> bool:
        """Say whether a terminal is up and logged in at the broker."""
        is_deployed = self.state is _S.DEPLOYED
        return is_deployed and self.connection_status is ConnectionStatus.CONNECTED

    @property
    def is_started(self) -> bool:
        """Say whether a terminal runs or is being started."""
        return self.state in (_S.DEPLOYING, _S.DEPLOYED)

    def set_state(self, state: ProvisioningState) -> None:
        """Move the deployment; the terminal goes up and down with it."""
        is_start = state is _S.DEPLOYING or (state is _S.DEPLOYED and not self.is_started)
        self.state = state
        if is_start:
            self._start_terminal()
        if state is _S.DEPLOYED:
            self.log_in()
        else:
            self.set_connection(ConnectionStatus.DISCONNECTED)

    def set_connection(self, status: ConnectionStatus) -> None:
        """Change whether the terminal runs and whether the broker let it in."""
        self.connection_status = status
        self._tell(Change(account=self, kind=ChangeKind.CONNECTION))

    def log_in(self) -> None:
        """Let the terminal try its broker, with the password that it has."""
        is_in = self.access.admits(self._terminal_password)
        self.set_connection(
            ConnectionStatus.CONNECTED if is_in else ConnectionStatus.DISCONNECTED_FROM_BROKER
        )

    def leave(self) -> None:
        """Show the broker's records no longer: MetaApi has forgotten the account."""
        self.records.listeners.remove(self._heard)

    def _start_terminal(self) -> None:
        self._terminal_password = self.password
        if self.moves_to is not None:
            self.leave()
            moved, self.moves_to = self.moves_to, None
            self.spec = replace(self.spec, server=moved.server)
            self.records = moved.records
            self.records.listeners.append(self._heard)

    def _heard(self, kind: ChangeKind, booking: Booking) -> None:
        if kind is not ChangeKind.ACCESS:
            self._tell(
                Change(
                    account=self,
                    kind=kind,
                    deals=booking.deals,
                    orders=booking.orders,
                    positions=booking.positions,
                    removed_position_ids=booking.removed_position_ids,
                )
            )
        elif self.state is _S.DEPLOYED:
            self.log_in()


class Broker:
    """All trade servers and logins behind one sandbox, and the accounts MetaApi has on them."""

    def __init__(self, *, clock: Clock, random: Random) -> None:
        self.clock = clock
        self.random = random
        self.servers: dict[str, TradeServer] = {}
        self.logins: dict[tuple[str, str], TradingAccount] = {}
        self.accounts: dict[str, TruthAccount] = {}
        self._listeners: list[ChangeListener] = []
        self._next_login = random.randrange(10_000_000, 20_000_000)

    def now(self) -> datetime:
        """Return the wall clock, cut to the wire's milliseconds."""
        return whole_ms(self.clock.now())

    def listen(self, listener: ChangeListener) -> None:
        """Call the listener at every change, after it became true; it must not wait or raise."""
        self._listeners.append(listener)

    def add_server(self, server: TradeServer) -> TradeServer:
        """Open a trade server."""
        self.servers[server.name] = server
        return server

    def change_symbol(self, server: TradeServer, spec: SymbolSpec) -> None:
        """Let a trade server say something else of a symbol; terminals learn it at once."""
        server.specs = {**server.specs, spec.symbol: spec}
        for account in self.accounts.values():
            if account.server is server:
                change = Change(account=account, kind=ChangeKind.SYMBOLS, symbols=(spec.symbol,))
                self._tell(change)

    def open_login(self, spec: AccountSpec) -> TradingAccount:
        """Open a trading account without deals, of which MetaApi knows nothing yet."""
        login, self._next_login = str(self._next_login), self._next_login + 1
        access = Access(password=f"trade-{login}", investor_password=f"read-{login}")
        trading = TradingAccount(spec=spec, records=Records(login=login, access=access))
        self.logins[spec.server.name, login] = trading
        return trading

    def add_account(self, spec: AccountSpec) -> TruthAccount:
        """Open an account without deals, at the broker and at MetaApi."""
        return self.host(self.open_login(spec), spec=spec)

    def host(self, trading: TradingAccount, *, spec: AccountSpec) -> TruthAccount:
        """Add one more account on a login to MetaApi."""
        account = TruthAccount(
            metaapi_id=str(UUID(int=self.random.getrandbits(128), version=4)),
            trading=trading,
            spec=spec,
            created_at=self.now(),
            tell=self._tell,
        )
        self.accounts[account.metaapi_id] = account
        self._tell(Change(account=account, kind=ChangeKind.ADDED))
        return account

    def forget(self, account: TruthAccount) -> None:
        """Remove an account from MetaApi; the broker keeps the login."""
        account.leave()
        del self.accounts[account.metaapi_id]
        self._tell(Change(account=account, kind=ChangeKind.REMOVED))

    def login(self, server: str, login: str) -> TradingAccount | None:
        """Return a trading account of the broker; None when it has no such login."""
        return self.logins.get((server, login))

    def deployed_count(self, owner: str) -> int:
        """Return how many accounts of a user run."""
        accounts = self.accounts.values()
        return sum(a.owner == owner and a.state is _S.DEPLOYED for a in accounts)

    def account(self, metaapi_id: str) -> TruthAccount:
        """Return an account by its MetaApi id; raises `NotFound`."""
        if metaapi_id not in self.accounts:
            raise NotFound(f"no account {metaapi_id}")
        return self.accounts[metaapi_id]

    def _tell(self, change: Change) -> None:
        for listener in self._listeners:
            listener(change)
