"""The sandbox's own HTTP API: make accounts, change and read the truth, switch faults.

Everything lies under /control/ and answers only to this machine. Amounts are decimal texts: what
is compared with a ledger must not pass through a double.
"""

from collections.abc import Callable, Mapping

from aiohttp import web

from brokerd.domain import DealId
from brokerd.errors import NotFound
from brokerd.sandbox import control_requests as requests
from brokerd.sandbox import control_views as views
from brokerd.sandbox.accounts import make_accounts
from brokerd.sandbox.control_http import ControlHandler, answer_with, body_of, guarded
from brokerd.sandbox.facts import Booking
from brokerd.sandbox.faults import AnyFault, FaultKind, Faults, StagedFault
from brokerd.sandbox.market import Market
from brokerd.sandbox.truth import Broker, TruthAccount

SocketDropper = Callable[[requests.DropSockets], int]
"""Cuts the sockets that are asked for and returns how many it cut."""

_ACCOUNT = "/control/accounts/{account_id}"


class Control:
    """The handlers of the control API."""

    def __init__(
        self,
        broker: Broker,
        *,
        market: Market,
        faults: Faults,
        opened: Mapping[str, int],
        drop_sockets: SocketDropper,
    ) -> None:
        self._broker = broker
        self._market = market
        self._faults = faults
        self._opened = opened
        self._drop_sockets = drop_sockets

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the API."""
        handlers: tuple[tuple[str, str, ControlHandler], ...] = (
            ("POST", "/control/accounts", self.make_accounts),
            ("GET", "/control/accounts", self.list_accounts),
            ("GET", _ACCOUNT, self.read_account),
            ("GET", f"{_ACCOUNT}/truth", self.read_truth),
            ("POST", f"{_ACCOUNT}/trade", self.trade),
            ("POST", f"{_ACCOUNT}/deals", self.place_deal),
            ("PATCH", f"{_ACCOUNT}/deals/{{deal_id}}", self.amend_deal),
            ("DELETE", f"{_ACCOUNT}/deals/{{deal_id}}", self.delete_deal),
            ("PUT", f"{_ACCOUNT}/state", self.set_state),
            ("PUT", f"{_ACCOUNT}/connection", self.set_connection),
            ("GET", "/control/market", self.read_market),
            ("PATCH", "/control/market", self.set_market),
            ("GET", "/control/faults", self.list_faults),
            ("PUT", "/control/faults/{kind}", self.switch_on),
            ("DELETE", "/control/faults/{kind}", self.switch_off),
            ("DELETE", "/control/faults", self.switch_off_all),
            ("GET", "/control/sessions", self.list_sessions),
            ("POST", "/control/sockets/drop", self.drop_sockets),
        )
        return [web.route(method, path, guarded(h)) for method, path, h in handlers]

    async def make_accounts(self, request: web.Request) -> web.Response:
        """Open accounts with a past; answer with them."""
        wanted = await body_of(request, requests.MakeAccounts)
        made = make_accounts(wanted.mix(), broker=self._broker, market=self._market)
        return answer_with([views.account_view(account) for account in made], status=201)

    async def list_accounts(self, _request: web.Request) -> web.Response:
        """Answer with every account."""
        return answer_with([views.account_view(a) for a in self._broker.accounts.values()])

    async def read_account(self, request: web.Request) -> web.Response:
        """Answer with one account."""
        return answer_with(views.account_view(self._account(request)))

    async def read_truth(self, request: web.Request) -> web.Response:
        """Answer with every deal of an account as the broker knows it."""
        return answer_with(views.truth_view(self._account(request)))

    async def trade(self, request: web.Request) -> web.Response:
        """Let at least so many deals happen to an account at once."""
        wanted = await body_of(request, requests.Trade)
        made = self._market.trade(self._account(request), deals=wanted.deals)
        return answer_with(views.Traded(deals=made))

    async def place_deal(self, request: web.Request) -> web.Response:
        """Book one deal, back-dated and quiet where asked."""
        account = self._account(request)
        wanted = await body_of(request, requests.PlaceDeal)
        deal = requests.placed_deal(wanted, account=account, now=self._broker.now())
        book = account.book_quietly if wanted.is_quiet else account.book
        book(Booking(deals=(deal,)))
        return answer_with(views.deal_view(deal), status=201)

    async def amend_deal(self, request: web.Request) -> web.Response:
        """Change a deal quietly."""
        account = self._account(request)
        wanted = await body_of(request, requests.AmendDeal)
        amended = account.amend(_deal_id(request), wanted.amendment())
        return answer_with(views.deal_view(amended))

    async def delete_deal(self, request: web.Request) -> web.Response:
        """Remove a deal quietly."""
        removed = self._account(request).delete(_deal_id(request))
        return answer_with(views.deal_view(removed))

    async def set_state(self, request: web.Request) -> web.Response:
        """Set the deployment state at once."""
        account = self._account(request)
        account.set_state((await body_of(request, requests.SetState)).state)
        return answer_with(views.account_view(account))

    async def set_connection(self, request: web.Request) -> web.Response:
        """Set whether the terminal is connected."""
        account = self._account(request)
        account.set_connection((await body_of(request, requests.SetConnection)).status)
        return answer_with(views.account_view(account))

    async def read_market(self, _request: web.Request) -> web.Response:
        """Answer with rate and rest."""
        return answer_with(self._market_view())

    async def set_market(self, request: web.Request) -> web.Response:
        """Change the rate, freeze or resume; frozen, nothing is traded once this has answered."""
        wanted = await body_of(request, requests.SetMarket)
        if wanted.deals_per_account_minute is not None:
            self._market.set_rate(wanted.deals_per_account_minute)
        if wanted.is_frozen is not None:
            (self._market.freeze if wanted.is_frozen else self._market.resume)()
        return answer_with(self._market_view())

    async def list_faults(self, _request: web.Request) -> web.Response:
        """Answer with the faults that are on, and how often each kind struck since the start."""
        return answer_with(views.faults_view(self._faults))

    async def switch_on(self, request: web.Request) -> web.Response:
        """Switch a fault on, in place of an earlier one of its kind."""
        kind = _kind(request)
        wanted = await body_of(request, requests.SwitchOn)
        for account_id in wanted.account_ids or ():
            self._broker.account(account_id)
        self._faults.switch_on(wanted.fault(kind))
        return answer_with(views.faults_view(self._faults))

    async def switch_off(self, request: web.Request) -> web.Response:
        """Switch one fault off."""
        self._faults.switch_off(_kind(request))
        return answer_with(views.faults_view(self._faults))

    async def switch_off_all(self, _request: web.Request) -> web.Response:
        """Switch every fault off."""
        self._faults.switch_off_all()
        return answer_with(views.faults_view(self._faults))

    async def list_sessions(self, _request: web.Request) -> web.Response:
        """Answer with how many streams each account's clients began."""
        return answer_with(views.SessionsView(opened=dict(self._opened)))

    async def drop_sockets(self, request: web.Request) -> web.Response:
        """Cut sockets now, and count each as the fault that does so."""
        wanted = await body_of(request, requests.DropSockets)
        dropped = self._drop_sockets(wanted)
        is_idle = wanted.instance_index == 1
        kind = FaultKind.DROP_IDLE_SOCKETS if is_idle else FaultKind.DROP_SOCKETS
        for _ in range(dropped):
            self._faults.count(kind)
        return answer_with(views.Dropped(sockets=dropped))

    def _account(self, request: web.Request) -> TruthAccount:
        return self._broker.account(request.match_info["account_id"])

    def _market_view(self) -> views.MarketView:
        rate = self._market.deals_per_account_minute
        return views.MarketView(deals_per_account_minute=rate, is_frozen=self._market.is_frozen)


def _deal_id(request: web.Request) -> DealId:
    return DealId(request.match_info["deal_id"])


def _kind(request: web.Request) -> AnyFault:
    name = request.match_info["kind"]
    known: dict[str, AnyFault] = {kind.value: kind for kind in (*FaultKind, *StagedFault)}
    if name not in known:
        raise NotFound(f"no fault {name}; there are {', '.join(known)}")
    return known[name]
