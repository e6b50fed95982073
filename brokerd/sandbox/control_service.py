"""The control of MetaApi itself: logins at the broker, users, rules, the bill.

Logins are trading accounts that MetaApi does not know yet, for clients to add; their passwords are
shown, for this is a sandbox. The verbs on accounts happen behind the clients' back.
"""

from collections.abc import Callable
from dataclasses import fields

from aiohttp import web
from msgspec import UNSET

from brokerd.errors import NotFound
from brokerd.sandbox import control_bodies as bodies
from brokerd.sandbox.accounts import open_logins
from brokerd.sandbox.conditions import Conditions
from brokerd.sandbox.control_http import ControlHandler, answer_with, body_of, guarded, patch_of
from brokerd.sandbox.control_requests import MakeAccounts
from brokerd.sandbox.limits import Limits
from brokerd.sandbox.market import Market
from brokerd.sandbox.rules import ProvisioningRules
from brokerd.sandbox.state import MetaApiState
from brokerd.sandbox.trading import TradingAccount
from brokerd.sandbox.users import User

_LOGIN = "/control/logins/{server}/{login}"
_USER = "/control/users/{name}"
_ACCOUNT = "/control/accounts/{account_id}"


class ServiceControl:
    """The handlers."""

    def __init__(self, state: MetaApiState, *, market: Market) -> None:
        self._state = state
        self._broker = state.broker
        self._users = state.users
        self._provisioner = state.provisioner
        self._market = market

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        verbs = self._provisioner
        handlers: tuple[tuple[str, str, ControlHandler], ...] = (
            ("POST", "/control/logins", self.open_logins),
            ("GET", "/control/logins", self.list_logins),
            ("PATCH", _LOGIN, self.change_login),
            ("POST", f"{_ACCOUNT}/deploy", self._order(verbs.deploy)),
            ("POST", f"{_ACCOUNT}/undeploy", self._order(verbs.undeploy)),
            ("POST", f"{_ACCOUNT}/redeploy", self._order(verbs.redeploy)),
            ("DELETE", _ACCOUNT, self._order(verbs.delete)),
            ("GET", "/control/users", self.list_users),
            ("PUT", _USER, self.add_user),
            ("PATCH", _USER, self.change_user),
            ("GET", "/control/rules", self.read_rules),
            ("PATCH", "/control/rules", self.change_rules),
            ("GET", "/control/limits", self.read_limits),
            ("PATCH", "/control/limits", self.change_limits),
            ("GET", "/control/conditions", self.read_conditions),
            ("PATCH", "/control/conditions", self.change_conditions),
            ("PATCH", "/control/servers/{server}/symbols/{symbol}", self.change_symbol),
            ("GET", "/control/bill", self.read_bill),
            ("POST", "/control/bill/clock", self.move_bill_clock),
            ("PATCH", "/control/bill/prices", self.change_prices),
        )
        return [web.route(method, path, guarded(h)) for method, path, h in handlers]

    async def open_logins(self, request: web.Request) -> web.Response:
        """Open trading accounts at the broker; answer with them and how to get in."""
        mix = (await body_of(request, MakeAccounts)).mix()
        opened = open_logins(mix, broker=self._broker, market=self._market)
        return answer_with([self._login_view(trading) for trading in opened], status=201)

    async def list_logins(self, _request: web.Request) -> web.Response:
        """Answer with every trading account of the broker."""
        return answer_with([self._login_view(t) for t in self._broker.logins.values()])

    async def change_login(self, request: web.Request) -> web.Response:
        """Change what the broker asks of whoever logs in."""
        server, login = request.match_info["server"], request.match_info["login"]
        trading = self._broker.login(server, login)
        if trading is None:
            raise NotFound(f"no login {login} at {server}")
        wanted = await body_of(request, bodies.ChangeLogin)
        if wanted.needed_slots is not None:
            trading.access.needed_slots = wanted.needed_slots
        if wanted.password is not None:
            trading.change_password(wanted.password)
        if wanted.trouble is not UNSET:
            trading.set_trouble(wanted.trouble)
        return answer_with(self._login_view(trading))

    async def list_users(self, _request: web.Request) -> web.Response:
        """Answer with the users of MetaApi."""
        return answer_with([self._user_view(user) for user in self._users.all])

    async def add_user(self, request: web.Request) -> web.Response:
        """Add a user, or give one another token."""
        name = request.match_info["name"]
        wanted = await body_of(request, bodies.AddUser)
        return answer_with(self._user_view(self._users.add(User(name=name, token=wanted.token))))

    async def change_user(self, request: web.Request) -> web.Response:
        """Change what a user may do and what is paid in."""
        user = self._users.get(request.match_info["name"])
        bodies.apply(await body_of(request, bodies.ChangeUser), user)
        return answer_with(self._user_view(user))

    async def read_rules(self, _request: web.Request) -> web.Response:
        """Answer with the rules of provisioning."""
        return answer_with(self._provisioner.rules)

    async def change_rules(self, request: web.Request) -> web.Response:
        """Change some of the rules."""
        return await _changed(request, self._provisioner.rules)

    async def read_limits(self, _request: web.Request) -> web.Response:
        """Answer with the limits that are on."""
        return answer_with(self._state.limits)

    async def change_limits(self, request: web.Request) -> web.Response:
        """Switch some of the limits on; null switches one off."""
        return await _changed(request, self._state.limits)

    async def read_conditions(self, _request: web.Request) -> web.Response:
        """Answer with the service's clock, its regions that are down, and other subscribers."""
        return answer_with(self._state.conditions)

    async def change_conditions(self, request: web.Request) -> web.Response:
        """Change some of them."""
        return await _changed(request, self._state.conditions)

    async def change_symbol(self, request: web.Request) -> web.Response:
        """Let a trade server say something else of a symbol: the hash of them all changes."""
        name, symbol = request.match_info["server"], request.match_info["symbol"]
        server = self._broker.servers.get(name)
        if server is None or symbol not in server.specs:
            raise NotFound(f"no symbol {symbol} at {name}")
        self._broker.change_symbol(server, await patch_of(request, server.specs[symbol]))
        return answer_with(server.specs[symbol])

    async def read_bill(self, request: web.Request) -> web.Response:
        """Answer with the bill of one user, or of all."""
        return answer_with(bodies.bill_view(self._state.bill, owner=request.query.get("owner")))

    async def move_bill_clock(self, request: web.Request) -> web.Response:
        """Let hours go by at once, or faster from now on; answer with the bill."""
        wanted = await body_of(request, bodies.MoveBillClock)
        bill = self._state.bill
        bill.clock.advance(wanted.advance_hours)
        if wanted.scale is not None:
            bill.clock.set_scale(wanted.scale)
        return answer_with(bodies.bill_view(bill, owner=None))

    async def change_prices(self, request: web.Request) -> web.Response:
        """Change some of the prices."""
        bill = self._state.bill
        bill.prices = await patch_of(request, bill.prices)
        return answer_with(bill.prices)

    def _order(self, verb: Callable[[User, str], None]) -> ControlHandler:
        """Return a handler that gives an order as if another program of the owner did."""

        async def order(request: web.Request) -> web.Response:
            account = self._broker.account(request.match_info["account_id"])
            verb(self._users.get(account.owner), account.metaapi_id)
            return answer_with(bodies.Ordered(state=account.state))

        return order

    def _login_view(self, trading: TradingAccount) -> bodies.LoginView:
        accounts = self._broker.accounts.values()
        ids = [a.metaapi_id for a in accounts if a.records is trading.records]
        return bodies.login_view(trading, account_ids=ids)

    def _user_view(self, user: User) -> bodies.UserView:
        return bodies.user_view(user, balance=self._provisioner.balance(user))


async def _changed(
    request: web.Request, current: ProvisioningRules | Limits | Conditions
) -> web.Response:
    """Change some fields of what the services share."""
    wanted = await patch_of(request, current)
    for field in fields(current):
        setattr(current, field.name, getattr(wanted, field.name))
    return answer_with(current)
