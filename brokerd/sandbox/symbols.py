"""Where trade servers come from: their symbols and the prices these start at."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from itertools import islice, permutations
from random import Random

from brokerd.domain import Platform
from brokerd.sandbox.facts import SymbolSpec
from brokerd.sandbox.trading import TradeServer
from brokerd.sandbox.truth import Broker

_CURRENCIES = (
    *("EUR", "GBP", "AUD", "USD", "CAD", "CHF", "JPY", "NZD"),
    *("NOK", "SEK", "DKK", "PLN", "SGD", "HKD", "ZAR", "MXN"),
)
_YEN_DIGITS = 3
_DIGITS = 5
_PRICE_STEP_SHARE = 0.0004
"""How far a price goes in one step: one standard deviation, as a share of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """What a trade server is made with; at most 240 symbols."""

    name: str = "Sandbox-Demo"
    platform: Platform = Platform.MT5
    symbols: int = 20
    utc_offset: timedelta = timedelta(hours=2)


def open_server(broker: Broker, spec: ServerSpec) -> TradeServer:
    """Open a trade server, with prices and tickets from the broker's randomness."""
    pairs = islice(permutations(_CURRENCIES, 2), spec.symbols)
    specs = {base + quote: _symbol(base, quote) for base, quote in pairs}
    return broker.add_server(
        TradeServer(
            name=spec.name,
            platform=spec.platform,
            specs=specs,
            prices={s.symbol: _first_price(s, broker.random) for s in specs.values()},
            utc_offset=spec.utc_offset,
            next_number=broker.random.randrange(100_000_000, 900_000_000),
        )
    )


def move_price(server: TradeServer, symbol: str, random: Random) -> Decimal:
    """Let a price take one random step; return it."""
    tick = server.specs[symbol].tick_size
    step = Decimal(random.gauss(0.0, _PRICE_STEP_SHARE))
    price = (server.prices[symbol] * (1 + step)).quantize(tick)
    server.prices[symbol] = max(price, tick)
    return server.prices[symbol]


def _symbol(base: str, quote: str) -> SymbolSpec:
    is_yen = quote == "JPY"
    return SymbolSpec(
        symbol=base + quote,
        description=f"{base} vs {quote}",
        digits=_YEN_DIGITS if is_yen else _DIGITS,
        contract_size=Decimal(1_000 if is_yen else 100_000),  # the account's currency is both's
    )


def _first_price(spec: SymbolSpec, random: Random) -> Decimal:
    middle = 120.0 if spec.digits == _YEN_DIGITS else 1.1
    return Decimal(middle * random.uniform(0.7, 1.3)).quantize(spec.tick_size)
