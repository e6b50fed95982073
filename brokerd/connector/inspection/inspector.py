"""Looks at MetaApi with a token, reading only, and says how it differs from what we know of it.

Nothing is created, deployed or changed. Each check stands by itself: one that fails says why, and
those that would need what it finds are not made.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from brokerd.clock import Clock
from brokerd.config.settings import GovernorSettings
from brokerd.connector.governor.credits import limits_of
from brokerd.connector.governor.ports import Gate, Service
from brokerd.connector.governor.quotas import quotas_of, usages_of
from brokerd.connector.governor.scopes import ScopeKind
from brokerd.connector.inspection import shapes
from brokerd.connector.inspection.ports import AccountQuestion, RawReader, TokenQuestion
from brokerd.connector.inspection.report import Finding, Verdict
from brokerd.domain import MetaApiRef
from brokerd.errors import BrokerdError

PAGE_SPAN = timedelta(days=90)
CLOCK_SECONDS = 2.0
"""What clocks may differ by that are kept right."""

Look = Callable[[], Awaitable[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionPorts:
    """What a look is made with."""

    raw: RawReader
    gate: Gate
    clock: Clock
    settings: GovernorSettings


async def tried(check: str, look: Look) -> Finding:
    """Make one check; what it raises of our tree is its finding."""
    try:
        return await look()
    except BrokerdError as error:
        return Finding(check=check, verdict=Verdict.FAILED, seen=f"{error.code}: {error}")


class TokenInspector:
    """What a token opens, and which of its accounts can be looked at."""

    def __init__(self, token: str, *, ports: InspectionPorts) -> None:
        self._token = token
        self._ports = ports
        self.accounts: Sequence[Mapping[str, object]] = ()

    async def look(self) -> Sequence[Finding]:
        """Make every check of the token."""
        return [
            await tried("token", self._read_accounts),
            await tried("discovery", self._discovery),
            await tried("regions", self._regions),
            await tried("quotas", self._quotas),
            await tried("clock", self._clock),
        ]

    def choose(self, account_id: str | None) -> MetaApiRef | None:
        """Return the account of that id, or the first that is up; None when there is none."""
        for record in self.accounts:
            found, region = record.get("_id"), record.get("region")
            is_up = (record.get("state"), record.get("connectionStatus")) == (
                "DEPLOYED",
                "CONNECTED",
            )
            is_it = found == account_id if account_id is not None else is_up
            if is_it and isinstance(found, str) and isinstance(region, str):
                return MetaApiRef(token=self._token, account_id=found, region=region)
        return None

    @property
    def deployed(self) -> int:
        """Return how many of the accounts that were listed are deployed."""
        return sum(record.get("state") == "DEPLOYED" for record in self.accounts)

    async def _read_accounts(self) -> Finding:
        answer = await self._ports.raw.of_token(TokenQuestion.ACCOUNTS, self._token)
        if isinstance(answer, list):
            self.accounts = [record for record in answer if isinstance(record, Mapping)]
        found = shaped("token", answer, shapes.ACCOUNT, known="a plain array of accounts")
        listed = f"{len(self.accounts)} accounts, {self.deployed} deployed"
        return Finding(
            check="token", verdict=found.verdict, seen=f"{listed}; {found.seen}", known=found.known
        )

    async def _discovery(self) -> Finding:
        answer = await self._ports.raw.of_token(TokenQuestion.DISCOVERY, self._token)
        return shaped("discovery", answer, shapes.DISCOVERY, known="url, hostname and domain")

    async def _regions(self) -> Finding:
        answer = await self._ports.raw.of_token(TokenQuestion.REGIONS, self._token)
        known = "a plain array of names"
        if not isinstance(answer, list) or not all(isinstance(each, str) for each in answer):
            return Finding(
                check="regions", verdict=Verdict.DIFFERS, seen=_kind(answer), known=known
            )
        seen = ", ".join(str(each)[:64] for each in answer[:20])
        return Finding(check="regions", verdict=Verdict.AS_KNOWN, seen=seen, known=known)

    async def _quotas(self) -> Finding:
        answer = await self._ports.raw.of_token(TokenQuestion.QUOTAS, self._token)
        found = shaped("quotas", answer, shapes.QUOTA, known="an array by region, each a quota")
        told = ", ".join(
            f"{each.region} {each.deployed} deployed of {each.accounts} accounts"
            for each in quotas_of(answer)
        )
        return Finding(
            check="quotas",
            verdict=found.verdict,
            seen=f"{told or 'nothing that we can read'}; {found.seen}",
            known=found.known,
        )

    async def _clock(self) -> Finding:
        ahead = self._ports.gate.server_now(Service.PROVISIONING) - self._ports.clock.now()
        seconds = ahead.total_seconds()
        is_close = abs(seconds) <= CLOCK_SECONDS
        return Finding(
            check="clock",
            verdict=Verdict.AS_KNOWN if is_close else Verdict.DIFFERS,
            seen=f"MetaApi's clock is {seconds:+.1f} s from ours",
            known=f"within {CLOCK_SECONDS:g} s",
        )


class AccountInspector:
    """What MetaApi says of one account."""

    def __init__(self, remote: MetaApiRef, *, deployed: int, ports: InspectionPorts) -> None:
        self._remote = remote
        self._deployed = deployed
        self._ports = ports

    async def look(self) -> Sequence[Finding]:
        """Make every check of the account."""
        return [
            await tried("account", self._record),
            await tried("account information", self._information),
            await tried("history page", self._page),
            await tried("server time", self._server_time),
            await tried("credits", self._credits),
        ]

    async def _record(self) -> Finding:
        answer = await self._ask(AccountQuestion.RECORD)
        found = shaped("account", answer, shapes.ACCOUNT, known="as in the list")
        told = _told(answer, "state", "connectionStatus", "region", "reliability", "type")
        return Finding(
            check="account", verdict=found.verdict, seen=f"{told}; {found.seen}", known=found.known
        )

    async def _information(self) -> Finding:
        answer = await self._ask(AccountQuestion.INFORMATION)
        found = shaped(
            "account information", answer, shapes.INFORMATION, known="with currencyDigits"
        )
        told = _told(answer, "platform", "currency", "currencyDigits", "marginMode", "type")
        has_digits = shapes.has_keys(answer, ("currencyDigits",))
        return Finding(
            check="account information",
            verdict=found.verdict if has_digits else Verdict.DIFFERS,
            seen=f"{told}; {found.seen}",
            known=found.known,
        )

    async def _page(self) -> Finding:
        now = self._ports.clock.now()
        answer = await self._ports.raw.deals(self._remote, start=now - PAGE_SPAN, end=now)
        known = "a plain array, oldest first"
        found = shaped("history page", answer, shapes.DEAL, known=known)
        times = list(_times(answer))
        is_ordered = times == sorted(times)
        order = "oldest first" if is_ordered else "in no order of time"
        return Finding(
            check="history page",
            verdict=found.verdict if is_ordered else Verdict.DIFFERS,
            seen=f"{found.seen}; {order}",
            known=known,
        )

    async def _server_time(self) -> Finding:
        answer = await self._ask(AccountQuestion.SERVER_TIME)
        found = shaped("server time", answer, shapes.SERVER_TIME, known="at …/server-time")
        return Finding(
            check="server time",
            verdict=found.verdict,
            seen=f"{_told(answer, 'time', 'brokerTime')}; {found.seen}",
            known=found.known,
        )

    async def _credits(self) -> Finding:
        usages = usages_of(await self._ask(AccountQuestion.CREDITS))
        stated = {(each.scope, each.period_seconds): each.total for each in usages}
        kept = {
            (kind.value, limit.period_seconds): limit.units
            for kind in (ScopeKind.USER, ScopeKind.SERVER, ScopeKind.ACCOUNT)
            for limit in limits_of(kind, settings=self._ports.settings, accounts=self._deployed)
        }
        return Finding(
            check="credits",
            verdict=Verdict.AS_KNOWN if stated == kept else Verdict.DIFFERS,
            seen=_limits(stated) or "nothing that we can read",
            known=f"as configured: {_limits(kept)}",
        )

    async def _ask(self, question: AccountQuestion) -> object:
        return await self._ports.raw.of_account(question, self._remote)


def shaped(check: str, answer: object, shape: shapes.Shape, *, known: str) -> Finding:
    """Compare an answer with the fields that we know of."""
    found = shapes.compare(answer, shape)
    if found is None:
        return Finding(check=check, verdict=Verdict.DIFFERS, seen=_kind(answer), known=known)
    verdict = Verdict.AS_KNOWN if found.is_as_known else Verdict.DIFFERS
    return Finding(check=check, verdict=verdict, seen=str(found), known=known)


def _kind(answer: object) -> str:
    """Name what an answer is, and the members of an object, but none of its values."""
    if isinstance(answer, Mapping):
        return f"an object of {', '.join(sorted(map(str, answer))[:20])}"
    return f"a {type(answer).__name__}"


def _told(answer: object, *names: str) -> str:
    if not isinstance(answer, Mapping):
        return ""
    return ", ".join(f"{name} {str(answer[name])[:64]}" for name in names if name in answer)


def _times(answer: object) -> Iterator[str]:
    for record in answer if isinstance(answer, list) else ():
        time = record.get("time") if isinstance(record, Mapping) else None
        if isinstance(time, str):
            yield time


def _limits(limits: Mapping[tuple[str, float], float]) -> str:
    return ", ".join(
        f"{scope} {total:g}/{seconds:g}s" for (scope, seconds), total in sorted(limits.items())
    )
