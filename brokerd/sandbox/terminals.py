"""What terminals show of the truth: snapshots for a synchronization, updates, quotes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from brokerd.sandbox import wire
from brokerd.sandbox.facts import SymbolSpec
from brokerd.sandbox.hashes import specifications_hash
from brokerd.sandbox.sync import Snapshot
from brokerd.sandbox.terminal import PacketFields
from brokerd.sandbox.trading import TradeServer
from brokerd.sandbox.truth import Change, TruthAccount

ACCOUNT_TYPE = "cloud-g2"
"""The generation of every terminal here; the hash depends on it."""


@dataclass(frozen=True, slots=True)
class _Specifications:
    specs: Mapping[str, SymbolSpec]
    items: tuple[bytes, ...]
    hash: str | None


class Terminals:
    """Renders accounts; a server's specifications are rendered and hashed when they change."""

    def __init__(self, *, ignored_fields: frozenset[str]) -> None:
        self._ignored_fields = ignored_fields
        self._specifications: dict[str, _Specifications] = {}

    def snapshot(
        self,
        account: TruthAccount,
        *,
        orders_from: datetime | None,
        deals_from: datetime | None,
    ) -> Snapshot:
        """Return what the account's terminal holds now; both starting times are inclusive."""
        server = account.server
        specifications = self.specifications(server)
        return Snapshot(
            account_information=wire.account_information(account),
            specifications=specifications.items,
            specifications_hash=specifications.hash,
            positions=positions(account),
            orders=(),
            history_orders=[
                wire.order(order, server=server) for order in account.orders(start=orders_from)
            ],
            deals=[wire.deal(deal, server=server) for deal in account.deals(start=deals_from)],
        )

    def specifications(self, server: TradeServer) -> _Specifications:
        """Return the server's specifications and their hash."""
        known = self._specifications.get(server.name)
        if known is None or known.specs is not server.specs:
            items = tuple(wire.specification(spec) for spec in server.specs.values())
            known = _Specifications(
                server.specs,
                items,
                specifications_hash(items, account_type=ACCOUNT_TYPE, ignored=self._ignored_fields),
            )
            self._specifications[server.name] = known
        return known


def positions(account: TruthAccount) -> list[bytes]:
    """Return the open positions at the present prices."""
    return [wire.position(record, account=account) for record in account.positions.values()]


def update(change: Change) -> PacketFields:
    """Return the fields of the `update` packet that shows a change."""
    account, server = change.account, change.account.server
    return {
        "accountInformation": msgspec.Raw(wire.account_information(account)),
        "updatedPositions": _raw(wire.position(p, account=account) for p in change.positions),
        "removedPositionIds": list(change.removed_position_ids),
        "historyOrders": _raw(wire.order(order, server=server) for order in change.orders),
        "deals": _raw(wire.deal(deal, server=server) for deal in change.deals),
    }


def quotes(account: TruthAccount, *, now: datetime) -> PacketFields | None:
    """Return the fields of a `prices` packet for the symbols of open positions; None without."""
    symbols = {position.symbol for position in account.positions.values()}
    if not symbols:
        return None
    equity, margin = account.equity, account.margin
    return {
        "prices": _raw(wire.price(s, server=account.server, now=now) for s in sorted(symbols)),
        "equity": float(equity),
        "margin": float(margin),
        "freeMargin": float(equity - margin),
        "marginLevel": float(equity / margin * 100) if margin else 0.0,
        "accountCurrencyExchangeRate": 1.0,
    }


def _raw(items: Iterable[bytes]) -> list[msgspec.Raw]:
    return [msgspec.Raw(item) for item in items]
