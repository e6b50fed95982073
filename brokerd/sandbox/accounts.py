"""Makes accounts by the dozen: the mix of kinds, their server, their past."""

from dataclasses import dataclass, field

from brokerd.domain import Platform
from brokerd.errors import InvalidRequest
from brokerd.sandbox.facts import DEFAULT_OWNER, ProvisioningState, Reliability
from brokerd.sandbox.habits import Past
from brokerd.sandbox.market import Market
from brokerd.sandbox.symbols import ServerSpec, open_server
from brokerd.sandbox.trading import AccountSpec, TradeServer, TradingAccount
from brokerd.sandbox.truth import Broker, TruthAccount

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Which accounts to make.

    Of `count`, `high_share` has two terminals and `netting_share` nets (two in a row
    alike, so that both kinds mix), spread evenly. Without
    `server` the first one of the platform serves, opened where there is none.
    """

    count: int = 1
    server: str | None = None
    platform: Platform = Platform.MT5
    currency: str = "USD"
    region: str = "new-york"
    state: ProvisioningState = ProvisioningState.DEPLOYED
    owner: str = DEFAULT_OWNER
    high_share: float = 0.0
    netting_share: float = 0.0
    past: Past = field(default_factory=Past)


def make_accounts(mix: Mix, *, broker: Broker, market: Market) -> list[TruthAccount]:
    """Open the accounts, at the broker and at MetaApi; raises `InvalidRequest`."""
    logins = open_logins(mix, broker=broker, market=market)
    return [broker.host(trading, spec=trading.spec) for trading in logins]


def open_logins(mix: Mix, *, broker: Broker, market: Market) -> list[TradingAccount]:
    """Open trading accounts, of which MetaApi knows nothing, and write their pasts; likewise."""
    if mix.platform is Platform.MT4 and mix.netting_share:
        raise InvalidRequest("MT4 accounts do not net")
    server = _server(mix, broker)
    if mix.past.positions > len(server.specs):
        raise InvalidRequest(f"{server.name} has {len(server.specs)} symbols for the positions")
    made = []
    for number in range(mix.count):
        trading = broker.open_login(_spec(mix, number=number, server=server))
        market.seed(trading, mix.past)
        made.append(trading)
    return made


def _spec(mix: Mix, *, number: int, server: TradeServer) -> AccountSpec:
    reliability: Reliability = "high" if _is_chosen(number, mix.high_share) else "regular"
    return AccountSpec(
        server=server,
        currency=mix.currency,
        region=mix.region,
        reliability=reliability,
        is_hedging=not _is_chosen(number // 2, mix.netting_share),
        state=mix.state,
        owner=mix.owner,
    )


def _is_chosen(number: int, share: float) -> bool:
    """Choose the share of the numbers, evenly: half of them is every other one."""
    return int((number + 1) * share + _ROUNDING) > int(number * share + _ROUNDING)


def _server(mix: Mix, broker: Broker) -> TradeServer:
    for server in broker.servers.values():
        if mix.server in (None, server.name) and server.platform is mix.platform:
            return server
    if mix.server in broker.servers:
        raise InvalidRequest(f"{mix.server} is not a server of {mix.platform}")
    name = mix.server or f"Sandbox-{mix.platform.upper()}"
    return open_server(broker, ServerSpec(name=name, platform=mix.platform))
