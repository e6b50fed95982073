"""Answers to the requests that read an account over the socket (metaapi.md 5.3)."""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from brokerd.sandbox import terminals, wire
from brokerd.sandbox.requests import Request, RequestRefused
from brokerd.sandbox.truth import TruthAccount

ACKNOWLEDGED = frozenset(
    {
        "refreshMarketDataSubscriptions",
        "subscribeToMarketData",
        "unsubscribeFromMarketData",
        "waitSynchronized",
        "saveUptime",
        "removeApplication",
    }
)
"""Requests that a terminal answers at once, with nothing in the answer."""

_TRADE_DISABLED = 10017

Fields = dict[str, object]


def answer(account: TruthAccount, request: Request, *, now: datetime) -> Fields:
    """Return what the account's terminal answers; raises `RequestRefused`."""
    if request.type in ACKNOWLEDGED:
        return {}
    if request.type.startswith("getDealsBy"):
        return _deals(account, request)
    if request.type.startswith("getHistoryOrdersBy"):
        return _history_orders(account, request)
    if request.symbol:
        return _of_symbol(account, request, now=now)
    return _state(account, request, now=now)


def _state(account: TruthAccount, request: Request, *, now: datetime) -> Fields:
    match request.type:
        case "getAccountInformation":
            return {"accountInformation": msgspec.Raw(wire.account_information(account))}
        case "getPositions":
            return {"positions": _raw(terminals.positions(account))}
        case "getPosition":
            if request.position_id not in account.positions:
                raise RequestRefused("NotFoundError", f"No position {request.position_id}")
            record = account.positions[request.position_id]
            return {"position": msgspec.Raw(wire.position(record, account=account))}
        case "getOrders":
            return {"orders": []}
        case "getSymbols" | "refreshTerminalState":
            return {"symbols": list(account.server.specs)}
        case "getServerTime":
            local = wire.broker_time(now, utc_offset=account.server.utc_offset)
            return {"serverTime": {"time": wire.iso_time(now), "brokerTime": local}}
        case "trade":
            raise RequestRefused(
                "TradeError", "Trade is disabled in the sandbox", numeric_code=_TRADE_DISABLED
            )
    raise RequestRefused("ValidationError", f"The sandbox knows no request {request.type}")


def _of_symbol(account: TruthAccount, request: Request, *, now: datetime) -> Fields:
    if request.symbol not in account.server.specs:
        raise RequestRefused("NotFoundError", f"No symbol {request.symbol}")
    if request.type == "getSymbolSpecification":
        spec = account.server.specs[request.symbol]
        return {"specification": msgspec.Raw(wire.specification(spec))}
    if request.type == "getSymbolPrice":
        price = wire.price(request.symbol, server=account.server, now=now)
        return {"price": msgspec.Raw(price)}
    raise RequestRefused("ValidationError", f"The sandbox knows no request {request.type}")


def _deals(account: TruthAccount, request: Request) -> Fields:
    deals = account.deals(start=request.start_time, end=request.end_time)
    chosen = [deal for deal in deals if _is_meant(request, deal.ticket, deal.position_id)]
    page = _raw(wire.deal(deal, server=account.server) for deal in chosen[_page(request)])
    return {"deals": page, "synchronizing": False}


def _history_orders(account: TruthAccount, request: Request) -> Fields:
    orders = account.orders(start=request.start_time, end=request.end_time)
    chosen = [order for order in orders if _is_meant(request, order.order_id, order.position_id)]
    page = _raw(wire.order(order, server=account.server) for order in chosen[_page(request)])
    return {"historyOrders": page, "synchronizing": False}


def _is_meant(request: Request, ticket: str, position_id: str | None) -> bool:
    if request.ticket:
        return ticket == request.ticket
    return not request.position_id or position_id == request.position_id


def _page(request: Request) -> slice:
    return slice(request.offset, request.offset + request.limit)


def _raw(items: Iterable[bytes]) -> list[msgspec.Raw]:
    return [msgspec.Raw(item) for item in items]
