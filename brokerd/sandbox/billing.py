"""MetaApi's billing service over REST: what is left of the money (metaapi.md 1.1)."""

from aiohttp import web

from brokerd.sandbox.rest_gate import USER, Gate, Service
from brokerd.sandbox.state import MetaApiState


class Billing:
    """The service's handlers."""

    def __init__(self, state: MetaApiState, *, gate: Gate) -> None:
        self._provisioner = state.provisioner
        self._gate = gate

    def routes(self) -> list[web.RouteDef]:
        """Return the service's routes."""
        balance = self._gate.guard(self.balance, service=Service.BILLING)
        return [web.get("/users/current/balance", balance)]

    async def balance(self, request: web.Request) -> web.Response:
        """Answer with the balance; trial and advance amounts are not imitated."""
        amount = float(self._provisioner.balance(request[USER]))
        return web.json_response({"amount": amount, "trialAmount": 0, "advanceAmount": 0})
