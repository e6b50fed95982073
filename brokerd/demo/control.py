"""The demo's hand on the sandbox: accounts, market, faults, truth."""

from typing import TypeVar

import httpx
import msgspec

from brokerd.demo.talk import talk
from brokerd.sandbox.control_requests import MakeAccounts, SetMarket, SwitchOn
from brokerd.sandbox.control_views import AccountView, FaultsView, SessionsView, TruthView
from brokerd.sandbox.faults import FaultKind

_T = TypeVar("_T")


class SandboxControl:
    """A client of the sandbox's control API; raises `EngineFailed` when it does not answer."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def make_accounts(self, wanted: MakeAccounts) -> list[AccountView]:
        """Open accounts."""
        return await self._ask("POST", "accounts", wanted, answer=list[AccountView])

    async def truth(self, account_id: str) -> TruthView:
        """Read every deal of an account as the broker knows it."""
        return await self._ask("GET", f"accounts/{account_id}/truth", answer=TruthView)

    async def trade(self, *, deals_per_minute: float) -> None:
        """Let every account trade at this rate from now on."""
        market = SetMarket(deals_per_account_minute=deals_per_minute)
        await self._ask("PATCH", "market", market, answer=object)

    async def freeze(self) -> None:
        """Stop all trading; nothing is traded once this returned."""
        await self._ask("PATCH", "market", SetMarket(is_frozen=True), answer=object)

    async def switch_on(self, kind: FaultKind, fault: SwitchOn) -> None:
        """Switch a fault on."""
        await self._ask("PUT", f"faults/{kind}", fault, answer=FaultsView)

    async def switch_off(self, kind: FaultKind) -> None:
        """Switch a fault off."""
        await self._ask("DELETE", f"faults/{kind}", answer=FaultsView)

    async def switch_off_all(self) -> None:
        """Switch all faults off."""
        await self._ask("DELETE", "faults", answer=FaultsView)

    async def injected(self) -> dict[FaultKind, int]:
        """Return how often each kind of fault struck so far."""
        return (await self._ask("GET", "faults", answer=FaultsView)).injected

    async def sessions(self) -> dict[str, int]:
        """Return how many streams each account's clients began so far."""
        return (await self._ask("GET", "sessions", answer=SessionsView)).opened

    async def _ask(self, method: str, path: str, body: object = None, *, answer: type[_T]) -> _T:
        content = b"" if body is None else msgspec.json.encode(body)
        said = await talk(self._http, method, f"/control/{path}", content=content)
        return msgspec.json.decode(said.content, type=answer)
