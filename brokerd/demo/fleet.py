"""The demo's accounts and their links, as a platform's backend would drive them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from brokerd.api.bodies import (
    MAX_PAGE,
    DesiredWord,
    IdentityBody,
    LinkBody,
    LinksBody,
    MetaApiBody,
    PutBody,
    SpecBody,
)
from brokerd.demo.control import SandboxControl
from brokerd.demo.talk import talk
from brokerd.domain import Platform
from brokerd.sandbox.control_requests import MakeAccounts
from brokerd.sandbox.control_views import AccountView

_CONCURRENT_CALLS = 8
_NETTING_SHARE = 0.2
_HIGH_PART, _MT4_PART = 5, 6  # one account in so many


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An account of the demo and the link registered for it."""

    link_id: str
    account: AccountView


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What the daemon's metrics say of its work so far."""

    deals_inserted: float
    deals_by_stream: float
    deals_by_pull: float
    commits: float
    commit_seconds: float


async def open_members(control: SandboxControl, *, count: int, random: Random) -> list[Member]:
    """Open a mix of accounts.

    The first has two terminals, so that at least one such link gets a slot; the rest is shuffled.
    """
    high, mt4 = max(1, count // _HIGH_PART), count // _MT4_PART
    accounts: list[AccountView] = []
    for wanted in (
        MakeAccounts(count=high, high_share=1.0, netting_share=_NETTING_SHARE),
        MakeAccounts(count=count - high - mt4, netting_share=_NETTING_SHARE),
        MakeAccounts(count=mt4, platform=Platform.MT4),
    ):
        if wanted.count:
            accounts += await control.make_accounts(wanted)
    first, rest = accounts[0], accounts[1:]
    random.shuffle(rest)
    return [
        Member(link_id=f"demo-{number:04}", account=account)
        for number, account in enumerate((first, *rest), start=1)
    ]


class Fleet:
    """A client of the daemon's control API; raises `EngineFailed` when it does not answer."""

    def __init__(self, http: httpx.AsyncClient, *, members: Sequence[Member]) -> None:
        self._http = http
        self.members = {member.link_id: member for member in members}

    async def register(self) -> None:
        """Ask for every link to be live, the first one first."""
        first, *rest = self.members
        await self._want(first, DesiredWord.LIVE)
        await self._want_all(rest, DesiredWord.LIVE)

    async def pause(self, link_ids: Sequence[str]) -> None:
        """Ask links to give their slots back."""
        await self._want_all(link_ids, DesiredWord.PAUSED)

    async def links(self) -> list[LinkBody]:
        """Read the status of every link."""
        links: list[LinkBody] = []
        path = f"/v1/links?limit={MAX_PAGE}"
        after = ""
        while True:
            said = await talk(self._http, "GET", path + after)
            page = msgspec.json.decode(said.content, type=LinksBody)
            links += page.items
            if page.next is None:
                return links
            after = f"&after={page.next}"

    async def gauges(self) -> Gauges:
        """Read the metrics."""
        text = (await talk(self._http, "GET", "/metrics")).text
        values = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        return Gauges(
            deals_inserted=values["brokerd_deals_committed_total", "inserted"],
            deals_by_stream=values["brokerd_deals_received_total", "stream"],
            deals_by_pull=sum(
                values["brokerd_deals_received_total", path] for path in ("pull", "audit")
            ),
            commits=values["brokerd_deal_commit_latency_seconds_count",],
            commit_seconds=values["brokerd_deal_commit_latency_seconds_sum",],
        )

    async def _want_all(self, link_ids: Sequence[str], desired: DesiredWord) -> None:
        for start in range(0, len(link_ids), _CONCURRENT_CALLS):
            async with asyncio.TaskGroup() as group:
                for link_id in link_ids[start : start + _CONCURRENT_CALLS]:
                    group.create_task(self._want(link_id, desired), name=f"put:{link_id}")

    async def _want(self, link_id: str, desired: DesiredWord) -> None:
        body = PutBody(spec=_spec(self.members[link_id], desired))
        await talk(self._http, "PUT", f"/v1/links/{link_id}", content=msgspec.json.encode(body))


def _spec(member: Member, desired: DesiredWord) -> SpecBody:
    account = member.account
    return SpecBody(
        user_id=f"user-of-{member.link_id}",
        desired=desired,
        metaapi=MetaApiBody(token="main", account_id=account.account_id, region=account.region),  # noqa: S106  # a configured name
        identity=IdentityBody(
            platform=account.platform,
            login=account.login,
            server=account.server,
            currency=account.currency,
        ),
    )
