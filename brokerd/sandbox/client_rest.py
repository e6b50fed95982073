"""MetaApi's client service over REST: account state and history of a deployed, connected account.

History answers are plain arrays (metaapi.md 7). While the `synchronizing` fault strikes they are
objects instead that say so, and hold only the older half of what was asked for.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import web

from brokerd.errors import NotConnected, NotFound
from brokerd.sandbox import wire
from brokerd.sandbox.credits import Call
from brokerd.sandbox.facts import TruthDeal, TruthOrder
from brokerd.sandbox.faults import FaultKind
from brokerd.sandbox.rest_gate import (
    ITEMS,
    USER,
    Gate,
    Handler,
    Service,
    json_answer,
    json_array,
    moment,
)
from brokerd.sandbox.state import MetaApiState
from brokerd.sandbox.truth import TruthAccount

_MAX_PAGE = 1000
_ACCOUNT = "/users/current/accounts/{account_id}"

HASHING_IGNORED_FIELDS = {
    "g1": {
        "specification": ["description", "expirationTime", "initialMargin"],
        "position": ["time", "updateTime", "comment"],
        "order": ["time", "expirationTime", "comment"],
    },
    "g2": {
        "specification": ["pipSize", "description"],
        "position": [
            *("comment", "brokerComment", "originalComment", "clientId", "profit"),
            *("realizedProfit", "unrealizedProfit", "currentPrice", "currentTickValue"),
            *("accountCurrencyExchangeRate", "updateSequenceNumber"),
        ],
        "order": [
            *("comment", "brokerComment", "originalComment", "clientId", "currentPrice"),
            *("accountCurrencyExchangeRate", "updateSequenceNumber"),
        ],
    },
}
"""Which fields neither side hashes, per terminal generation."""

_NumberOfPage = Annotated[int, msgspec.Meta(ge=0)]
_SizeOfPage = Annotated[int, msgspec.Meta(ge=1, le=_MAX_PAGE)]


class _Page(msgspec.Struct):
    """The query of a history request."""

    offset: _NumberOfPage = 0
    limit: _SizeOfPage = _MAX_PAGE


class ClientRest:
    """The service's handlers."""

    def __init__(self, state: MetaApiState, *, gate: Gate) -> None:
        self._state = state
        self._broker = state.broker
        self._faults = state.faults
        self._gate = gate

    def routes(self) -> list[web.RouteDef]:
        """Return the service's routes."""
        handlers: tuple[tuple[str, str, Handler], ...] = (
            ("account-information", "getAccountInformation", self.account_information),
            ("positions", "getPositions", self.positions),
            ("positions/{position_id}", "getPosition", self.position),
            ("orders", "getOrders", self.pending_orders),
            ("history-deals/time/{start}/{end}", "getDealsByTimeRange", self.deals_by_time),
            ("history-deals/ticket/{ticket}", "getDealsByTicket", self.deals_by_ticket),
            ("history-deals/position/{position_id}", "getDealsByPosition", self.deals_by_position),
            (
                "history-orders/time/{start}/{end}",
                "getHistoryOrdersByTimeRange",
                self.orders_by_time,
            ),
            ("history-orders/ticket/{ticket}", "getHistoryOrdersByTicket", self.orders_by_ticket),
            (
                "history-orders/position/{position_id}",
                "getHistoryOrdersByPosition",
                self.orders_by_position,
            ),
            ("server-time", "getServerTime", self.server_time),
        )
        guard, service = self._gate.guard, Service.CLIENT
        fields = guard(self.hashing_ignored_fields, service=service)
        usage = guard(self.credit_usage, service=service)
        return [
            web.get("/hashing-ignored-field-lists", fields),
            web.get(f"{_ACCOUNT}/credits", usage),
            *(
                web.get(f"{_ACCOUNT}/{path}", guard(handler, service=service, method=method))
                for path, method, handler in handlers
            ),
        ]

    async def account_information(self, request: web.Request) -> web.Response:
        """Answer with balance, credit, equity and the account's modes."""
        return json_answer(wire.account_information(self._account(request)))

    async def positions(self, request: web.Request) -> web.Response:
        """Answer with the open positions."""
        account = self._account(request)
        items = [wire.position(held, account=account) for held in account.positions.values()]
        return json_answer(json_array(items))

    async def position(self, request: web.Request) -> web.Response:
        """Answer with one open position."""
        account = self._account(request)
        held = account.positions.get(request.match_info["position_id"])
        if held is None:
            raise NotFound("Position not found")
        return json_answer(wire.position(held, account=account))

    async def pending_orders(self, request: web.Request) -> web.Response:
        """Answer with no orders: every order is executed as it is placed."""
        self._account(request)
        return json_answer(b"[]")

    async def deals_by_time(self, request: web.Request) -> web.Response:
        """Answer with a page of the deals with start <= time < end."""
        account, page = self._account(request), _page(request)
        start, end = _span(request)
        if self._is_partial(account):
            partial = account.deals(start=start, end=end)
            return self._partial_deals(account, partial)
        deals = account.deals(start=start, end=end, offset=page.offset, limit=page.limit)
        request[ITEMS] = len(deals)
        return json_answer(json_array(_deals(account, deals)))

    async def deals_by_ticket(self, request: web.Request) -> web.Response:
        """Answer with the deals under one ticket."""
        ticket = request.match_info["ticket"]
        return self._chosen_deals(request, lambda deal: deal.ticket == ticket)

    async def deals_by_position(self, request: web.Request) -> web.Response:
        """Answer with the deals of one position."""
        position_id = request.match_info["position_id"]
        return self._chosen_deals(request, lambda deal: deal.position_id == position_id)

    async def orders_by_time(self, request: web.Request) -> web.Response:
        """Answer with a page of the orders completed in start <= time < end."""
        account, page = self._account(request), _page(request)
        start, end = _span(request)
        if self._is_partial(account):
            return self._partial_orders(account, account.orders(start=start, end=end))
        orders = account.orders(start=start, end=end, offset=page.offset, limit=page.limit)
        request[ITEMS] = len(orders)
        return json_answer(json_array(_orders(account, orders)))

    async def orders_by_ticket(self, request: web.Request) -> web.Response:
        """Answer with one completed order."""
        ticket = request.match_info["ticket"]
        return self._chosen_orders(request, lambda order: order.order_id == ticket)

    async def orders_by_position(self, request: web.Request) -> web.Response:
        """Answer with the completed orders of one position."""
        position_id = request.match_info["position_id"]
        return self._chosen_orders(request, lambda order: order.position_id == position_id)

    async def server_time(self, request: web.Request) -> web.Response:
        """Answer with the broker's clock and with ours."""
        account, now = self._account(request), self._broker.now()
        local = wire.broker_time(now, utc_offset=account.server.utc_offset)
        return web.json_response({"time": wire.iso_time(now), "brokerTime": local})

    async def credit_usage(self, request: web.Request) -> web.Response:
        """Answer with the CPU credits in the way of a call for this account, and what is left."""
        call = Call(
            method="credits",
            owner=request[USER].name,
            account_id=self._broker.account(request.match_info["account_id"]).metaapi_id,
            server=request.headers.get("client-id", ""),
        )
        return web.json_response(self._state.credits.usage(call))

    async def hashing_ignored_fields(self, _request: web.Request) -> web.Response:
        """Answer with the fields that neither side hashes."""
        return web.json_response(HASHING_IGNORED_FIELDS)

    def _account(self, request: web.Request) -> TruthAccount:
        account = self._broker.account(request.match_info["account_id"])
        if not account.is_reachable:
            raise NotConnected(
                f"It seems like the account {account.metaapi_id} is not connected to broker yet"
                " or request URL you use does not match the account region"
            )
        return account

    def _is_partial(self, account: TruthAccount) -> bool:
        struck = self._faults.strike(FaultKind.SYNCHRONIZING, account_id=account.metaapi_id)
        return struck is not None

    def _chosen_deals(
        self, request: web.Request, is_chosen: Callable[[TruthDeal], bool]
    ) -> web.Response:
        account = self._account(request)
        deals = [deal for deal in account.deals() if is_chosen(deal)]
        if self._is_partial(account):
            return self._partial_deals(account, deals)
        return json_answer(json_array(_deals(account, deals)))

    def _chosen_orders(
        self, request: web.Request, is_chosen: Callable[[TruthOrder], bool]
    ) -> web.Response:
        account = self._account(request)
        orders = [order for order in account.orders() if is_chosen(order)]
        if self._is_partial(account):
            return self._partial_orders(account, orders)
        return json_answer(json_array(_orders(account, orders)))

    def _partial_deals(self, account: TruthAccount, deals: list[TruthDeal]) -> web.Response:
        half = json_array(_deals(account, deals[: min(_MAX_PAGE, len(deals) // 2)]))
        return json_answer(b'{"deals":' + half + b',"synchronizing":true}')

    def _partial_orders(self, account: TruthAccount, orders: list[TruthOrder]) -> web.Response:
        half = json_array(_orders(account, orders[: min(_MAX_PAGE, len(orders) // 2)]))
        return json_answer(b'{"historyOrders":' + half + b',"synchronizing":true}')


def _page(request: web.Request) -> _Page:
    return msgspec.convert(dict(request.query), _Page, strict=False)


def _span(request: web.Request) -> tuple[datetime, datetime]:
    info = request.match_info
    return moment(info["start"], name="startTime"), moment(info["end"], name="endTime")


def _deals(account: TruthAccount, deals: list[TruthDeal]) -> list[bytes]:
    return [wire.deal(deal, server=account.server) for deal in deals]


def _orders(account: TruthAccount, orders: list[TruthOrder]) -> list[bytes]:
    return [wire.order(order, server=account.server) for order in orders]
